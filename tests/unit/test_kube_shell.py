"""The election, the queue and the status: decisions of the shell that need no API server."""

import asyncio
from typing import Any

import pytest

from tidegate_billing.links import PricedModel
from tidegate_operator.kube import lease, override, report
from tidegate_operator.kube.api import ApiError
from tidegate_operator.kube.coldstart import ColdStart
from tidegate_operator.kube.model import Model
from tidegate_operator.kube.queue import Queue
from tidegate_operator.kube.report import Priced
from tidegate_operator.kube.routers import addresses
from tidegate_operator.kube.verdict import Verdict
from tidegate_runtime.contract.links import Failure


def held(version: str, holder: str) -> dict[str, Any]:
    return {"metadata": {"resourceVersion": version}, "spec": {"holderIdentity": holder}}


def test_a_lease_is_followed_while_it_moves_and_taken_when_it_stands_still() -> None:
    first = lease.judge(held("1", "b"), "a", None, 100.0)
    assert first.action == "follow"
    moved = lease.judge(held("2", "b"), "a", first.seen, 102.9)
    assert moved.action == "follow"
    still = lease.judge(held("2", "b"), "a", moved.seen, 105.8)
    assert still.action == "follow"
    assert lease.judge(held("2", "b"), "a", still.seen, 105.9).action == "take"
    assert lease.judge(held("2", ""), "a", still.seen, 105.0).action == "take"
    assert lease.judge(held("3", "a"), "a", None, 1.0).action == "renew"


def test_taking_a_lease_counts_and_renewing_does_not() -> None:
    taken = lease.written(held("1", "b"), "a", "now", taken=True)
    assert taken["spec"]["leaseTransitions"] == 1
    again = lease.written(taken, "a", "later", taken=False)
    assert again["spec"]["leaseTransitions"] == 1
    assert again["spec"]["acquireTime"] == "now"
    assert again["spec"]["renewTime"] == "later"


async def run(queue: Queue, until: asyncio.Event) -> None:
    task = asyncio.ensure_future(queue.run())
    await asyncio.wait_for(until.wait(), 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_key_runs_once_at_a_time_and_once_more_for_what_came_meanwhile() -> None:
    seen: list[str] = []
    done = asyncio.Event()

    async def work(key: str) -> None:
        seen.append(key)
        if len(seen) == 1:
            queue.add(key)
            queue.add(key)
            await asyncio.sleep(0)
        else:
            done.set()

    queue = Queue(work)
    queue.add("k")
    queue.add("k")
    await run(queue, done)
    assert seen == ["k", "k"]


async def test_one_that_fails_delays_no_other_and_comes_again() -> None:
    seen: list[str] = []
    done = asyncio.Event()

    async def work(key: str) -> None:
        seen.append(key)
        if key == "poison" and seen.count(key) == 1:
            raise ApiError(422, "Invalid", "never")
        if key == "poison":
            assert len(seen) > 50, "the others went first"
            done.set()

    queue = Queue(work)
    queue.add("poison")
    for number in range(50):
        queue.add(f"good-{number}")
    await run(queue, done)


async def test_of_many_calls_for_later_the_first_sets_the_time() -> None:
    seen: list[str] = []
    done = asyncio.Event()

    async def work(key: str) -> None:
        seen.append(key)
        done.set()

    queue = Queue(work)
    queue.within("k", 0.01)
    queue.within("k", 3600.0)
    await run(queue, done)
    assert seen == ["k"]


OBJ = {"metadata": {"namespace": "n", "name": "m", "uid": "u", "generation": 3}}
GOOD = Verdict(None, "Valid", "the resource is valid")
PRICED = Priced(PricedModel(deployment="n/m", priced=True, price_version=2), "")


def conditions(made: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["type"]: one for one in made["conditions"]}


def test_an_unchanged_model_has_the_same_status_at_any_time() -> None:
    model = Model("n/m")
    first = report.written(model, GOOD, PRICED, OBJ, "http://gate", 1000.0)
    again = report.written(model, GOOD, PRICED, {**OBJ, "status": first}, "http://gate", 2000.0)
    assert again == first


def test_a_condition_keeps_its_time_until_it_turns() -> None:
    model = Model("n/m")
    first = report.written(model, GOOD, Priced(), OBJ, "", 1000.0)
    later = report.written(model, GOOD, PRICED, {**OBJ, "status": first}, "", 2000.0)
    assert conditions(later)["Priced"]["lastTransitionTime"] == report.stamp(2000.0)
    assert conditions(later)["Valid"]["lastTransitionTime"] == report.stamp(1000.0)


def test_what_keeps_a_model_from_serving_is_in_ready() -> None:
    model = Model("n/m")
    bad = Verdict(None, "PolicyRefused", "spec.access: not allowed")
    assert (
        conditions(report.written(model, bad, PRICED, OBJ, "", 1.0))["Ready"]["reason"]
        == "PolicyRefused"
    )
    unpriced = Priced(PricedModel(deployment="n/m", priced=False), "")
    told = conditions(report.written(model, GOOD, unpriced, OBJ, "", 1.0))
    assert told["Ready"]["reason"] == "NotPriced"
    assert "spec.pricing" in told["Priced"]["message"]
    model.failing.failure = Failure(
        start_id="1", reason="OOMKilled", message="too big", at=5.0, final=True
    )
    told = conditions(report.written(model, GOOD, PRICED, OBJ, "", 1.0))
    assert told["EngineHealthy"]["status"] == "False"
    assert told["EngineHealthy"]["reason"] == "OOMKilled"


def test_the_last_request_is_told_to_the_minute() -> None:
    model = Model("n/m")
    model.last_request = 10_000.0
    first = report.written(model, GOOD, PRICED, OBJ, "", 10_000.0)
    model.last_request = 10_030.0
    second = report.written(model, GOOD, PRICED, {**OBJ, "status": first}, "", 10_030.0)
    assert second == first
    model.last_request = 10_061.0
    third = report.written(model, GOOD, PRICED, {**OBJ, "status": first}, "", 10_061.0)
    assert third["lastRequestTime"] == report.stamp(10_061.0)


def test_steps_of_a_cold_start_are_differences() -> None:
    cold = ColdStart("1", 10.0, 10.25, 11.0, 11.0, 13.0, 0.0, 19.0, 19.5)
    assert report.phases(cold) == {
        "scale": 0.25, "create": 0.75, "schedule": 0.0, "pull": 2.0, "engine": 6.0, "forward": 0.5,
    }  # fmt: skip


def test_transitions_worth_an_event() -> None:
    model = Model("n/m")
    valid = report.written(model, GOOD, PRICED, OBJ, "", 1.0)
    broken = report.written(model, Verdict(None, "InvalidSpec", "no"), PRICED, OBJ, "", 1.0)
    told = report.transition(valid, broken)
    assert told is not None
    assert (told.reason, told.status) == ("InvalidSpec", False)
    assert report.transition(valid, valid) is None


@pytest.mark.parametrize(
    ("annotations", "replicas"),
    [
        ({}, None),
        ({"tidegate.dev/replicas": "2"}, 2),
        ({"tidegate.dev/replicas": "2", "tidegate.dev/replicas-until": "2001-09-09T02:00:00Z"}, 2),
        (
            {"tidegate.dev/replicas": "2", "tidegate.dev/replicas-until": "2001-09-09T01:00:00Z"},
            None,
        ),
        ({"tidegate.dev/replicas": "many"}, None),
        ({"tidegate.dev/replicas": "-1"}, None),
    ],
)
def test_override(annotations: dict[str, str], replicas: int | None) -> None:
    found = override.read(annotations, 1_000_000_000.0)
    assert (found.replicas if found else None) == replicas


def test_routers_are_found_ready_or_not() -> None:
    slices = [
        {
            "endpoints": [
                {"addresses": ["10.0.0.1"], "targetRef": {"name": "router-0"}},
                {
                    "addresses": ["fd00::1"],
                    "targetRef": {"name": "router-1"},
                    "conditions": {"ready": False, "terminating": True},
                },
            ]
        },
        {"endpoints": None},
    ]
    assert addresses(slices) == {
        "router-0": "http://10.0.0.1:9090",
        "router-1": "http://[fd00::1]:9090",
    }
