"""Conservation inside the ledger: nothing drifts, and what is planted is told with its place."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from sqlalchemy import text

from ledgers import Ledger
from tidegate_billing import adjust, conserve, ingest, pricebook, retention, rollup, tariff
from tidegate_billing.adjust import Scope, Why
from tidegate_billing.conserve import Held
from tidegate_billing.ingest import Memory, prepare
from tidegate_billing.links import ModelPricing, Pricing, UsageAck, UsageBatch, Written
from tidegate_billing.rates import book as books
from tidegate_billing.usage import Usage, uuid7
from tidegate_runtime.journal import Journal
from tidegate_runtime.meter import Meter
from tidegate_runtime.slots import Slots

NOW = 1_800_000_000_000_000
START_MS = 1_796_083_200_000  # 2026-12-01T00:00:00Z
DAY_MS = 86_400_000
MODELS = [
    ModelPricing(
        deployment=f"d/{name}",
        model=name,
        owner="o",
        pricing=Pricing(input_per_million="1", output_per_million="4"),
    )
    for name in ("a", "b")
]
PERIOD = ("2026-11-30", "2026-12-02")


@pytest.fixture
def filled(ledger: Ledger) -> Ledger:
    ledger(pricebook.apply, MODELS, now=0)
    events = [
        Usage(
            attempt_id=uuid7((START_MS + (n - 30) * DAY_MS // 20) * 10**6),
            kind="settlement",
            request_id="r",
            tenant=f"t{n % 3}",
            project="p",
            key_id="k",
            model="ab"[n % 2],
            deployment="d/" + "ab"[n % 2],
            endpoint="chat",
            started_at=1,
            prompt_tokens=100 + n,
            completion_tokens=n,
            outcome="completed",
            source="engine",
            billed=n % 5 != 0,
        )
        for n in range(70)
    ]
    batch = UsageBatch(journal="j", first=1, last=70, events=events)
    ledger(ingest.ingest, [prepare(batch)], Memory(), NOW)
    document = {
        "name": "list",
        "currency": "USD",
        "effectiveFrom": "2026-01-01T00:00:00Z",
        "entries": [{"model": "a", "prices": {"input": "3", "output": "9"}}],
    }
    ledger(tariff.write, books.parse(document), document, NOW)
    scope = Scope("2026-11", "2026-12", tenant="t1")
    assert ledger(adjust.rerate, scope, Why("rerated", "admin"), NOW) > 3
    return ledger


def compare(ledger: Ledger) -> list[conserve.Drift]:
    return ledger.read(lambda connection: conserve.compare(connection, *PERIOD))


def test_nothing_drifts(filled: Ledger) -> None:
    assert compare(filled) == []
    ledger = filled.read(lambda connection: conserve._ledger(connection, *PERIOD))
    assert {day for day, _ in ledger} == {"2026-11-30", "2026-12-01", "2026-12-02"}
    rows = filled.read(
        lambda c: c.execute(
            text(
                "SELECT day, model, count(*), sum(prompt_tokens), sum(completion_tokens) FROM event"
                " WHERE day BETWEEN '2026-11-30' AND '2026-12-02' GROUP BY day, model"
            )
        ).all()
    )
    assert {(d, m): tuple(map(int, rest)) for d, m, *rest in rows} == {
        key: held[:3] for key, held in ledger.items()
    }
    assert set(conserve.by_place([]).values()) == {0}


PLANTED: list[tuple[str, str, str]] = [
    (
        "UPDATE rollup_day SET completion_tokens = completion_tokens + 3 WHERE {one}",
        "rollup_day",
        "3 completion_tokens more",
    ),
    ("DELETE FROM rollup_hour WHERE {one}", "rollup_hour", "requests fewer"),
    (
        "UPDATE rollup_minute SET amount_atto = amount_atto - 1 WHERE {one}",
        "rollup_minute",
        "0.000000000000000001 less money",
    ),
    ("UPDATE rollup_day SET requests = requests + 1 WHERE {one}", "rollup_day", "1 requests more"),
]


@pytest.mark.parametrize(("damage", "place", "says"), PLANTED)
def test_what_a_rollup_lost_or_made_up_is_told_with_its_place(
    filled: Ledger, damage: str, place: str, says: str
) -> None:
    one = (
        f"series = (SELECT min(series) FROM {place} WHERE {inside(place)}) AND bucket ="
        f" (SELECT min(bucket) FROM {place} p WHERE {inside(place)} AND p.series ="
        f" (SELECT min(series) FROM {place} WHERE {inside(place)}))"
    )
    done = filled(lambda c: c.execute(text(damage.format(one=one))).rowcount)
    assert done == 1
    (drift,) = compare(filled)
    assert drift.place == place
    assert says in drift.says
    assert drift.model in drift.says
    assert drift.day in drift.says
    assert conserve.by_place([drift])[place] >= 1
    filled(rollup.rebuild)
    assert compare(filled) == []


def inside(place: str) -> str:
    per_day = {"rollup_minute": 1440, "rollup_hour": 24, "rollup_day": 1}[place]
    first = START_MS // DAY_MS - 1
    return f"bucket BETWEEN {first * per_day} AND {(first + 3) * per_day - 1}"


def test_an_event_that_the_ledger_lost_shows_in_every_place() -> None:
    key = ("2026-12-01", "m")
    full: Any = {key: Held(2, 10, 20, 5)}
    found = conserve.drifts({key: Held(1, 4, 20, 5)}, {"rollup_day": full, "rollup_hour": full})
    assert [one.place for one in found] == ["rollup_day", "rollup_hour"]
    assert all("1 requests more than in the ledger, 6 prompt_tokens more" in x.says for x in found)
    assert conserve.by_place(found)["rollup_day"] == 6
    assert conserve.drifts({key: Held(1)}, {"rollup_day": {}})[0].says.endswith(
        "1 requests fewer than in the ledger"
    )


def test_a_month_that_has_left_is_not_taken_for_a_loss(filled: Ledger) -> None:
    filled(retention.retire, "2026-11", 1_900_000_000_000_000)
    assert compare(filled) == []


# What journals have written


def settlement(number: int, **values: Any) -> Usage:
    return Usage(
        attempt_id=uuid7((START_MS + number) * 10**6), kind="settlement", request_id="r",
        tenant="t", project="p", key_id="k", model="a", deployment="d/a", endpoint="chat",
        started_at=1, prompt_tokens=10, completion_tokens=20, outcome="completed", source="engine",
        billed=True, **values,
    )  # fmt: skip


class Router:
    """A journal of three settlements, as it would be shipped."""

    def __init__(self, ledger: Ledger, name: str = "j", counted_from: str | None = "") -> None:
        self.ledger, self.name, self.counted_from = ledger, name, counted_from
        self.events = [settlement(number + 100 * len(name)) for number in range(3)]
        ledger(pricebook.apply, MODELS, now=0)

    def ship(self, *events: Usage, written: int = 3, upto: int = 3) -> ingest.Outcome:
        sums = Written(
            day="2026-12-01", model="a", settlements=written, prompt_tokens=10 * written,
            completion_tokens=20 * written, upto=upto,
        )  # fmt: skip
        batch = UsageBatch(
            journal=self.name, first=1, last=3, events=list(events),
            written=[] if self.counted_from is None else [sums], counted_from=self.counted_from,
        )  # fmt: skip
        (outcome,) = self.ledger(ingest.ingest, [prepare(batch)], Memory(), NOW)
        return outcome


def test_what_journals_wrote_is_in_the_ledger(ledger: Ledger) -> None:
    for name in ("j", "jj"):
        router = Router(ledger, name)
        for _ in range(2):  # an answer was lost
            router.ship(*router.events)
    assert compare(ledger) == []


def test_a_record_that_was_dropped_on_the_way_is_told(ledger: Ledger) -> None:
    router = Router(ledger)
    router.ship(*router.events[:2])
    (drift,) = compare(ledger)
    assert (drift.place, drift.model, drift.day, drift.tokens) == (
        "journals", "a", "2026-12-01", 30,
    )  # fmt: skip
    assert "1 requests more than in the ledger, 10 prompt_tokens more" in drift.says
    assert "lost between the journals and the ledger" in drift.says
    assert conserve.by_place([drift])["journals"] == 30
    router.ship(*router.events)
    assert compare(ledger) == []


def test_a_whole_batch_that_never_came_is_told(ledger: Ledger) -> None:
    """Its journal went on: the next batch has its sums."""
    router = Router(ledger)
    router.ship()
    (drift,) = compare(ledger)
    assert drift.held.requests == 3
    assert "lost between" in drift.says


def test_a_row_that_the_ledger_lost_is_told(ledger: Ledger) -> None:
    router = Router(ledger)
    router.ship(*router.events)

    def lose(connection: Any) -> None:
        if ledger.kind == "sqlite":
            connection.execute(text("DROP TRIGGER event_never_deleted"))
        else:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
        one = {"id": router.events[1].event_id}
        connection.execute(text("DELETE FROM event WHERE event_id = :id"), one)

    ledger(lose)
    drifts = {one.place: one for one in compare(ledger)}
    assert set(drifts) == {"rollup_minute", "rollup_hour", "rollup_day", "journals"}
    assert "the ledger has lost rows that it had" in drifts["journals"].says


def test_what_was_refused_is_no_loss(ledger: Ledger) -> None:
    router = Router(ledger)
    good, other, bad = router.events
    assert router.ship(good, other, settlement(7, reason="x" * 601)).malformed
    assert compare(ledger) == []
    assert router.ship(bad, msgspec.structs.replace(bad, reason="other"), written=5).conflicts
    assert compare(ledger) == []


def test_what_is_on_its_way_is_no_loss(ledger: Ledger) -> None:
    router = Router(ledger)
    router.ship(*router.events[:2], upto=4)
    assert compare(ledger) == []


def test_what_no_journal_has_written_is_told_where_all_count(ledger: Ledger) -> None:
    router = Router(ledger)
    router.ship(*router.events, settlement(7))
    (drift,) = compare(ledger)
    assert "1 requests fewer than in the ledger" in drift.says
    assert "no journal has written it" in drift.says
    old = Router(ledger, "jj", counted_from=None)  # one of a release that did not count
    old.ship(settlement(8))
    assert compare(ledger) == []
    late = Router(ledger, "jj", counted_from="2026-12-02")
    late.ship()
    assert compare(ledger)[0].place == "journals", "what it wrote since then counts"


def test_sums_never_go_back_and_what_is_no_sum_keeps_nothing_out(ledger: Ledger) -> None:
    router = Router(ledger)
    router.ship(*router.events)
    router.ship(written=1, upto=2)
    router.ship(written=1, upto=9)
    assert compare(ledger) == []
    nonsense = [
        Written(day="today", model="a", settlements=1, prompt_tokens=0, completion_tokens=0, upto=1),
        Written(day="2026-12-01", model="a\0", settlements=1, prompt_tokens=0, completion_tokens=0, upto=1),
        Written(day="2026-12-01", model="a", settlements=-1, prompt_tokens=0, completion_tokens=0, upto=9),
        Written(day="2026-12-01", model="a", settlements=2**60, prompt_tokens=0, completion_tokens=0, upto=9),
    ]  # fmt: skip
    batch = UsageBatch(
        journal="j", first=4, last=4, events=[settlement(7)], written=nonsense, counted_from="\0"
    )
    (outcome,) = ledger(ingest.ingest, [prepare(batch)], Memory(), NOW)
    assert outcome.added == 1
    assert "1 requests fewer" in compare(ledger)[0].says


async def test_a_real_meters_sums_are_its_records(tmp_path: Path) -> None:
    """Over a restart, and with one record dropped by whoever carries it."""
    seen: list[UsageBatch] = []

    async def billing(request: httpx.Request) -> httpx.Response:
        batch = msgspec.json.decode(request.content, type=UsageBatch)
        seen.append(batch)
        return httpx.Response(200, content=msgspec.json.encode(UsageAck(acked=batch.last)))

    for life in range(2):
        meter = Meter(Journal(tmp_path, 64 * 1024), Slots(tmp_path / "slots", 64), strict=False)
        async with httpx.AsyncClient(transport=httpx.MockTransport(billing)) as client:
            shipping = asyncio.create_task(meter.ship(client, "http://billing"))
            for number in range(300):
                event = settlement(1000 * life + number)
                meter.attempt(msgspec.structs.replace(event, kind="attempt", billed=False))
                meter.settle(event, -1)
            await asyncio.wait_for(meter.flushed(), 20)
            shipping.cancel()
            await asyncio.gather(shipping, return_exceptions=True)
        meter.close()
    assert seen[-1].counted_from == ""
    (last,) = seen[-1].written
    assert (last.settlements, last.upto) == (600, seen[-1].last)
    for batch in seen:  # each batch's sums are of its own moment
        known = sum(len(one.events) for one in seen[: seen.index(batch) + 1])
        assert [one.settlements for one in batch.written] == [known] or batch.last < batch.written[0].upto  # fmt: skip
