"""One deployment's decisions in a cluster: steps out of pods, demand and time, and nothing else."""

import time
from typing import Any

from one_model import T, deployment, heard, made, pod
from tidegate_operator.autoscale import Policy
from tidegate_operator.demand import Picture
from tidegate_operator.kube.model import Marks, Model, Steps
from tidegate_runtime.contract import cluster
from tidegate_runtime.contract.links import ReplicaDemand


def test_without_a_deployment_nothing_is_asked_for() -> None:
    model, picture = Model("team/m"), Picture()
    heard(picture, T, held=1)
    model.observe(None, [])
    assert model.evaluate(picture, T).replicas is None


def test_a_waiting_request_wakes_at_once() -> None:
    model, picture = made(0), Picture()
    heard(picture, T, held=1)
    assert model.evaluate(picture, T).replicas == 1
    assert model.cold.held_at == T
    assert model.evaluate(picture, T).replicas == 1, "asked for again until the world shows it"
    model.scaled(1, T + 0.01, 5)
    assert model.evaluate(picture, T).replicas is None
    assert model.cold.scaled_at == T + 0.01


def test_what_a_watch_tells_from_before_the_write_does_not_count() -> None:
    model = made(0)
    model.scaled(1, T, version=9)
    model.observe(deployment(0, version=8), [])
    assert model.replicas == 1
    model.observe(deployment(2, version=10), [])
    assert model.replicas == 2


def until_draining(model: Model, picture: Picture, **load: int) -> float:
    """Let an idle model's time pass until a pod is marked; when that was."""
    now = T
    for _ in range(200):
        heard(picture, now, **load)
        model.evaluate(picture, now)
        if model.draining:
            return now
        now += 1
    raise AssertionError("never drained")


def test_a_pod_leaves_in_steps() -> None:
    model, picture = made(1, pod("a"), idle_seconds=5), Picture()
    now = until_draining(model, picture)
    assert model.marks().set == ("a",)
    assert model.evaluate(picture, now).release == (), "no router has excluded it"
    excluded = [ReplicaDemand(id="a.0", in_flight=1, excluded=True, mark=model.mark("a"))]
    heard(picture, now + 1, replicas=excluded)
    assert model.evaluate(picture, now + 1).release == (), "it still serves one"
    seen = ReplicaDemand(id="a.0", excluded=True, mark=model.mark("a"))
    heard(picture, now + 2, replicas=[seen])
    assert model.evaluate(picture, now + 2).release == ("a",)
    assert model.let_go(("a",), now + 2) == 0
    model.scaled(0, now + 2, 7)
    steps = model.evaluate(picture, now + 2)
    assert steps.replicas is None
    assert not steps.release
    assert not model.staying()


def test_demand_takes_a_drain_back() -> None:
    model, picture = made(1, pod("a"), idle_seconds=5), Picture()
    now = until_draining(model, picture)
    model.observe(deployment(1), [pod("a", draining=True)])
    heard(picture, now + 1, held=1)
    steps = model.evaluate(picture, now + 1)
    assert not model.draining
    assert model.marks().clear == ("a",)
    assert steps.replicas is None, "the pod that is there serves again"


def test_a_silent_router_holds_up_a_drain() -> None:
    model, picture = made(1, pod("a"), idle_seconds=5), Picture()
    now = until_draining(model, picture)
    picture.expect("quiet", now)
    seen = ReplicaDemand(id="a.0", excluded=True, mark=model.mark("a"))
    heard(picture, now + 1, replicas=[seen])
    assert model.evaluate(picture, now + 1).release == ()


def test_the_least_busy_of_two_leaves() -> None:
    model, picture = made(2, pod("a"), pod("b"), idle_seconds=500), Picture()
    now = T
    for _ in range(200):
        busy = [ReplicaDemand(id="a.0", in_flight=1)]
        heard(picture, now, in_flight=1, replicas=busy)
        model.evaluate(picture, now)
        if model.draining:
            break
        now += 1
    assert list(model.draining) == ["b"]


def test_one_let_go_that_kubernetes_kept_serves_again() -> None:
    model, picture = made(1, pod("a"), idle_seconds=5), Picture()
    now = until_draining(model, picture)
    model.let_go(("a",), now)
    assert model.staying() == []
    heard(picture, now + 16)
    model.evaluate(picture, now + 16)
    assert "a" not in model.released


def test_a_foreign_hand_on_the_deployment_is_corrected_both_ways() -> None:
    model, picture = made(0), Picture()
    heard(picture, T, held=1)
    model.evaluate(picture, T)
    model.scaled(1, T, 2)
    model.observe(deployment(0, version=3), [])
    assert model.evaluate(picture, T + 1).replicas == 1
    model.observe(deployment(5, version=4), [pod("a"), *(pod(x, ready=False) for x in "bcde")])
    model.evaluate(picture, T + 2)
    assert set(model.draining) == set("bcde")


def test_a_takeover_keeps_what_drains_and_decides_afresh() -> None:
    model, picture = made(2, pod("a"), pod("b", draining=True)), Picture()
    model.drain_seconds = 2 * T
    model.adopt()
    heard(picture, T, replicas=[ReplicaDemand(id="b.0", in_flight=1, excluded=True)])
    steps = model.evaluate(picture, T)
    assert list(model.draining) == ["b"]
    assert model.desired == 1
    assert steps == Steps()
    assert model.marks() == Marks((), ())
    heard(picture, T + 1, replicas=[ReplicaDemand(id="b.0", excluded=True, mark="1")])
    assert model.evaluate(picture, T + 1).release == ("b",)
    assert model.let_go(("b",), T + 1) == 1


def test_one_met_after_a_restart_is_adopted_without_being_told() -> None:
    """Its pods may be known before or after this operator leads."""
    model, picture = made(1, pod("a", draining=True)), Picture()
    heard(picture, T)
    model.evaluate(picture, T)
    assert list(model.draining) == ["a"]
    assert model.desired == 0
    assert not model.marks().clear


def test_nothing_is_decided_before_the_resource_is_judged() -> None:
    model, picture = made(1, pod("a")), Picture()
    model.off = None
    heard(picture, T)
    assert model.evaluate(picture, T) == Steps()
    assert not model.draining
    assert model.scaling is None


def test_a_count_that_could_not_be_written_leaves_the_pod_in_service() -> None:
    model, picture = made(1, pod("a"), idle_seconds=5), Picture()
    now = until_draining(model, picture)
    since = dict(model.draining)
    model.let_go(("a",), now)
    model.keep(("a",), since)
    assert model.draining == since
    heard(picture, now + 1, held=1)
    model.evaluate(picture, now + 1)
    assert model.staying() == ["a"]


def test_an_older_scale_answer_does_not_replace_a_newer_one() -> None:
    model = made(0)
    model.scaled(2, T, version=9)
    model.scaled(1, T, version=8)
    assert model.replicas == 2


def test_refusals_of_pods_that_are_gone_are_forgotten() -> None:
    model = made(1, pod("a", ready=False))
    model.told(ReplicaDemand(id="a.0", answer_error="no"))
    model.observe(deployment(1), [pod("b", ready=False)])
    assert not model.failing.refused


def test_off_sees_everything_out() -> None:
    model, picture = made(1, pod("a")), Picture()
    heard(picture, T)
    model.evaluate(picture, T)
    model.off = True
    model.evaluate(picture, T + 1)
    assert list(model.draining) == ["a"]


def test_an_answer_is_of_one_life_only() -> None:
    model = made(1, pod("a", ready=False, restarts=1))
    assert model.told(ReplicaDemand(id="a.0", answered_at=T)) == ""
    assert model.told(ReplicaDemand(id="a.1", answered_at=T)) == "a"
    model.observe(deployment(1), [pod("a", restarts=1)])
    assert model.told(ReplicaDemand(id="a.1", answered_at=T)) == "", "it is marked already"
    assert model.ready() == ["a"]


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return pod(
        "a", ready=False, containerStatuses=[{"name": "engine", "restartCount": 0, "state": state}]
    )


def start(model: Model, picture: Picture) -> None:
    heard(picture, T, held=1)
    model.evaluate(picture, T)
    model.scaled(1, T, 2)


def test_a_hopeless_start_fails_at_once_and_one_that_may_be_cured_after_its_grace() -> None:
    for reason, final_at in (("InvalidImageName", 0.0), ("ErrImagePull", 120.0)):
        model, picture = made(0), Picture()
        start(model, picture)
        model.observe(deployment(1, 3), [waiting(reason)])
        heard(picture, T + 1, held=1)
        model.evaluate(picture, T + 1)
        assert model.failure is not None
        assert model.failure.final == (final_at == 0.0)
        heard(picture, T + 121, held=1)
        model.evaluate(picture, T + 121)
        assert model.failure.final


def test_a_failed_start_answers_who_comes_later_with_a_start_of_their_own() -> None:
    model, picture = made(0), Picture()
    start(model, picture)
    model.observe(deployment(1, 3), [waiting("InvalidImageName")])
    heard(picture, T + 1, held=1)
    model.evaluate(picture, T + 1)
    first = model.failure
    assert first is not None
    heard(picture, T + 2)
    model.evaluate(picture, T + 2)
    assert model.failure is first, "nobody waits, nothing new to say"
    heard(picture, T + 3, held=1)
    model.evaluate(picture, T + 3)
    assert model.failure is not None
    assert model.failure.start_id > first.start_id


def test_a_failure_goes_when_an_engine_answers() -> None:
    model, picture = made(0), Picture()
    start(model, picture)
    model.observe(deployment(1, 3), [waiting("InvalidImageName")])
    heard(picture, T + 1, held=1)
    model.evaluate(picture, T + 1)
    model.observe(deployment(1, 4), [pod("b")])
    heard(picture, T + 2, in_flight=1)
    model.evaluate(picture, T + 2)
    assert model.failure is None


def test_pods_that_cannot_be_made_are_told_by_the_deployment() -> None:
    model, picture = made(0), Picture()
    start(model, picture)
    failing = {"type": "ReplicaFailure", "status": "True", "message": 'exceeded quota: "gpus"'}
    model.observe(deployment(1, 3, conditions=[failing]), [])
    heard(picture, T + 1, held=1)
    model.evaluate(picture, T + 1)
    assert model.failure is not None
    assert model.failure.reason == "QuotaExceeded"


def test_a_pod_that_refuses_its_readiness_request_is_replaced_later_each_time() -> None:
    model = made(1, pod("a", ready=False))
    model.told(ReplicaDemand(id="a.0", answer_error="the readiness request was answered 500"))
    at = model.failing.refused["a.0"].until
    assert model.discard(at + 0.01) == ["a"]
    model.observe(deployment(1), [pod("b", ready=False)])
    model.told(ReplicaDemand(id="b.0", answer_error="again"))
    assert model.discard(at + 0.5) == []
    assert model.discard(at + 2.5) == ["b"]


def test_one_that_serves_beside_it_does_not_hurry_its_replacement() -> None:
    """A rollout that stalls: the old version's replicas answer all along."""
    model, picture = made(1, pod("old"), min_replicas=1), Picture()

    def tries(uid: str) -> float:
        model.observe(deployment(1, old=1, updated=1), [pod("old"), pod(uid, ready=False)])
        heard(picture, T, in_flight=1)
        model.evaluate(picture, T)
        model.told(ReplicaDemand(id=f"{uid}.0", answer_error="500"))
        return model.failing.refused[f"{uid}.0"].until - time.time()

    pauses = [round(tries(uid)) for uid in "abcd"]
    assert pauses == [1, 2, 4, 8]
    model.observe(deployment(1), [pod("e")])
    model.evaluate(picture, T)
    assert round(tries("f")) == 1, "after a good one it begins anew"


def test_a_start_is_young_until_a_moment_after_its_write() -> None:
    model, picture = made(0), Picture()
    assert not model.wakes(T)
    heard(picture, T, held=1)
    model.evaluate(picture, T)
    assert model.wakes(T + 0.1)
    model.scaled(1, T + 0.15, 2)
    assert model.wakes(T + 0.3)
    assert not model.wakes(T + 0.4)


def test_a_start_whose_write_does_not_come_is_young_no_longer() -> None:
    model, picture = made(0), Picture()
    heard(picture, T, held=1)
    model.evaluate(picture, T)
    assert not model.wakes(T + 1)


UNPLACED = [
    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPU"}
]


def test_a_replica_that_cannot_start_beside_one_that_serves_is_told() -> None:
    waiting = pod("b", ready=False, podIP="", phase="Pending", conditions=UNPLACED)
    waiting["status"].pop("containerStatuses")
    model, picture = made(2, pod("a"), waiting, max_replicas=2, target_concurrency=1), Picture()
    heard(picture, T, in_flight=2)
    model.evaluate(picture, T)
    assert model.failure is not None
    assert (model.failure.reason, model.failure.final) == ("Unschedulable", False)
    first = model.failure
    heard(picture, T + 1, in_flight=2)
    model.evaluate(picture, T + 1)
    assert model.failure is first, "an unchanged trouble is no news"
    model.observe(deployment(2), [pod("a"), pod("c", ready=False)])
    heard(picture, T + 1.5, in_flight=2)
    model.evaluate(picture, T + 1.5)
    assert model.failure is first, "that another one is tried is no cure"
    both = [pod("a"), pod("b")]
    model.observe(deployment(2, old=2, updated=1), both)
    heard(picture, T + 1.7, in_flight=2)
    model.evaluate(picture, T + 1.7)
    assert model.failure is first, "nor that the next one is still to come"
    model.observe(deployment(2), both)
    heard(picture, T + 2, in_flight=2)
    model.evaluate(picture, T + 2)
    assert model.failure is None


def lost(uid: str) -> dict[str, Any]:
    """A pod whose node is not heard of any more."""
    made = pod(uid)
    made["status"]["conditions"][0]["lastTransitionTime"] = "2026-01-01T00:00:00Z"
    made["status"]["conditions"] += [
        {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:09Z"},
        {"type": "ContainersReady", "status": "True"},
    ]
    return made


def test_a_replica_on_a_lost_node_is_none_and_is_told() -> None:
    model, picture = made(1, lost("a")), Picture()
    heard(picture, T, in_flight=1)
    model.evaluate(picture, T)
    assert model.ready() == []
    assert model.failure is not None
    assert (model.failure.reason, model.failure.final) == ("NodeLost", False)
    assert model.discard(T) == []
    assert model.discard(T + 10) == ["a"]
    model.observe(deployment(1, 2), [lost("a") | {"metadata": ending("a")}, pod("b")])
    heard(picture, T + 11, in_flight=1)
    steps = model.evaluate(picture, T + 11)
    assert steps == Steps(), "the successor is there: nothing is missing and nothing too much"
    assert model.failure is None
    assert model.ready() == ["b"]


def ending(uid: str, **annotations: str) -> dict[str, Any]:
    return {
        "uid": uid, "name": uid, "namespace": "team", "deletionTimestamp": "2026-01-01T00:00:00Z",
        "annotations": annotations,
    }  # fmt: skip


def test_a_lost_replica_leaves_first() -> None:
    model, picture = made(2, pod("a"), lost("z"), idle_seconds=500), Picture()
    until_draining(model, picture, in_flight=1)
    assert list(model.draining) == ["z"]


def test_a_draining_pod_that_somebody_deletes_holds_up_nothing() -> None:
    """It may be stuck on a lost node; its ReplicaSet has made another one for it."""
    model, picture = made(2, pod("a"), pod("b"), idle_seconds=500), Picture()
    model.policy = Policy(
        scale_down_delay_seconds=0, stable_window_seconds=2, target_concurrency=1, max_replicas=4
    )
    now = until_draining(model, picture, in_flight=1)
    (leaving,) = model.draining
    stuck = pod(leaving) | {"metadata": ending(leaving, **{cluster.DRAINING: "1"})}
    other = "b" if leaving == "a" else "a"
    model.observe(deployment(2), [stuck, pod(other), pod("c")])
    heard(picture, now + 1, in_flight=1, held=2)
    steps = model.evaluate(picture, now + 1)
    assert steps.replicas == 3, "two that serve and one more: the stuck one is no replica"
    assert leaving not in model.draining
    assert leaving not in model.marks().clear
