"""docs/explanation.md: its worked numbers are what the code decides, and its modules exist."""

import importlib
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tidegate_billing.links import EngineCounters
from tidegate_billing.reconcile import Recorded, balance
from tidegate_billing.usage import Usage
from tidegate_operator.autoscale import Decision, Policy, Sample, State, decide
from tidegate_operator.demand import FORGET_AFTER, SILENT_AFTER
from tidegate_operator.local.replica import ColdStart
from tidegate_operator.status import backoff
from tidegate_runtime import exchange, gate
from tidegate_runtime.contract.spec import Scaling
from tidegate_runtime.hold import HoldQueue, Ticket
from tidegate_runtime.settlement import settlement
from tidegate_runtime.stream import Counts

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "explanation.md").read_text()
TABLE = re.compile(r"^(\|[^\n]*\|\n)\|[-|]*\|\n((?:\|[^\n]*\|\n)+)", re.MULTILINE)

Row = dict[str, str]


def rows(first: str) -> list[Row]:
    """The table whose first column has this head."""
    [table] = [found for found in TABLE.finditer(TEXT) if found[1].startswith(f"| {first} |")]
    head, *body = [
        [cell.strip() for cell in line[1:-1].split("|")]
        for line in (table[1] + table[2]).splitlines()
    ]
    # A name that stands twice is that of what goes in and of what comes out.
    return [dict(zip(head, cells, strict=True)) for cells in body]


def ids(row: Row) -> str:
    return " ".join(row.values())[:50]


@pytest.mark.parametrize("row", rows("they come in this order"), ids=ids)
def test_turns(row: Row) -> None:
    queue: HoldQueue[str] = HoldQueue()
    for name in row["they come in this order"].split():
        assert queue.push(Ticket(name, name[0], 0.0, 9.0, ""), 9, gate.TENANT_SHARE) is None
    went = [ticket.item for ticket in iter(queue.pop, None)]
    assert went == row["and go in this order"].split()


def test_pauses_after_failures() -> None:
    [row] = rows("failures in a row")
    label, *counts = row
    assert row[label] == "pause in seconds"
    assert [backoff(int(one)) for one in counts] == [float(row[one]) for one in counts]
    assert [int(one) for one in counts] == list(range(9))


def decided(row: Row) -> Decision:
    rules = Policy(max_replicas=8)
    decision = Decision(State.initial(int(row["replicas"]), 0.0), 0, "")
    told = re.findall(r"(\d+) s of (\d+)", row["demand, second by second"]) or [("1", "0")]
    demand = [int(each) for count, each in told for _ in range(int(count))]
    for now, in_flight in enumerate(demand, 1):
        held = int(row["held"]) if now == len(demand) else 0
        decision = decide(decision.state, [Sample(now, in_flight, held)], rules, now)
    return decision


@pytest.mark.parametrize("row", rows("replicas"), ids=ids)
def test_decisions(row: Row) -> None:
    decision = decided(row)
    assert (decision.replicas, decision.reason) == (int(row["decided"]), row["reason"])


def test_the_defaults_that_the_decisions_are_made_with() -> None:
    rules, said = Policy(max_replicas=8), Scaling()
    assert rules == Policy(
        max_replicas=8,
        target_concurrency=said.target_concurrency,
        idle_seconds=said.idle_seconds,
        scale_down_delay_seconds=said.scale_down_delay_seconds,
        stable_window_seconds=said.stable_window_seconds,
        panic_window_seconds=said.panic_window_seconds,
        panic_threshold=said.panic_threshold,
    )
    words = (
        f"target {said.target_concurrency}, idle {said.idle_seconds} s, windows "
        f"{said.stable_window_seconds} s and {said.panic_window_seconds} s, threshold "
        f"{said.panic_threshold:.0f}, delay {said.scale_down_delay_seconds} s"
    )
    assert words in TEXT


def test_numbers_in_the_text() -> None:
    assert f"silent for {SILENT_AFTER:.0f} seconds" in TEXT
    assert f"after {FORGET_AFTER:.0f} seconds it is taken for gone" in TEXT
    assert gate.TENANT_SHARE == 1.0
    assert gate.SUSPECT_SECONDS == 1.0
    assert exchange.MAX_ATTEMPTS == 4


@pytest.mark.parametrize("row", rows("held at"), ids=ids)
def test_own_share(row: Row) -> None:
    *times, share = row.values()
    held, executed, able, forwarded = (float(one) for one in times)
    cold = ColdStart("1", "a/m", held, executed, able, forwarded)
    assert round(cold.own_share_ms, 3) == float(share)
    assert all(a <= b for a, b in pairwise((held, executed, able, forwarded)))


ATTEMPT = Usage(
    attempt_id="a", kind="attempt", request_id="r", tenant="t", project="p", key_id="k", model="m",
    deployment="d/m", endpoint="/v1/chat/completions", started_at=1,
)  # fmt: skip


def settlements() -> list[Row]:
    found = rows("outcome")
    assert {row["outcome"] for row in found} == {"completed", "aborted", "broken", "failed", "lost"}
    return found


@pytest.mark.parametrize("row", settlements(), ids=ids)
def test_settlements(row: Row) -> None:
    outcome: Any = row["outcome"]
    counted = re.fullmatch(r"(\d+) \+ (\d+)", row["counts (in + out)"])
    counts = Counts(int(counted[1]), int(counted[2])) if counted else None
    settled = settlement(
        ATTEMPT,
        outcome,
        counts,
        partial=row["the engine's last word"] == "no",
        reason=row["reason given"],
        now=2.0,
    )
    assert (settled.billed, settled.source) == (row["billed"] == "yes", row["source"])
    assert settled.reason == row["reason"]
    tokens = (counts.prompt_tokens, counts.completion_tokens) if counts else (0, 0)
    assert (settled.prompt_tokens, settled.completion_tokens) == tokens


@pytest.mark.parametrize("row", rows("generated"), ids=ids)
def test_conservation(row: Row) -> None:
    outcome = "aborted" if row["an early end"] == "yes" else "completed"
    state: Any = row["state"]
    counters = EngineCounters(
        model="m", deployment="d/m", epoch="e", prompt=0, generated=int(row["generated"]),
        state=state, verified=state != "lost",
    )  # fmt: skip
    made = balance(
        "e",
        "m",
        counters,
        [
            Recorded("settlement", True, "", outcome, int(row["billed"])),
            Recorded("settlement", False, "probe", "completed", int(row["probes"])),
        ],
    )
    said = ", ".join(f"{reason} {tokens}" for reason, tokens in made.unbilled.items())
    assert said == row["unbilled"]
    assert (made.unverified, made.unexplained) == (
        int(row["unverified"]),
        int(row["unexplained"]),
    )
    assert made.generated == (
        made.billed + sum(made.unbilled.values()) + made.unverified + made.unexplained
    )


def test_the_modules_exist() -> None:
    named = set(re.findall(r"`(tidegate_\w+(?:\.\w+)+)`", TEXT))
    assert len(named) >= 10
    for name in named:
        path = name.split(".")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(".".join(path[:-1])), path[-1]), name
