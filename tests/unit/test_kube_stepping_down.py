"""A step down at its seams: replicas that have no pod, writes under way, pods between two lives."""

from typing import Any

import msgspec
import pytest

from one_model import T, deployment, heard, made, pod
from tidegate_operator import drain as draining
from tidegate_operator.autoscale import Override
from tidegate_operator.demand import FORGET_AFTER, Picture
from tidegate_operator.kube.model import Marks, Model, Steps
from tidegate_operator.kube.pods import CHEAPEST, DELETION_COST
from tidegate_runtime.contract import cluster
from tidegate_runtime.contract.links import ReplicaDemand


def down_to_one(*idle: str) -> tuple[Model, Picture]:
    """One replica is wanted, at `T`: the busy `a` stays, the idle ones drain."""
    pods = [pod("a"), *map(pod, idle)]
    model, picture = made(len(pods), *pods, idle_seconds=500), Picture()
    model.override = Override(1, 2 * T)
    heard(picture, T, in_flight=1, replicas=[ReplicaDemand(id="a.0", in_flight=1)])
    model.evaluate(picture, T)
    return model, picture


def test_replicas_without_a_pod_are_the_first_to_go() -> None:
    """A ReplicaSet that cannot make a pod, or has yet to: nobody who serves is taken out for it."""
    model, picture = made(2, pod("a"), idle_seconds=500), Picture()
    for second in range(10):
        heard(picture, T + second, in_flight=1)
        steps = model.evaluate(picture, T + second)
        if steps.replicas is not None:
            break
    assert steps.replicas == 1
    assert not model.draining
    model.scaled(1, T + 9, 2)
    assert model.evaluate(picture, T + 9) == Steps()
    assert model.ready() == ["a"]


def test_beside_replicas_without_a_pod_those_too_many_drain_as_well() -> None:
    model, picture = made(4, pod("a"), pod("b"), pod("c", ready=False), idle_seconds=500), Picture()
    model.override = Override(1, 2 * T)
    busy = [ReplicaDemand(id="a.0", in_flight=2), ReplicaDemand(id="b.0", in_flight=1)]
    heard(picture, T, in_flight=3, replicas=busy)
    assert model.evaluate(picture, T).replicas == 3
    assert set(model.draining) == {"b", "c"}
    model.scaled(3, T, 2)
    assert model.evaluate(picture, T).replicas is None
    assert model.ready() == ["a"]


def test_while_the_write_for_a_released_pod_is_under_way_nobody_else_drains() -> None:
    model, picture = down_to_one("b")
    assert list(model.draining) == ["b"]
    assert model.let_go(("b",), T) == 1
    assert model.evaluate(picture, T) == Steps()
    assert not model.draining
    assert model.ready() == ["a"]
    model.scaled(1, T, 2)
    assert model.evaluate(picture, T) == Steps()
    assert model.ready() == ["a"]


def test_nor_is_another_drain_taken_back_meanwhile() -> None:
    model, picture = down_to_one("b", "c")
    assert model.let_go(("b",), T) == 2
    model.evaluate(picture, T)
    assert list(model.draining) == ["c"]
    still = list(model.pods.values())
    model.observe(deployment(2, version=2), still)  # the watch is faster than the answer
    model.evaluate(picture, T)
    assert list(model.draining) == ["c"]
    model.scaled(2, T, 2)
    model.evaluate(picture, T)
    assert list(model.draining) == ["c"]


def test_a_write_that_failed_counts_no_more() -> None:
    model, picture = made(1, pod("a")), Picture()
    model.off = True
    heard(picture, T)
    model.evaluate(picture, T)
    since = dict(model.draining)
    model.let_go(("a",), T)
    model.keep(("a",), since)
    model.off = False
    model.evaluate(picture, T)
    heard(picture, T, held=1)
    assert model.evaluate(picture, T).replicas is None, "the replica is still there"
    assert model.ready() == ["a"]


@pytest.mark.parametrize("watch_is_first", [False, True])
def test_a_count_that_is_raised_again_takes_a_released_pod_back(watch_is_first: bool) -> None:
    """A wake right after the write to zero: Kubernetes may keep the pod that is there, and warm."""
    model, picture = made(1, pod("a"), pod("b")), Picture()
    model.off = True
    heard(picture, T)
    model.evaluate(picture, T)
    model.observe(deployment(2, version=2), [pod("a"), pod("b")])
    model.evaluate(picture, T)
    assert model.let_go(tuple(model.draining), T) == 0
    model.scaled(0, T, 3)
    model.off = False
    heard(picture, T + 1, held=1)
    assert model.evaluate(picture, T + 1).replicas == 1
    assert model.ready() == [], "the next count has yet to be written"
    if watch_is_first:
        model.observe(deployment(1, version=4), [pod("a"), pod("b")])
    model.scaled(1, T + 1, 4)
    assert len(model.ready()) == 1, "as many as Kubernetes may keep"
    ended = pod("a") | {"metadata": {**pod("a")["metadata"], "deletionTimestamp": "2026-01-01"}}
    model.observe(deployment(1, version=4), [ended])
    assert model.ready() == []


def crashing(uid: str, restarts: int, mark: str = "", *, state: str = "waiting") -> dict[str, Any]:
    """A pod whose engine has ended, or runs again."""
    status = {"name": "engine", "restartCount": restarts, "state": {state: {}}}
    made = pod(uid, ready=False, containerStatuses=[status])
    if mark:
        made["metadata"]["annotations"] = {cluster.DRAINING: mark}
    return made


MARK = draining.mark(T)


@pytest.mark.parametrize(
    ("there", "out"),
    [
        (crashing("a", 1, MARK), True),
        (crashing("a", 0, MARK, state="terminated"), True),
        # The kubelet may start it again before any router has seen the mark.
        (crashing("a", 1), False),
        (crashing("a", 1, draining.mark(T - 9)), False),  # of a drain that was taken back
        (crashing("a", 1, MARK, state="running"), False),
        (crashing("a", 0, MARK), False),  # its first start, which routers wait for
    ],
)
def test_a_draining_pod_between_two_lives_is_let_go_at_once(there: Any, out: bool) -> None:
    model, picture = made(1, pod("a")), Picture()
    model.drain_seconds = 2 * T
    model.off = True
    heard(picture, T)
    model.evaluate(picture, T)
    model.observe(deployment(1), [there])
    heard(picture, T + 1)  # no router names a life that has ended
    assert model.evaluate(picture, T + 1).release == (("a",) if out else ())


def test_who_leads_again_begins_with_the_marks_that_are_there() -> None:
    model, picture = down_to_one("x")
    assert list(model.draining) == ["x"]
    model.override = None  # another one leads, and takes the drain back
    model.observe(deployment(2, version=2), [pod("a"), pod("x")])
    model.adopt()
    later = T + model.drain_seconds + 1
    heard(picture, later, in_flight=1)
    assert model.evaluate(picture, later) == Steps(), "down only after a full window"
    assert model.desired == 2
    assert model.ready() == ["a", "x"]


def marked(uid: str, mark: str) -> dict[str, Any]:
    """A pod with a draining mark."""
    there = pod(uid)
    there["metadata"]["annotations"] = {cluster.DRAINING: mark}
    return there


def let_go(uid: str, mark: str = "1") -> dict[str, Any]:
    """A pod as it is when the count is written for it to go."""
    there = marked(uid, mark)
    there["metadata"]["annotations"][DELETION_COST] = CHEAPEST
    return there


def test_a_pod_that_the_last_leader_let_go_is_no_replica_any_more() -> None:
    model, picture = made(1, pod("a"), let_go("x"), idle_seconds=500), Picture()
    model.adopt()
    heard(picture, T, in_flight=1)
    assert model.evaluate(picture, T) == Steps()
    assert model.desired == 1
    assert model.ready() == ["a"]
    assert model.marks() == Marks((), ())


def test_one_whose_count_the_last_leader_did_not_write_drains_on() -> None:
    model, picture = made(2, pod("a"), let_go("x"), idle_seconds=500), Picture()
    model.drain_seconds = 2 * T
    heard(picture, T, in_flight=1)
    model.evaluate(picture, T)
    assert list(model.draining) == ["x"]
    assert model.desired == 1


@pytest.mark.parametrize("mark", ["yes", str(int(T + 3600))])
def test_a_mark_without_a_time_that_has_been_begins_its_drain_now(mark: str) -> None:
    model, picture = made(2, pod("a"), let_go("x", mark), idle_seconds=500), Picture()
    heard(picture, T, in_flight=1)
    assert model.evaluate(picture, T).release == ()
    assert model.draining == {"x": T}


@pytest.mark.parametrize("ahead", [-3600.0, -5.0, 0.0, 5.0, 3600.0])
def test_no_router_s_clock_counts(ahead: float) -> None:
    model, picture = made(1, pod("a")), Picture()
    model.off = True
    heard(picture, T, ahead=ahead, replicas=[ReplicaDemand(id="a.0", in_flight=1)])
    model.evaluate(picture, T)
    seen = ReplicaDemand(id="a.0", in_flight=1, excluded=True, mark=model.mark("a"))
    heard(picture, T + 1, ahead=ahead, replicas=[seen])
    assert model.evaluate(picture, T + 1).release == (), "it still serves one"
    heard(picture, T + 2, ahead=ahead, replicas=[msgspec.structs.replace(seen, in_flight=0)])
    assert model.evaluate(picture, T + 2).release == ("a",)


def test_an_exclusion_for_an_earlier_drain_proves_nothing() -> None:
    """A router may not have seen yet that the first one was taken back, and send there then."""
    model, picture = made(1, pod("a")), Picture()
    model.off = True
    heard(picture, T)
    model.evaluate(picture, T)
    first = model.mark("a")
    model.observe(deployment(1), [marked("a", first)])
    assert model.marks() == Marks((), ())
    model.off = False
    heard(picture, T + 1, held=1)
    model.evaluate(picture, T + 1)
    assert model.marks().clear == ("a",)
    model.off = True
    model.evaluate(picture, T + 1.5)
    assert model.marks().set == ("a",), "another drain, another mark"
    heard(picture, T + 2, replicas=[ReplicaDemand(id="a.0", excluded=True, mark=first)])
    assert model.evaluate(picture, T + 2).release == ()
    second = ReplicaDemand(id="a.0", excluded=True, mark=model.mark("a"))
    heard(picture, T + 3, replicas=[second])
    assert model.evaluate(picture, T + 3).release == ("a",)


def test_a_router_that_falls_silent_is_waited_for_until_it_counts_as_gone() -> None:
    model, picture = made(1, pod("a")), Picture()
    model.off = True
    heard(picture, T, router="quiet")
    for second in range(62):
        now = T + second
        heard(picture, now)
        steps = model.evaluate(picture, now)
        seen = [ReplicaDemand(id="a.0", excluded=True, mark=model.mark("a"))]
        heard(picture, now, replicas=seen)
        steps = model.evaluate(picture, now)
        assert bool(steps.release) == (second > FORGET_AFTER)
