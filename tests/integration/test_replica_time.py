"""Replicas' time in the ledger: kept once however it is told, paid by the owner, exact by policy."""

import datetime as dt
import itertools
import random
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from ledgers import Ledger
from tidegate_billing import (
    adjust,
    conserve,
    ingest,
    money,
    pricebook,
    replicas,
    rollup,
    tariff,
    tenant_query,
    tenant_usage,
)
from tidegate_billing import ledger as questions
from tidegate_billing.adjust import Scope, Why
from tidegate_billing.ingest import Memory, Sorted, prepare
from tidegate_billing.links import ModelPricing, Pricing, ReplicaCounted, ReplicaTime, UsageBatch
from tidegate_billing.rates import book as books
from tidegate_billing.tenant_query import COSTS_PATH
from tidegate_billing.usage import DAY_MS, Usage, attempt_time, problem, uuid7

NOW = 1_800_000_000_000_000
START = int(dt.datetime(2026, 11, 3, tzinfo=dt.UTC).timestamp() * 1000)
MONTH = "2026-11"
PERIOD = {"first": "2026-11-01", "last": "2026-11-30"}
OWN = Pricing(input_per_million="1", output_per_million="4")
MODEL = ModelPricing(deployment="d/m", model="m", owner="acme", pricing=OWN)
BARE = ModelPricing(deployment="d/bare", model="bare", owner="acme")


def stretch(begin: int, cold: int, serving: int, idle: int, **named: str) -> ReplicaTime:
    names = {"deployment": "d/m", "epoch": "m-1", "model": "m", "owner": "acme"} | named
    return ReplicaTime(
        **names,
        begin=begin,
        end=begin + cold + serving + idle,
        cold_start=cold,
        serving=serving,
        idle_tail=idle,
    )


LIFE = [
    stretch(START, 40_000, 20_000, 0),
    stretch(START + 60_000, 0, 45_000, 15_000),
    stretch(START + 120_000, 0, 0, 33_333),
]
COLD, SERVING, IDLE = 40_000, 65_000, 48_333


def put(ledger: Ledger, *told: ReplicaTime) -> tuple[list[ReplicaCounted], Sorted]:
    return ledger(replicas.keep, list(told), NOW)


def book(policy: dict[str, Any], price: Any = "0.001", since: str = "2026-01-01T00:00:00Z") -> Any:
    prices = {"input": "1", "output": "4", "replicaSecond": price}
    entry = {"model": "m", "prices": prices, "replica": policy}
    return {"name": "list", "currency": "USD", "effectiveFrom": since, "entries": [entry]}


def write(ledger: Ledger, document: Any) -> None:
    ledger(tariff.write, books.parse(document), document, NOW)


@pytest.fixture
def priced(ledger: Ledger) -> Ledger:
    ledger(pricebook.apply, [MODEL, BARE], now=0)
    return ledger


def exact(ledger: Ledger) -> str:
    rows = ledger(questions.usage, tenant="acme", by=[], **PERIOD)
    return str(rows[0]["amount_exact"]) if rows else "0"


def invoice(ledger: Ledger) -> dict[str, Any]:
    totals = ledger(questions.totals, "acme", MONTH)
    return ledger(questions.invoice, "acme", MONTH, "USD", totals)


def count(ledger: Ledger, query: str) -> Any:
    return ledger.read(lambda connection: connection.execute(text(query)).scalar())


POLICIES: list[tuple[Any, Any, int]] = [
    ("charge", "charge", COLD + SERVING + IDLE),
    ("absorb", "absorb", SERVING),
    ("charge", "absorb", COLD + SERVING),
    # hundredths: 33 % of 40,000 and 50 % of 48,333 (which is not whole)
    ({"split": 33}, {"split": 50}, SERVING),
]


@pytest.mark.parametrize(("cold", "idle", "whole"), POLICIES)
def test_a_life_costs_its_owner_what_the_policy_says(
    priced: Ledger, cold: Any, idle: Any, whole: int
) -> None:
    write(priced, book({"coldStart": cold, "idleTail": idle}))
    put(priced, *LIFE)
    hundredths = 100 * whole
    if isinstance(cold, dict):
        hundredths += 33 * COLD + 50 * IDLE
    # 0.001 for a second: 1e15 atto for 100,000 hundredths of a millisecond
    assert exact(priced) == money.plain(hundredths * 10**10)
    (line,) = invoice(priced)["lines"]
    assert (line["kind"], line["unit"]) == ("replica_second", "second")
    assert line["quantity"] == hundredths
    assert line["amount_exact"] == exact(priced)
    (row,) = priced(questions.usage, tenant="acme", by=["model", "day"], **PERIOD)
    assert (row["requests"], row["prompt_tokens"], row["day"]) == (0, 0, "2026-11-03")
    asked = f"start_time={START // 1000}&limit=1&group_by=line_item"
    question = tenant_query.read(_kind(), "acme", asked, START // 1000 + 86_400)
    page: Any = priced.read(lambda c: tenant_usage.answer(c, "acme", question))
    (result,) = page["data"][0]["results"]
    assert result["line_item"] == "m, replica_seconds"
    assert result["amount"]["value"] == pytest.approx(float(exact(priced)))
    page = priced.read(lambda c: tenant_usage.answer(c, "acme", _asked("completions")))
    assert page["data"][0]["results"] == []
    assert settled(priced)


def _asked(name: str) -> tenant_query.Question:
    kind = tenant_query.KINDS[tenant_query.USAGE_PATH + name]
    return tenant_query.read(kind, "acme", f"start_time={START // 1000}&limit=1", START // 1000 + 9)


def _kind() -> tenant_query.Kind:
    return tenant_query.KINDS[COSTS_PATH]


def settled(ledger: Ledger) -> bool:
    """Nothing drifts, and rebuilding finds the same sums."""
    days = ("2026-11-01", "2026-11-30")
    assert ledger.read(lambda c: conserve.compare(c, *days)) == []
    held = ledger(questions.usage, tenant="acme", by=["model", "key", "day"], **PERIOD)
    ledger(rollup.rebuild)
    again = ledger(questions.usage, tenant="acme", by=["model", "key", "day"], **PERIOD)
    return held == again and ledger.read(lambda c: conserve.compare(c, *days)) == []


def test_a_stretch_that_is_told_again_counts_once(priced: Ledger) -> None:
    write(priced, book({"coldStart": "charge", "idleTail": "charge"}))
    counted, batch = put(priced, *LIFE[:2])
    assert counted == [ReplicaCounted(deployment="d/m", epoch="m-1", until=LIFE[1].end)]
    assert len(batch.fresh) == 2
    before = exact(priced)
    # Another operator saw other phases and cut elsewhere: what is counted is left as it is.
    other = [stretch(START, 0, 50_000, 0), stretch(START + 50_000, 0, 0, 60_000)]
    for told in (LIFE[:2], LIFE[1:2], other):
        counted, batch = put(priced, *told)
        assert counted[0].until == LIFE[1].end
        assert (batch.fresh, batch.conflicts, batch.malformed) == ([], [], [])
    assert exact(priced) == before
    assert count(priced, "SELECT count(*) FROM refused") == 0
    put(priced, *LIFE)
    assert exact(priced) == money.plain((COLD + SERVING + IDLE) * 10**12)
    assert count(priced, "SELECT count(*) FROM event WHERE kind = 'replica'") == 3


def test_what_nobody_prices_is_neither_billed_nor_parked(priced: Ledger) -> None:
    _, batch = put(priced, *LIFE, stretch(START, 1, 2, 3, deployment="d/bare", model="bare"))
    assert len(batch.fresh) == 4
    assert priced(questions.parked) == 0
    assert exact(priced) == "0"
    assert invoice(priced) == {
        "tenant": "acme", "period": MONTH, "currency": "USD", "lines": [], "total": "0.00",
    }  # fmt: skip
    assert settled(priced)
    # A price that comes late is for what comes from then on, and for a month that is re-rated.
    write(priced, book({"coldStart": "absorb", "idleTail": "absorb"}))
    assert priced(adjust.release, NOW) == 0
    assert exact(priced) == "0"
    assert priced(adjust.rerate, Scope(MONTH, MONTH, tenant="acme"), Why("x", "admin"), NOW) == 3
    assert exact(priced) == money.plain(SERVING * 10**12)
    assert settled(priced)


def test_under_tiers_stretches_add_up_to_the_bill_in_any_cut(priced: Ledger) -> None:
    tiers = {
        "kind": "graduated",
        "tiers": [{"upTo": 30, "unitPrice": "0.01"}, {"unitPrice": "0.003"}],
    }
    write(priced, book({"coldStart": {"split": 7}, "idleTail": {"split": 13}}, tiers))
    rng = random.Random(3)
    sums = [0, 0, 0]
    for number in range(7):
        begin = START + number * DAY_MS
        for _ in range(5):
            phases = [rng.randrange(1, 9000) for _ in range(3)]
            put(priced, stretch(begin, *phases, epoch=f"m-{number}"))
            begin += sum(phases)
            sums = [a + b for a, b in zip(sums, phases, strict=True)]
    hundredths = 7 * sums[0] + 100 * sums[1] + 13 * sums[2]
    first = 30 * 100_000
    assert exact(priced) == money.plain(first * 10**11 + (hundredths - first) * 3 * 10**10)
    lines = invoice(priced)["lines"]
    assert [line["quantity"] for line in lines] == [first, hundredths - first]
    assert settled(priced)


def test_requests_beside_replicas_keep_their_own_counts(priced: Ledger) -> None:
    write(priced, book({"coldStart": "absorb", "idleTail": "absorb"}))
    asked = Usage(
        attempt_id=uuid7(START * 10**6), kind="settlement", request_id="r", tenant="acme",
        project="default", key_id="k", model="m", deployment="d/m", endpoint="chat", started_at=1,
        prompt_tokens=1000, completion_tokens=100, outcome="completed", source="engine",
        replica="m-1", billed=True,
    )  # fmt: skip
    batch = UsageBatch(journal="j", first=1, last=1, events=[asked])
    priced(ingest.ingest, [prepare(batch)], Memory(), NOW)
    put(priced, *LIFE)
    (row,) = priced(questions.usage, tenant="acme", by=["model"], **PERIOD)
    assert (row["requests"], row["prompt_tokens"], row["completion_tokens"]) == (1, 1000, 100)
    kinds = [line["kind"] for line in invoice(priced)["lines"]]
    assert kinds == ["input", "output", "replica_second"]
    listed = priced(questions.events, questions.EventFilter("replica"), limit=9, after=None)
    assert [row["serving_ms"] for row in listed] == [20_000, 45_000, 0]
    assert sum(money.parse(row["amount_exact"]) for row in listed) == SERVING * 10**12
    assert [row["kind"] for row in priced(questions.events, questions.EventFilter(), limit=9, after=None)] == ["settlement"]  # fmt: skip
    assert count(priced, "SELECT count(*) FROM journal") == 1
    assert settled(priced)


def test_the_phases_of_a_day_are_compared_too(priced: Ledger) -> None:
    put(priced, *LIFE)
    priced(lambda c: c.execute(text("UPDATE rollup_hour SET idle_tail_ms = idle_tail_ms - 5")))
    (drift,) = priced.read(lambda c: conserve.compare(c, "2026-11-03", "2026-11-03"))
    assert drift.place == "rollup_hour"
    assert "5 replica_ms fewer" in drift.says


def test_what_is_no_stretch_is_named() -> None:
    good = stretch(START, 1, 2, 3)
    longest = {"deployment": f"{'n' * 63}/{'d' * 253}", "model": "m" * 128, "epoch": "e" * 90}
    for one in (good, msgspec.structs.replace(good, **longest)):
        assert replicas.problem(one) is None
    wrong = [
        ReplicaTime(deployment="d/m", epoch="e", model="m", owner="acme", begin=5, end=5),
        ReplicaTime(deployment="d/m", epoch="e", model="m", owner="acme", begin=5, end=9),
        stretch(START, -1, 2, 3),
        stretch(START, replicas.LONGEST_MS, 1, 0),
        stretch(START, 1, 2, 3, owner="No Tenant"),
        stretch(START, 1, 2, 3, epoch=""),
        stretch(START, 1, 2, 3, model="m\0"),
        stretch(-5, 1, 2, 3),
    ]
    assert all(replicas.problem(one) for one in wrong)


def test_events_of_other_kinds_have_no_phases_and_ids_tell_the_time() -> None:
    made = replicas.event(LIFE[0])
    assert problem(made) is None
    other = msgspec.structs.replace(made, kind="settlement")
    assert "a replica's time is set on an event of kind settlement" in (problem(other) or "")
    assert attempt_time(made.attempt_id) == START
    assert made == replicas.event(LIFE[0])
    ids = {
        replicas.event(stretch(begin, 1, 1, 1, epoch=epoch, deployment=deployment)).event_id
        for begin, epoch, deployment in itertools.product((0, START), ("a", "b"), ("d/m", "d/n"))
    }
    assert len(ids) == 8
