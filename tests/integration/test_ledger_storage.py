"""Storage: migrations with data in them, what can't be edited, projections, plans and months."""

import asyncio
import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from ledgers import Ledger, Ledgers
from tidegate_billing import (
    adjust,
    bulk,
    database,
    ingest,
    migrate,
    money,
    partitions,
    postgres,
    pricebook,
    retention,
    rollup,
)
from tidegate_billing import ledger as questions
from tidegate_billing.adjust import Why
from tidegate_billing.entry import Rating
from tidegate_billing.ingest import Memory, prepare
from tidegate_billing.intake import Intake
from tidegate_billing.links import ModelPricing, Pricing, UsageBatch
from tidegate_billing.tables import (
    ADJUSTMENT,
    EVENT,
    METADATA,
    OUTBOX,
    PARKED,
    REFUSED,
    ROLLUP_DAY,
    ROLLUP_HOUR,
    ROLLUP_MINUTE,
    SERIES,
    SHEET,
    SUMS,
)
from tidegate_billing.usage import Usage, attempt_time, uuid7

ON_POSTGRESQL = pytest.mark.parametrize("ledgers", ["postgresql"], indirect=True)
NOW = 1_800_000_000_000_000
DAY_NS = 86_400 * 10**9
START_NS = 1_795_000_000 * 10**9
PRICING = Pricing(
    input_per_million="0.10", output_per_million="0.40", cached_input_per_million="0.02"
)
MODEL = ModelPricing(deployment="d/m", model="m", owner="team-a", pricing=PRICING)


def event(number: int = 0, **values: object) -> Usage:
    base: dict[str, object] = {
        "attempt_id": uuid7(START_NS + number * DAY_NS // 7),
        "kind": "settlement",
        "request_id": f"r-{number}",
        "tenant": f"team-{number % 3}",
        "project": "p",
        "key_id": f"key_{number % 5}",
        "model": "m",
        "deployment": "d/m",
        "endpoint": "chat",
        "started_at": 1,
        "replica": "e",
        "prompt_tokens": 5 + number,
        "cached_tokens": 2,
        "cached_known": number % 2 == 0,
        "completion_tokens": 16,
        "outcome": "completed",
        "source": "engine",
        "billed": number % 4 != 3,
        "price_version": 1,
    }
    return Usage(**{**base, **values})  # type: ignore[arg-type]


def put(ledger: Ledger, *events: Usage, first: int = 1) -> ingest.Outcome:
    batch = UsageBatch(journal="j", first=first, last=first + len(events) - 1, events=list(events))
    (outcome,) = ledger(ingest.ingest, [prepare(batch)], Memory(), NOW)
    return outcome


@pytest.fixture
def filled(ledger: Ledger) -> Ledger:
    """A ledger with some months, tenants, parked events and an adjustment in it."""
    ledger(pricebook.apply, [MODEL], now=0)
    put(ledger, *(event(number) for number in range(400)))
    put(ledger, event(1, price_version=9), event(2, deployment="d/bare", price_version=0))
    put(ledger, event(5, kind="attempt", billed=False), event(6, kind="orphan", billed=False))
    ledger(_cheaper, "team-1")
    return ledger


def _cheaper(connection: Connection, tenant: str) -> None:
    """Re-rate some events of a tenant to half an atto a token more or less."""
    rows = connection.execute(
        select(EVENT).where(EVENT.c.tenant == tenant, EVENT.c.amount_nano.is_not(None)).limit(7)
    ).all()
    for _ in range(2):  # the second time changes nothing, and is an entry all the same
        current = adjust.ratings(connection, rows)
        changes = [
            (row, current[row.event_id], Rating(1, 0, 0, *money.halves(row.id), "USD"))
            for row in rows
        ]
        adjust.adjust(connection, changes, Why("dispute", "admin", "a test"), NOW)


def dump(ledger: Ledger) -> dict[str, list[tuple[Any, ...]]]:
    """Every rollup, by what its series are and not by their numbers."""
    found = {}
    named = [SERIES.c[name] for name in rollup.SeriesKey._fields]
    for table in (ROLLUP_MINUTE, ROLLUP_HOUR, ROLLUP_DAY):
        query = select(table.c.bucket, *named, *[table.c[name] for name in SUMS]).join_from(
            table, SERIES, SERIES.c.id == table.c.series
        )
        rows = ledger.read(lambda connection, query=query: connection.execute(query).all())
        found[table.name] = sorted(tuple(row) for row in rows if any(row[-len(SUMS) :]))
    return found


def test_rollups_are_rebuilt_from_the_ledger_to_the_same_numbers(filled: Ledger) -> None:
    before = dump(filled)
    assert all(len(rows) > 20 for rows in before.values())
    for damage in (
        lambda connection: connection.execute(ROLLUP_DAY.delete()),
        lambda connection: connection.execute(ROLLUP_MINUTE.update().values(requests=7)),
        lambda connection: None,
    ):
        filled(damage)
        assert filled(rollup.rebuild) == 402 + 14
        assert dump(filled) == before


def test_rollups_hold_what_plain_sql_finds_in_the_ledger(filled: Ledger) -> None:
    """Not by our code: tokens by day from the ledger's text of it, money from its columns."""
    tokens = filled.read(
        lambda connection: connection.execute(
            text(
                "SELECT day, count(*), sum(prompt_tokens), sum(completion_tokens) FROM event"
                " WHERE kind = 'settlement' GROUP BY day"
            )
        ).all()
    )
    by_day: dict[str, list[int]] = {}
    for bucket, *rest in dump(filled)["rollup_day"]:
        requests, prompt, _, completion, *_ = rest[-len(SUMS) :]
        row = by_day.setdefault(questions.day_text(bucket), [0, 0, 0])
        for position, value in enumerate((requests, prompt, completion)):
            row[position] += value
    assert {day: list(map(int, rest)) for day, *rest in tokens} == by_day
    costs = {row.event_id: row for row in filled.read(lambda c: c.execute(select(EVENT)).all())}
    exact = {
        key: money.whole(row.amount_nano, row.amount_atto)
        for key, row in costs.items()
        if row.amount_nano is not None
    }
    for row in filled.read(lambda c: c.execute(select(ADJUSTMENT).order_by(ADJUSTMENT.c.id)).all()):
        exact[row.event_id] = money.whole(row.after_nano, row.after_atto)
    for name, rows in dump(filled).items():
        assert sum(money.whole(*row[-2:]) for row in rows) == sum(exact.values()), name


def test_the_outbox_tells_what_the_rollups_hold(filled: Ledger) -> None:
    sums = [func.sum(OUTBOX.c[name]) for name in SUMS]
    told = filled.read(lambda connection: connection.execute(select(*sums)).one())
    held = [
        sum(row[position] for row in dump(filled)["rollup_day"])
        for position in range(-len(SUMS), 0)
    ]
    assert list(map(int, told)) == held
    filled(lambda connection: connection.execute(SHEET.update().values(sealed_at=NOW)))
    put(filled, event(3), first=900)
    sheets = select(OUTBOX.c.sheet, OUTBOX.c.requests).order_by(OUTBOX.c.sheet.desc())
    assert tuple(filled.read(lambda c: c.execute(sheets).first() or ())) == (2, 1)


def test_a_usage_query_reads_rollups_only(filled: Ledger) -> None:
    """The ledger itself may be out of reach: the answer is the same."""
    asked = {"tenant": "team-1", "first": "2020-01-01", "last": "2030-01-01"}
    before = filled(questions.usage, by=["key", "day"], **asked)
    assert before
    invoiced = filled(questions.totals, "team-1", str(before[0]["day"])[:7])
    assert invoiced
    for table in ("event", "adjustment"):
        filled(
            lambda connection, table=table: connection.execute(
                text(f"ALTER TABLE {table} RENAME TO gone_{table}")
            )
        )
    assert filled(questions.usage, by=["key", "day"], **asked) == before
    assert filled(questions.totals, "team-1", str(before[0]["day"])[:7]) == invoiced


@pytest.mark.parametrize("table", ["event", "adjustment"])
@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM {}", "UPDATE {} SET tenant = 'x'", "UPDATE {} SET attempt_month = 'x'"],
)
def test_the_ledger_is_append_only(filled: Ledger, table: str, statement: str) -> None:
    with pytest.raises(IntegrityError, match="append-only"):
        filled(lambda connection: connection.execute(text(statement.format(table))))


@ON_POSTGRESQL
def test_the_ledger_is_not_emptied_either(filled: Ledger) -> None:
    months = filled(partitions.attached)
    assert len(months) >= 2
    for table in ("event", "adjustment", *(partitions.table(month) for month in months)):
        with pytest.raises(IntegrityError, match="append-only"):
            filled(lambda connection, table=table: connection.execute(text(f"TRUNCATE {table}")))


@ON_POSTGRESQL
def test_every_month_has_a_partition_of_its_own(filled: Ledger) -> None:
    months = sorted(filled(partitions.attached))
    assert len(months) >= 2
    for month in months:
        query = text(f"SELECT DISTINCT attempt_month FROM {partitions.table(month)}")
        assert filled(lambda c, query=query: c.execute(query).scalars().all()) == [month]


def test_a_month_leaves_and_its_sums_stay(filled: Ledger) -> None:
    count = select(EVENT.c.attempt_month, func.count()).group_by(EVENT.c.attempt_month)
    before = dict(filled.read(lambda c: [tuple(row) for row in c.execute(count)]))
    first, second, *_ = sorted(before)
    later = 1_900_000_000_000_000
    with pytest.raises(retention.RetentionError, match="too young"):
        filled(retention.retire, first, START_NS // 1000)
    with pytest.raises(retention.RetentionError, match="wait for a price"):
        filled(retention.retire, first, later)
    bare = ModelPricing(deployment="d/bare", model="m", owner="team-a", pricing=PRICING)
    filled(pricebook.apply, [MODEL, bare], now=0)
    assert filled(adjust.release, NOW, ["d/bare"]) == 1
    filled(lambda c: c.execute(PARKED.delete()))  # the one with a price that never was
    sums = dump(filled)
    assert filled(retention.retire, first, later) == before[first]
    with pytest.raises(retention.RetentionError, match="already"):
        filled(retention.retire, first, later)
    with pytest.raises(ValueError, match="allowed: YYYY-MM"):
        filled(retention.retire, "2020-1", later)
    left = dict(filled.read(lambda c: [tuple(row) for row in c.execute(count)]))
    assert left == {month: number for month, number in before.items() if month != first}
    assert dump(filled) == sums
    filled(rollup.rebuild)
    assert dump(filled) == sums
    # A late copy of what left could not be known for one: it is refused, and set aside.
    outcome = put(filled, event(0), event(399), first=2000)
    assert (len(outcome.malformed), outcome.added) == (1, 1)
    with pytest.raises(IntegrityError, match="append-only"):
        filled(lambda c: c.execute(text("DELETE FROM event")))
    assert second in left


@pytest.mark.parametrize(
    ("now", "month"),
    [
        ("2026-11-28T00:00:00+00:00", "2026-08"),
        ("2026-12-01T00:00:00+00:00", "2026-09"),
        ("2026-11-30T23:59:59+00:00", "2026-08"),
        ("2026-03-01T00:00:00+00:00", "2025-12"),
        ("2026-02-28T23:59:59+00:00", "2025-11"),
        ("2026-01-15T00:00:00+00:00", "2025-10"),
    ],
)
def test_two_whole_months_are_always_kept(now: str, month: str) -> None:
    at = int(dt.datetime.fromisoformat(now).timestamp()) * 10**6
    assert retention.latest(at) == month


def test_refused_events_are_kept_aside_once(ledger: Ledger) -> None:
    ledger(pricebook.apply, [MODEL], now=0)
    good = event(1)
    put(ledger, good)
    wrong = [
        event(1, attempt_id=good.attempt_id, completion_tokens=17),
        event(2, prompt_tokens=-1),
        event(3, client_request_id="a\0b"),
        event(4, request_id="x" * 601),
    ]
    for _ in range(2):
        outcome = put(ledger, *wrong, event(5), first=10)
        assert (len(outcome.conflicts), len(outcome.malformed)) == (1, 3)
    kept = ledger.read(lambda c: c.execute(select(REFUSED).order_by(REFUSED.c.id)).all())
    assert [row.reason.split()[0] for row in kept] == [
        "prompt_tokens",
        "client_request_id",
        "request_id",
        "other",
    ]
    assert '"completion_tokens":17' in kept[-1].body


def test_a_price_too_high_to_be_right_parks_what_it_would_bill(ledger: Ledger) -> None:
    absurd = Pricing(input_per_million="999999999999", output_per_million="0")
    ledger(
        pricebook.apply,
        [ModelPricing(deployment="d/m", model="m", owner="team-a", pricing=absurd)],
        now=0,
    )
    outcome = put(ledger, event(0, prompt_tokens=10**12))
    assert (outcome.added, len(outcome.parked)) == (1, 1)
    assert put(ledger, event(1, prompt_tokens=1), first=2).parked == ()


PLANS = {
    "usage": lambda c: questions.usage(
        c, tenant="team-1", first="2026-11-01", last="2026-11-30", by=["model", "key", "day"]
    ),
    "invoice": lambda c: questions.totals(c, "team-1", "2026-11"),
    "receipt": lambda c: questions.events(
        c, questions.EventFilter(request_id="r-1"), limit=10, after=None
    ),
    "events of a tenant": lambda c: questions.events(
        c, questions.EventFilter(tenant="team-1"), limit=10, after=event(8).event_id
    ),
    "replay": lambda c: ingest.ingest(
        c, [prepare(UsageBatch(journal="j", first=1, last=1, events=[event(1)]))], Memory(), NOW
    ),
    "release": lambda c: adjust.release(c, NOW, ["d/bare"]),
    "parked of a tenant": lambda c: questions.parked(c, "team-1"),
}
SMALL = (
    "sheet",
    "journal",
    "price",
    "price_document",
    "refused",
    "retired",
    "rollup_day",
    "pg_inherits",
)
"""Tables that may be read as a whole: they have few rows, or (a day's sums) are meant to be."""


@pytest.mark.parametrize("name", sorted(PLANS))
def test_hot_queries_find_their_rows_by_an_index(filled: Ledger, name: str) -> None:
    """Each statement of a hot path, explained: none reads a growing table from end to end."""
    explained = filled(lambda connection: explain(connection, PLANS[name]))
    assert explained
    for statement, plan in explained:
        for line in plan:
            scanned = line.strip().removeprefix("->").strip()
            if scanned.startswith(("Seq Scan on", "Parallel Seq Scan on")):
                table = scanned.split(" on ")[1].split()[0]
            elif scanned.startswith("SCAN "):
                table = scanned.split()[1]
                if "USING" in scanned and "INDEX" in scanned and name == "release":
                    continue
            else:
                continue
            assert table in SMALL, f"{statement}\n" + "\n".join(plan)


def explain(connection: Connection, work: Any) -> list[tuple[str, list[str]]]:
    """Run `work`, and explain every SELECT that it sends, with the parameters it had."""
    from sqlalchemy import event as events

    sent: list[tuple[str, Any]] = []

    def listen(_c: Any, _cursor: Any, statement: str, parameters: Any, _x: Any, _m: Any) -> None:
        if statement.lstrip().startswith("SELECT"):
            sent.append((statement, parameters))

    events.listen(connection.engine, "before_cursor_execute", listen)
    try:
        work(connection)
    finally:
        events.remove(connection.engine, "before_cursor_execute", listen)
    if connection.dialect.name == "postgresql":
        # Tables of tests are small, and a small table is cheapest to read as a whole.
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        word, column = "EXPLAIN", 0
    else:
        word, column = "EXPLAIN QUERY PLAN", 3
    return [
        (
            statement,
            [row[column] for row in connection.exec_driver_sql(f"{word} {statement}", parameters)],
        )
        for statement, parameters in sent
    ]


@contextmanager
def sync_engine(url: str) -> Iterator[Engine]:
    engine = create_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def on(url: str, work: Any, *, write: bool = True) -> Any:
    return migrate._run(database.parse(url), work, write=write)


NEWER = {
    *("service_tier", "audio_ms", "images"),
    *("cold_start_ms", "serving_ms", "idle_tail_ms"),
}
OLD_PRICE = (
    "INSERT INTO price (deployment, currency, input_per_million, output_per_million,"
    " cached_input_per_million, effective_from)"
    " VALUES ('d/m', 'USD', '0.10', '0.40', '0.02', 0)"
)


def old_row(number: int, **values: object) -> dict[str, object]:
    """A row as 0001 kept it."""
    told = event(number, **values)
    fields = {name: getattr(told, name) for name in Usage.__struct_fields__ if name not in NEWER}
    day = ingest.day_of(attempt_time(told.attempt_id))
    rated = bool(told.billed) and number % 5 != 0
    cached = 2 if told.cached_known else 0
    amount = (
        (told.prompt_tokens - cached) * 100_000_000_000
        + cached * 20_000_000_000
        + told.completion_tokens * 400_000_000_000
    )
    return {
        **fields,
        "attempt_month": day[:7],
        "day": day,
        "event_id": told.event_id,
        "digest": ingest.digest(told),
        "rated_version": 1 if rated else None,
        "cached_billed": cached if rated else None,
        "amount": money.plain(amount) if rated else None,
        "currency": "USD" if rated else None,
    }


def test_a_ledger_of_the_first_release_is_carried_over(ledgers: Ledgers) -> None:
    url = ledgers.empty_url()
    on_sqlite = url.startswith("sqlite")
    if on_sqlite:
        Path(url.removeprefix("sqlite:///")).touch()
    old = [old_row(number) for number in range(60)]

    def fill(connection: Connection) -> None:
        migrate.upgrade(connection, "0001")
        connection.execute(text(OLD_PRICE))
        names = list(old[0])
        values = ", ".join(f":{name}" for name in names)
        connection.execute(text(f"INSERT INTO event ({', '.join(names)}) VALUES ({values})"), old)

    on(url, fill)
    assert not migrate.is_current(url)
    migrate.migrate(url)
    migrate.migrate(url)
    assert migrate.is_current(url)
    moved = Ledger(url, ledgers.kind)
    try:
        rows = moved.read(lambda c: c.execute(select(EVENT).order_by(EVENT.c.id)).all())
        assert [row.event_id for row in rows] == [row["event_id"] for row in old]
        for row, before in zip(rows, old, strict=True):
            now = (
                None
                if row.amount_nano is None
                else money.plain(money.whole(row.amount_nano, row.amount_atto))
            )
            assert (now, row.digest, row.day) == (before["amount"], before["digest"], before["day"])
        waiting = {row["event_id"] for row in old if row["billed"] and row["amount"] is None}
        assert set(moved.read(lambda c: c.execute(select(PARKED.c.event_id)).scalars())) == waiting
        summed = dump(moved)
        assert sum(row[-len(SUMS)] for row in summed["rollup_day"]) == 60
        moved(rollup.rebuild)
        assert dump(moved) == summed
        # What was known is known: a replay is a no-op, numbers go on where they were.
        assert (
            put(
                moved,
                *(event(number, attempt_id=old[number]["attempt_id"]) for number in range(60)),
            ).replayed
            == 60
        )
        put(moved, event(99), first=100)
        newest = moved.read(lambda c: c.execute(select(func.max(EVENT.c.id))).scalar())
        assert newest == rows[-1].id + 1
        with pytest.raises(IntegrityError):
            moved(lambda c: c.execute(text("DELETE FROM event")))
    finally:
        moved.close()


def test_the_migrations_build_what_the_tables_say(ledgers: Ledgers) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    url = ledgers.empty_url()
    assert not migrate.is_current(url)
    migrate.migrate(url)
    assert migrate.is_current(url)
    config = Config()
    folder = Path(migrate.__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder))
    assert ScriptDirectory.from_config(config).get_current_head() == migrate.HEAD

    def ours(name: str | None, kind: str, _parents: object) -> bool:
        return kind != "table" or not str(name).startswith("event_")

    def compare(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"include_name": ours})
        return list(compare_metadata(context, METADATA))

    assert on(url, compare) == []
    on(url, lambda c: c.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    with pytest.raises(database.DatabaseError, match="newer"):
        migrate.migrate(url)


def test_a_migration_that_fails_changes_nothing(
    ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = ledgers.empty_url()
    if url.startswith("sqlite"):
        Path(url.removeprefix("sqlite:///")).touch()
    on(url, lambda connection: migrate.upgrade(connection, "0001"))

    def fail(_connection: Connection) -> int:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(rollup, "rebuild", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        migrate.migrate(url)
    assert on(url, migrate.revision, write=False) == "0001"
    monkeypatch.undo()
    migrate.migrate(url)
    assert migrate.is_current(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "not a database URL"),
        ("x", "not a database URL"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("mysql://u:hush@h/d", "not supported"),
        ("postgresql:///hush", "no host"),
        ("postgresql://u:hush@h", "no database"),
        ("postgresql://u:hush@h/d?sslmode=maybe", "sslmode"),
        ("postgresql://u:hush@h/d?secret=hush", "'secret'"),
    ],
)
def test_a_url_that_cannot_hold_a_ledger_is_refused(url: str, said: str) -> None:
    with pytest.raises(database.DatabaseError, match=said) as caught:
        database.parse(url)
    assert "allowed" in str(caught.value) or "its form is" in str(caught.value)
    assert "hush" not in str(caught.value)


def test_what_is_no_database_is_told_in_a_line(tmp_path: Path) -> None:
    file = tmp_path / "ledger.db"
    file.write_text("this is a letter, and no database, however long it gets " * 40)
    with pytest.raises(database.DatabaseError, match="not a database"):
        migrate.is_current(f"sqlite:///{file}")
    with pytest.raises(database.DatabaseError, match="can't be reached"):
        migrate.is_current("postgresql://u:hush@127.0.0.1:1/d")


def test_batches_that_come_together_are_kept_together_and_a_bad_one_alone_fails(
    ledger: Ledger,
) -> None:
    ledger(pricebook.apply, [MODEL], now=0)
    commits: list[int] = []

    class Watched:
        """Counts transactions, and fails where a batch of the journal `bad` is in one."""

        async def write(self, transaction: Any) -> Any:
            def watched(connection: Connection) -> Any:
                outcomes = transaction(connection)
                commits.append(len(outcomes))
                known = connection.execute(text("SELECT name FROM journal")).scalars().all()
                if "bad" in known:
                    connection.execute(text("SELECT no_such_column FROM journal"))
                return outcomes

            return await ledger.database.write(watched)

    async def story() -> list[Any]:
        intake = Intake(Watched(), lambda: NOW)  # type: ignore[arg-type]
        names = ["a", "b", "bad", "c", "d"]
        batches = [
            UsageBatch(journal=name, first=1, last=1, events=[event(number)])
            for number, name in enumerate(names)
        ]
        return await asyncio.gather(
            *(intake.keep(prepare(batch)) for batch in batches), return_exceptions=True
        )

    outcomes = ledger._runner.run(story())
    assert commits[0] == 1 or commits[0] == 5
    assert isinstance(outcomes.pop(2), DBAPIError)
    assert [one.added for one in outcomes] == [1, 1, 1, 1]
    count = select(func.count()).select_from(EVENT)
    assert ledger.read(lambda c: c.execute(count).scalar()) == 4


POISONS = [ValueError("ours"), OverflowError("a driver's"), AssertionError("a belief")]


@pytest.mark.parametrize("poison", POISONS, ids=lambda error: type(error).__name__)
def test_no_kind_of_error_of_one_batch_touches_another_or_leaves_one_waiting(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, poison: Exception
) -> None:
    ledger(pricebook.apply, [MODEL], now=0)
    keep = ingest.ingest

    def fail(connection: Connection, deliveries: Any, *more: Any) -> Any:
        outcomes = keep(connection, deliveries, *more)
        if any(one.journal == "bad" for one in deliveries):
            raise poison
        return outcomes

    monkeypatch.setattr(ingest, "ingest", fail)

    async def story() -> list[Any]:
        intake = Intake(ledger.database, lambda: NOW)
        names = ["a", "b", "bad", "c", "d", "bad", "e"]
        batches = [
            UsageBatch(journal=name, first=1, last=1, events=[event(number)])
            for number, name in enumerate(names)
        ]
        async with asyncio.timeout(30):
            return await asyncio.gather(
                *(intake.keep(prepare(batch)) for batch in batches), return_exceptions=True
            )

    outcomes = ledger._runner.run(story())
    assert [type(one) for one in outcomes if isinstance(one, Exception)] == [type(poison)] * 2
    assert sum(one.added for one in outcomes if not isinstance(one, Exception)) == 5


@ON_POSTGRESQL
def test_a_copy_that_is_cancelled_fails_alone(ledgers: Ledgers) -> None:
    """COPY goes past SQLAlchemy, and its errors come as any other statement's."""
    with ledgers.made() as there:
        there(pricebook.apply, [MODEL], now=0)

        def slow(connection: Connection) -> Any:
            connection.execute(text("SET LOCAL statement_timeout = 1"))
            rows = [(n, 0, *(0,) * len(SUMS)) for n in range(200_000)]
            bulk._copy_added(connection, SUMS, rows)

        with pytest.raises(DBAPIError):
            there(slow)
        assert put(there, event(1)).added == 1


def test_the_outbox_takes_a_new_sheet_each_day(ledger: Ledger) -> None:
    ledger(pricebook.apply, [MODEL], now=0)
    day = rollup.SHEET_MICROSECONDS
    for number, at in enumerate([NOW, NOW + day - 1, NOW + day, NOW + 2 * day + 5]):
        batch = UsageBatch(journal="j", first=number, last=number, events=[event(number)])
        ledger(ingest.ingest, [prepare(batch)], Memory(), at)
    sheets = ledger.read(lambda c: c.execute(select(SHEET).order_by(SHEET.c.id)).all())
    assert [sheet.sealed_at for sheet in sheets] == [NOW + day, NOW + 2 * day + 5, None]
    told = select(OUTBOX.c.sheet, func.sum(OUTBOX.c.requests)).group_by(OUTBOX.c.sheet)
    counts = ledger.read(lambda c: {int(a): int(b) for a, b in c.execute(told)})
    assert counts == {1: 2, 2: 1, 3: 1}


@ON_POSTGRESQL
def test_writers_of_several_processes_take_turns(ledgers: Ledgers) -> None:
    """Two writers that read, think and write: neither works by what the other has changed."""
    url = ledgers.url()
    one, other = Ledger(url, ledgers.kind), Ledger(url, ledgers.kind)
    one(pricebook.apply, [MODEL], now=0)

    async def story() -> None:
        batches = [
            UsageBatch(journal="j", first=n, last=n, events=[event(7, attempt_id=ATTEMPT)])
            for n in range(1, 9)
        ]
        outcomes = await asyncio.gather(
            *(
                side.database.write(
                    lambda c, batch=batch: ingest.ingest(c, [prepare(batch)], Memory(), NOW)[0]
                )
                for number, batch in enumerate(batches)
                for side in [(one, other)[number % 2]]
            )
        )
        assert sorted(outcome.added for outcome in outcomes) == [0] * 7 + [1]

    try:
        one._runner.run(story())
    finally:
        one.close()
        other.close()


ATTEMPT = uuid7(START_NS)


@ON_POSTGRESQL
def test_a_server_that_is_away_is_told_apart_from_a_statement_that_is_wrong(
    ledgers: Ledgers,
) -> None:
    gone = Ledger("postgresql://u:p@127.0.0.1:1/d", ledgers.kind)
    try:
        with pytest.raises(database.DatabaseDown):
            gone(lambda connection: None)
    finally:
        gone.close()
    with ledgers.made() as there:
        with pytest.raises(DBAPIError):
            there(lambda connection: connection.execute(text("SELECT nothing FROM nowhere")))
        assert there.read(lambda connection: connection.execute(text("SELECT 1")).scalar()) == 1
        # A connection that the server has dropped is noticed, and replaced.
        assert ledgers.server is not None
        ledgers.server.sql(
            "postgres",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'tidegate-billing'",
        )
        assert there.read(lambda connection: connection.execute(text("SELECT 1")).scalar()) == 1
        assert there(lambda connection: connection.execute(text("SELECT 1")).scalar()) == 1
    assert postgres.WRITE_LOCK == 7_164_283  # all releases must agree on it
