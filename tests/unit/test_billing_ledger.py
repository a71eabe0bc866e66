"""The ledger: any order, any repetition and any cut of batches keep the same rows."""

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.pool import StaticPool

from tidegate_billing import counters, database, ingest, invoice, ledger, pricebook
from tidegate_billing.links import EngineCounters, ModelPricing, Pricing, UsageBatch
from tidegate_billing.tables import EVENT, METADATA
from tidegate_billing.usage import Usage, attempt_day, attempt_month, uuid7

PRICING = Pricing(
    input_per_million="0.10", output_per_million="0.40", cached_input_per_million="0.02"
)
MODEL = ModelPricing(deployment="d/m", model="m", owner="team-a", pricing=PRICING)


def event(**values: object) -> Usage:
    base: dict[str, object] = {
        "attempt_id": uuid7(),
        "kind": "settlement",
        "request_id": "r",
        "tenant": "team-a",
        "project": "p",
        "key_id": "key_1",
        "model": "m",
        "deployment": "d/m",
        "endpoint": "chat",
        "started_at": 1,
        "replica": "e",
        "prompt_tokens": 5,
        "completion_tokens": 16,
        "outcome": "completed",
        "source": "engine",
        "billed": True,
        "price_version": 1,
    }
    return Usage(**{**base, **values})  # type: ignore[arg-type]


def fresh() -> Connection:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    METADATA.create_all(engine)
    connection = engine.connect()
    answers = pricebook.apply(connection, [MODEL], now=0).answers
    assert [answer.price_version for answer in answers] == [1]
    return connection


def close(connection: Connection) -> None:
    engine = connection.engine
    connection.close()
    engine.dispose()


@pytest.fixture
def connection() -> Iterator[Connection]:
    made = fresh()
    yield made
    close(made)


def put(connection: Connection, *events: Usage, first: int = 1, last: int = 0) -> ingest.Outcome:
    batch = UsageBatch(journal="j", first=first, last=last or first, events=list(events))
    return ingest.ingest(connection, batch, 0)


def rows(connection: Connection) -> list[tuple[object, ...]]:
    columns = [column for column in EVENT.c if column.name != "id"]
    return sorted(tuple(row) for row in connection.execute(select(*columns)))


COUNTS = st.lists(st.tuples(st.integers(0, 900), st.booleans()), min_size=1, max_size=12)


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(counts=COUNTS, data=st.data())
def test_replays_in_any_order_and_cut_change_nothing(
    counts: list[tuple[int, bool]], data: st.DataObject
) -> None:
    events = [event(completion_tokens=tokens, billed=billed) for tokens, billed in counts]
    once, replayed = fresh(), fresh()
    put(once, *events, last=len(events))
    again = data.draw(st.lists(st.sampled_from(events), max_size=12))
    shuffled = data.draw(st.permutations(events + again))
    while shuffled:
        cut = data.draw(st.integers(1, len(shuffled)))
        outcome = put(replayed, *shuffled[:cut], last=len(events))
        assert outcome.conflicts == outcome.malformed == ()
        shuffled = shuffled[cut:]
    assert rows(replayed) == rows(once)
    period = {"tenant": "team-a", "first": "2000-01-01", "last": "9999-12-31", "by": ["model"]}
    assert ledger.usage(replayed, **period) == ledger.usage(once, **period)  # type: ignore[arg-type]
    close(once)
    close(replayed)


def test_other_content_under_a_known_id_is_refused_and_the_rest_goes_in(
    connection: Connection,
) -> None:
    first, other = event(), event()
    put(connection, first)
    kept = rows(connection)
    altered = msgspec.structs.replace(first, completion_tokens=17)
    outcome = put(connection, altered, other, first=2, last=3)
    assert outcome.conflicts == (first.event_id,)
    assert (outcome.added, outcome.acked) == (1, 3)
    assert set(kept) < set(rows(connection))
    within = event()
    twice = put(connection, within, msgspec.structs.replace(within, reason="x"), first=4)
    assert twice.conflicts == (within.event_id,)


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempt_id": "a9f0c1de-0000-4000-8000-000000000000"},
        {"attempt_id": "x"},
        {"attempt_id": uuid7().upper().replace("0", "A")},
        {"prompt_tokens": -1},
        {"completion_tokens": 2**53 + 1},
    ],
)
def test_a_malformed_event_is_refused_alone(
    connection: Connection, wrong: dict[str, object]
) -> None:
    outcome = put(connection, event(**wrong), event(), last=2)
    assert (len(outcome.malformed), outcome.added, outcome.acked) == (1, 1, 2)


def test_a_gap_is_seen_and_what_came_is_kept(connection: Connection) -> None:
    assert put(connection, event(), first=1, last=3).gap == 0
    assert put(connection, event(), first=4, last=5).gap == 0
    outcome = put(connection, event(), first=9, last=9)
    assert (outcome.gap, outcome.acked, outcome.added) == (3, 9, 1)
    assert put(connection, first=2, last=4).acked == 9


def test_the_month_comes_from_the_id(connection: Connection) -> None:
    last_ms = 1_772_323_199_999  # 2026-02-28T23:59:59.999Z
    february, march = uuid7(last_ms * 10**6), uuid7((last_ms + 1) * 10**6)
    assert attempt_month(february) == "2026-02"
    assert attempt_day(march) == "2026-03-01"
    put(connection, event(attempt_id=february, started_at=2**50, finished_at=2**50))
    found = connection.execute(select(EVENT.c.attempt_month, EVENT.c.day)).one()
    assert tuple(found) == ("2026-02", "2026-02-28")


def test_money_is_told_three_ways_and_is_the_same(connection: Connection) -> None:
    put(
        connection,
        event(cached_tokens=2, cached_known=True),
        event(cached_tokens=2, cached_known=False),
        event(billed=False, reason="probe", price_version=0),
        last=3,
    )
    which = ledger.EventFilter()
    events = ledger.events(connection, which, limit=10, after=None)
    assert events is not None
    # 3 x 0.1 + 2 x 0.02 + 16 x 0.4 and 5 x 0.1 + 16 x 0.4, per million
    assert [row["amount_exact"] for row in events] == ["0.00000674", "0.0000069", None]
    (row,) = ledger.usage(
        connection, tenant="team-a", first="2000-01-01", last="9999-12-31", by=["model"]
    )
    assert (row["requests"], row["prompt_tokens"], row["cached_tokens"]) == (2, 10, 4)
    assert (row["amount_exact"], row["key_id"], row["day"]) == ("0.00001364", None, None)
    month = str(events[0]["attempt_id"])
    rated = ledger.rated(connection, "team-a", attempt_month(month))
    lines = invoice.build("team-a", attempt_month(month), "USD", rated).lines
    assert [(line.kind, line.quantity) for line in lines] == [
        ("input", 8),
        ("cached_input", 2),
        ("output", 32),
    ]
    assert str(sum(line.exact for line in lines)) == "0.00001364"


def test_unpriced_usage_is_parked_and_never_free(connection: Connection) -> None:
    now = time.time_ns() // 1000
    bare = ModelPricing(deployment="d/new", model="new", owner="team-b")
    (answer,) = pricebook.apply(connection, [bare], now).answers
    assert not answer.priced
    outcome = put(connection, event(deployment="d/new", model="new", price_version=0))
    assert len(outcome.parked) == 1
    assert ledger.parked(connection) == 1
    everything = {"tenant": "team-a", "first": "2000-01-01", "last": "9999-12-31"}
    assert ledger.usage(connection, by=[], **everything) == []
    assert ledger.rated(connection, "team-a", attempt_month(uuid7())) == []
    # A price that was in force at the event's time was entered meanwhile: now it is rated.
    pricebook.apply(
        connection, [msgspec.structs.replace(bare, pricing=PRICING)], now - 3_600_000_000
    )
    assert ingest.release(connection, ["d/new"]) == 1
    assert ledger.parked(connection) == 0
    (row,) = ledger.usage(connection, by=[], **everything)
    assert row["amount_exact"] == "0.0000069"


def test_a_price_version_of_another_deployment_rates_nothing(connection: Connection) -> None:
    assert put(connection, event(deployment="d/other")).parked
    assert put(connection, event(price_version=99), first=2).parked


def test_a_price_is_versioned_when_it_changes_and_only_then(connection: Connection) -> None:
    assert pricebook.apply(connection, [MODEL], now=10).changed == []
    dearer = msgspec.structs.replace(MODEL, pricing=Pricing(input_per_million="0.2"))
    assert pricebook.apply(connection, [dearer], now=20).changed[0].version == 2
    put(connection, event(), event(price_version=2), last=2)
    amounts = connection.execute(select(EVENT.c.amount).order_by(EVENT.c.rated_version))
    assert list(amounts.scalars()) == ["0.0000069", "0.000001"]
    gone = msgspec.structs.replace(MODEL, pricing=None)
    assert pricebook.apply(connection, [gone], now=30).changed[0].version == 0
    bad = msgspec.structs.replace(MODEL, pricing=Pricing(input_per_million="x"))
    (answer,) = pricebook.apply(connection, [bad], now=40).answers
    assert (answer.priced, "inputPerMillion" in answer.reason) == (False, True)
    assert pricebook.apply(connection, [MODEL], now=50).answers[0].price_version == 4
    in_force = [pricebook.at(connection, "d/m", when) for when in (5, 25, 35, 55)]
    assert [one.version if one and one.price else 0 for one in in_force] == [1, 2, 0, 4]


def test_conservation_from_the_ledger(connection: Connection) -> None:
    aborted, orphan, retried = uuid7(), uuid7(), uuid7()
    put(
        connection,
        event(completion_tokens=16),
        event(attempt_id=aborted, completion_tokens=4, outcome="aborted"),
        event(attempt_id=retried, completion_tokens=0, billed=False, reason="retry"),
        event(attempt_id=orphan, kind="orphan", completion_tokens=1, billed=False),
        event(attempt_id=aborted, kind="orphan", completion_tokens=3, billed=False),
        event(kind="attempt", completion_tokens=0, billed=False),
        event(replica="", completion_tokens=50, billed=False, reason="failed"),
        event(replica="other", completion_tokens=9),
        last=8,
    )
    report = EngineCounters(
        model="m", deployment="d/m", epoch="e", prompt=0, generated=40, state="live"
    )
    truth = {aborted: 10, orphan: 6, retried: 8}
    counters.upsert(connection, [report])
    final = msgspec.structs.replace(report, state="final", attempts=truth)
    counters.upsert(connection, [final])
    counters.upsert(connection, [report])
    unread = msgspec.structs.replace(final, state="lost", verified=False, generated=0)
    counters.upsert(connection, [unread])
    one, other = counters.conservation(connection, [report])
    assert one.unbilled == {"abort_tail": 6, "orphan": 6, "retry": 8}
    assert (one.generated, one.billed, one.unexplained) == (40, 20, 0)
    assert (other.epoch, other.generated, other.verified) == ("other", 9, False)
    assert counters.conservation(connection, [], {"other"}) == [other]


def test_the_migrations_build_what_the_tables_say(tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    url = f"sqlite:///{tmp_path}/new/ledger.db"
    assert not database.is_current(url)
    database.migrate(url)
    database.migrate(url)
    assert database.is_current(url)
    config = Config()
    config.set_main_option("script_location", f"{database.__file__.rsplit('/', 1)[0]}/migrations")
    assert ScriptDirectory.from_config(config).get_current_head() == database.HEAD
    engine = create_engine(url)
    with engine.begin() as made:
        assert compare_metadata(MigrationContext.configure(made), METADATA) == []
        pricebook.apply(made, [MODEL], now=0)
        put(made, event(), event(price_version=7), last=2)
    for statement in (
        "DELETE FROM event",
        "UPDATE event SET completion_tokens = 0",
        "UPDATE event SET amount = '0' WHERE amount IS NOT NULL",
    ):
        with pytest.raises(IntegrityError), engine.begin() as made:
            made.execute(text(statement))
    with engine.begin() as made:
        made.execute(text("UPDATE event SET amount = '1' WHERE amount IS NULL"))
        made.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(database.DatabaseError, match="newer"):
        database.migrate(url)


@pytest.mark.parametrize(
    "url", ["", "x", "sqlite://", "sqlite:///:memory:", "postgresql://u:hush@h/d"]
)
def test_a_url_that_cannot_hold_a_ledger_is_refused(url: str) -> None:
    with pytest.raises(database.DatabaseError) as caught:
        database.sqlite_url(url)
    assert "sqlite:///PATH" in str(caught.value)
    assert "hush" not in str(caught.value)


def test_what_is_no_database_is_told_in_a_line(tmp_path: Path) -> None:
    file = tmp_path / "ledger.db"
    file.write_text("this is a letter, and no database, however long it gets " * 40)
    with pytest.raises(database.DatabaseError, match="not a database"):
        database.is_current(f"sqlite:///{file}")
