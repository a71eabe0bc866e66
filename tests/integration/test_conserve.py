"""Conservation inside the ledger: nothing drifts, and what is planted is told with its place."""

from typing import Any

import pytest
from sqlalchemy import text

from ledgers import Ledger
from tidegate_billing import adjust, conserve, ingest, pricebook, retention, rollup, tariff
from tidegate_billing.adjust import Scope, Why
from tidegate_billing.conserve import Held
from tidegate_billing.ingest import Memory, prepare
from tidegate_billing.links import ModelPricing, Pricing, UsageBatch
from tidegate_billing.rates import book as books
from tidegate_billing.usage import Usage, uuid7

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
