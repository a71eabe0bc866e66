"""The ledger: any order, any repetition and any cut of batches keep the same rows."""

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import select

from ledgers import Ledger, Ledgers
from tidegate_billing import adjust, counters, ingest, invoice, money, pricebook
from tidegate_billing import ledger as questions
from tidegate_billing.ingest import Memory, prepare
from tidegate_billing.links import EngineCounters, ModelPricing, Pricing, UsageBatch
from tidegate_billing.tables import EVENT
from tidegate_billing.usage import Usage, attempt_day, attempt_month, uuid7

NOW = 1_800_000_000_000_000
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


@pytest.fixture
def book(ledger: Ledger) -> Ledger:
    """A ledger with one priced model, whose price is version 1."""
    return priced(ledger)


def priced(ledger: Ledger) -> Ledger:
    answers = ledger(pricebook.apply, [MODEL], now=0).answers
    assert [answer.price_version for answer in answers] == [1]
    return ledger


def put(ledger: Ledger, *events: Usage, first: int = 1, last: int = 0) -> ingest.Outcome:
    batch = UsageBatch(journal="j", first=first, last=last or first, events=list(events))
    (outcome,) = ledger(ingest.ingest, [prepare(batch)], Memory(), NOW)
    return outcome


def rows(ledger: Ledger, tenant: str = "team-a") -> list[tuple[object, ...]]:
    columns = [column for column in EVENT.c if column.name != "id"]
    query = select(*columns).where(EVENT.c.tenant == tenant)
    return sorted(tuple(map(str, row)) for row in scan(ledger, query))


def scan(ledger: Ledger, query: Any) -> list[Any]:
    return ledger.read(lambda connection: list(connection.execute(query)))


def usage(ledger: Ledger, by: list[str], tenant: str = "team-a") -> list[dict[str, object]]:
    return ledger(questions.usage, tenant=tenant, first="2000-01-01", last="9999-12-31", by=by)


COUNTS = st.lists(st.tuples(st.integers(0, 900), st.booleans()), min_size=1, max_size=12)


def test_replays_in_any_order_and_cut_change_nothing(ledgers: Ledgers) -> None:
    with ledgers.made() as once, ledgers.made() as replayed:
        priced(once)
        priced(replayed)

        # Each example is a tenant of its own: a database for each would take most of the time.
        @hypothesis_settings(max_examples=20, deadline=None)
        @given(counts=COUNTS, data=st.data())
        def check(counts: list[tuple[int, bool]], data: st.DataObject) -> None:
            tenant = f"t-{uuid7()}"
            events = [
                event(tenant=tenant, completion_tokens=tokens, billed=billed)
                for tokens, billed in counts
            ]
            put(once, *events, last=len(events))
            again = data.draw(st.lists(st.sampled_from(events), max_size=12))
            shuffled = data.draw(st.permutations(events + again))
            while shuffled:
                cut = data.draw(st.integers(1, len(shuffled)))
                outcome = put(replayed, *shuffled[:cut], last=len(events))
                assert outcome.conflicts == outcome.malformed == ()
                shuffled = shuffled[cut:]
            assert rows(replayed, tenant) == rows(once, tenant)
            assert usage(replayed, ["model"], tenant) == usage(once, ["model"], tenant)

        check()


def test_other_content_under_a_known_id_is_refused_and_the_rest_goes_in(
    book: Ledger,
) -> None:
    first, other = event(), event()
    put(book, first)
    kept = rows(book)
    altered = msgspec.structs.replace(first, completion_tokens=17)
    outcome = put(book, altered, other, first=2, last=3)
    assert outcome.conflicts == (first.event_id,)
    assert (outcome.added, outcome.acked) == (1, 3)
    assert set(kept) < set(rows(book))
    within = event()
    twice = put(book, within, msgspec.structs.replace(within, reason="x"), first=4)
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
def test_a_malformed_event_is_refused_alone(book: Ledger, wrong: dict[str, object]) -> None:
    outcome = put(book, event(**wrong), event(), last=2)
    assert (len(outcome.malformed), outcome.added, outcome.acked) == (1, 1, 2)


def test_a_gap_is_seen_and_what_came_is_kept(book: Ledger) -> None:
    assert put(book, event(), first=1, last=3).gap == 0
    assert put(book, event(), first=4, last=5).gap == 0
    outcome = put(book, event(), first=9, last=9)
    assert (outcome.gap, outcome.acked, outcome.added) == (3, 9, 1)
    assert put(book, first=2, last=4).acked == 9


def test_the_month_comes_from_the_id(book: Ledger) -> None:
    last_ms = 1_772_323_199_999  # 2026-02-28T23:59:59.999Z
    february, march = uuid7(last_ms * 10**6), uuid7((last_ms + 1) * 10**6)
    assert attempt_month(february) == "2026-02"
    assert attempt_day(march) == "2026-03-01"
    put(book, event(attempt_id=february, started_at=2**50, finished_at=2**50))
    (found,) = scan(book, select(EVENT.c.attempt_month, EVENT.c.day))
    assert tuple(found) == ("2026-02", "2026-02-28")


def test_money_is_told_three_ways_and_is_the_same(book: Ledger) -> None:
    put(
        book,
        event(cached_tokens=2, cached_known=True),
        event(cached_tokens=2, cached_known=False),
        event(billed=False, reason="probe", price_version=0),
        last=3,
    )
    which = questions.EventFilter()
    events = book(questions.events, which, limit=10, after=None)
    assert events is not None
    # 3 x 0.1 + 2 x 0.02 + 16 x 0.4 and 5 x 0.1 + 16 x 0.4, per million
    assert [row["amount_exact"] for row in events] == ["0.00000674", "0.0000069", None]
    (row,) = book(
        questions.usage, tenant="team-a", first="2000-01-01", last="9999-12-31", by=["model"]
    )
    assert (row["requests"], row["prompt_tokens"], row["cached_tokens"]) == (2, 10, 4)
    assert (row["amount_exact"], row["key_id"], row["day"]) == ("0.00001364", None, None)
    month = str(events[0]["attempt_id"])
    rated = book(questions.rated, "team-a", attempt_month(month))
    lines = invoice.build("team-a", attempt_month(month), "USD", rated).lines
    assert [(line.kind, line.quantity) for line in lines] == [
        ("input", 8),
        ("cached_input", 2),
        ("output", 32),
    ]
    assert money.plain(sum(line.exact for line in lines)) == "0.00001364"


def test_unpriced_usage_is_parked_and_never_free(book: Ledger) -> None:
    now = time.time_ns() // 1000
    bare = ModelPricing(deployment="d/new", model="new", owner="team-b")
    (answer,) = book(pricebook.apply, [bare], now).answers
    assert not answer.priced
    outcome = put(book, event(deployment="d/new", model="new", price_version=0))
    assert len(outcome.parked) == 1
    assert book(questions.parked) == 1
    everything = {"tenant": "team-a", "first": "2000-01-01", "last": "9999-12-31"}
    assert book(questions.usage, by=[], **everything) == []
    assert book(questions.rated, "team-a", attempt_month(uuid7())) == []
    # A price that was in force at the event's time was entered meanwhile: now it is rated.
    book(pricebook.apply, [msgspec.structs.replace(bare, pricing=PRICING)], now - 3_600_000_000)
    assert book(adjust.release, ["d/new"], NOW) == 1
    assert book(questions.parked) == 0
    (row,) = book(questions.usage, by=[], **everything)
    assert row["amount_exact"] == "0.0000069"


def test_a_price_version_of_another_deployment_rates_nothing(book: Ledger) -> None:
    assert put(book, event(deployment="d/other")).parked
    assert put(book, event(price_version=99), first=2).parked


def test_a_price_is_versioned_when_it_changes_and_only_then(book: Ledger) -> None:
    assert book(pricebook.apply, [MODEL], now=10).changed == []
    dearer = msgspec.structs.replace(MODEL, pricing=Pricing(input_per_million="0.2"))
    assert book(pricebook.apply, [dearer], now=20).changed[0].version == 2
    put(book, event(), event(price_version=2), last=2)
    amounts = scan(
        book,
        select(EVENT.c.amount_nano, EVENT.c.amount_atto).order_by(EVENT.c.rated_version),
    )
    assert [tuple(row) for row in amounts] == [(6900, 0), (1000, 0)]
    gone = msgspec.structs.replace(MODEL, pricing=None)
    assert book(pricebook.apply, [gone], now=30).changed[0].version == 0
    bad = msgspec.structs.replace(MODEL, pricing=Pricing(input_per_million="x"))
    (answer,) = book(pricebook.apply, [bad], now=40).answers
    assert (answer.priced, "inputPerMillion" in answer.reason) == (False, True)
    assert book(pricebook.apply, [MODEL], now=50).answers[0].price_version == 4
    in_force = [book(pricebook.at, "d/m", when) for when in (5, 25, 35, 55)]
    assert [one.version if one and one.price else 0 for one in in_force] == [1, 2, 0, 4]


def test_conservation_from_the_ledger(book: Ledger) -> None:
    aborted, orphan, retried = uuid7(), uuid7(), uuid7()
    put(
        book,
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
    book(counters.upsert, [report])
    final = msgspec.structs.replace(report, state="final", attempts=truth)
    book(counters.upsert, [final])
    book(counters.upsert, [report])
    unread = msgspec.structs.replace(final, state="lost", verified=False, generated=0)
    book(counters.upsert, [unread])
    one, other = book(counters.conservation, [report])
    assert one.unbilled == {"abort_tail": 6, "orphan": 6, "retry": 8}
    assert (one.generated, one.billed, one.unexplained) == (40, 20, 0)
    assert (other.epoch, other.generated, other.verified) == ("other", 9, False)
    assert book(counters.conservation, [], {"other"}) == [other]
