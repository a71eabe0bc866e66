"""A pod whose engine hangs after it had served: replaced with a short grace, told, never a failed start."""

import pytest

from one_model import T, heard, made, pod
from tidegate_operator.demand import Picture
from tidegate_runtime.contract.links import ReplicaDemand

WHY = "no answer got any further for 120 s"


def said(in_flight: int = 0, hung: str = WHY) -> ReplicaDemand:
    return ReplicaDemand(id="p.0", in_flight=in_flight, answered_at=T, hung=hung)


@pytest.mark.parametrize("others", [0, 1])
def test_it_is_deleted_soon_and_told(others: int) -> None:
    pods = [pod("p"), *(pod(f"q{i}") for i in range(others))]
    model, picture = made(1 + others, *pods), Picture()
    heard(picture, T, in_flight=1, replicas=[said()])
    model.told(said())
    model.evaluate(picture, T)
    assert model.discard(T) == [], "not within the first second"
    assert model.discard(T + 2) == ["p"]
    assert not model.has_served("p"), "there is nothing to see out"
    assert model.failure is not None
    assert (model.failure.reason, model.failure.message, model.failure.final) == (
        "EngineHung", WHY, False,
    )  # fmt: skip


def test_it_stays_while_another_router_has_requests_there() -> None:
    model, picture = made(1, pod("p")), Picture()
    heard(picture, T, replicas=[said()], router="a")
    heard(picture, T, replicas=[said(2, hung="")], router="b")
    model.told(said())
    model.evaluate(picture, T)
    assert model.discard(T + 60) == []
    assert model.has_served("p")
    heard(picture, T + 60, replicas=[said(2, hung="it does not answer")], router="b")
    model.evaluate(picture, T + 60)
    assert model.discard(T + 62) == ["p"]


def test_its_next_life_is_not_judged_by_the_last() -> None:
    model, picture = made(1, pod("p")), Picture()
    heard(picture, T, replicas=[said()])
    model.told(said())
    model.evaluate(picture, T)
    model.observe(None, [pod("p", restarts=1)])
    assert model.discard(T + 2) == []
