"""Draining, phases and the back-off: tables."""

import pytest

from tidegate_operator.drain import Busy, busy, choose, mark, may_stop
from tidegate_operator.status import Facts, backoff, status
from tidegate_runtime.contract.links import DemandLine, ReplicaDemand


def line(in_flight: int = 0, mark: str = "100", router: str = "r") -> DemandLine:
    """What a router says; its clock is an hour slow."""
    replica = ReplicaDemand(id="x", in_flight=in_flight, excluded=bool(mark), mark=mark)
    return DemandLine(router=router, at=100 - 3600, replicas=[replica])


@pytest.mark.parametrize(
    ("lines", "now", "stop", "reason"),
    [
        ({"r": line()}, 102, True, "every router"),
        ({"r": line(in_flight=1)}, 102, False, "has 1 in flight"),
        ({"r": line(mark="")}, 102, False, "has not excluded it"),
        ({"r": line(mark="99")}, 102, False, "has not excluded it"),  # for a drain taken back
        ({"r": line(), "s": line(in_flight=2)}, 102, False, "router s has 2"),
        ({"r": None}, 102, False, "router r is silent"),
        ({"r": None, "s": line()}, 699, False, "router r is silent"),
        ({"r": DemandLine(router="r", at=101)}, 102, False, "has not excluded it"),
        ({"r": line(in_flight=3)}, 700, True, "timeoutSeconds"),
        ({}, 101, True, "every router"),
    ],
)
def test_may_stop(lines: dict[str, DemandLine | None], now: float, stop: bool, reason: str) -> None:
    verdict = may_stop("x", lines, since=100, timeout=600, now=now)
    assert verdict.stop is stop
    assert reason in verdict.reason


def test_each_drain_has_its_own_mark() -> None:
    assert mark(100.0) == "100"
    assert mark(1_800_000_000.1234) == "1800000000.123"
    assert mark(float(mark(1_800_000_000.1234))) == mark(1_800_000_000.1234)


def test_the_least_busy_go_first() -> None:
    replicas = [
        Busy("a", 3),
        Busy("b", 1),
        Busy("c", 1),
        Busy("d", None),
        Busy("e", 9, ready=False),
    ]
    assert choose(replicas, 4) == ["e", "b", "c", "a"]
    assert choose(replicas, 0) == []
    assert choose(replicas, -1) == []
    assert choose(replicas, 9)[-1] == "d"


def test_load_is_summed_and_silence_is_not_zero() -> None:
    lines = {"r": line(2), "s": line(3, router="s")}
    assert busy(["x", "y"], lines) == [Busy("x", 5), Busy("y", 0)]
    assert busy(["x"], {**lines, "t": None}) == [Busy("x", None)]


@pytest.mark.parametrize(
    ("facts", "phase"),
    [
        (Facts(), "Idle"),
        (Facts(observed=False), "Pending"),
        (Facts(desired=1), "Starting"),
        (Facts(desired=1, starting=1), "Starting"),
        (Facts(desired=1, failure="OOMKilled"), "Starting"),
        (Facts(desired=1, failure="ModelNotFound", failure_final=True), "Failed"),
        (Facts(failure="OOMKilled"), "Failed"),
        (Facts(desired=1, ready=1), "Ready"),
        (Facts(desired=3, ready=1, starting=2), "Ready"),
        (Facts(desired=3, ready=1), "Degraded"),
        (Facts(desired=2, ready=1, failure="Unschedulable"), "Degraded"),
        (Facts(ready=1, draining=1), "Ready"),
        (Facts(ready=1, suspended=True), "Suspended"),
        (Facts(ready=1, suspended=True, deleting=True), "Terminating"),
        (Facts(valid=False), "Failed"),
    ],
)
def test_phases(facts: Facts, phase: str) -> None:
    found = status(facts)
    assert found.phase == phase
    assert found.reason


def test_backoff() -> None:
    assert [backoff(n) for n in range(-1, 9)] == [0, 0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert backoff(10**9) == 60
