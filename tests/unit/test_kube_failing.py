"""What a start came to, told once to each who waits, and tried again for who comes later."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_operator.demand import Total
from tidegate_operator.kube.failing import NUDGED_SECONDS, Failing, Seen, not_created, version
from tidegate_runtime.contract import cluster

T = 1_000_000.0
BLOCKED = not_created(
    {
        "status": {
            "conditions": [
                {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: gpus"}
            ]
        }
    }
)


def stamp(at: float) -> str:
    return f"1970-01-12T13:46:{40 + at - T:05.2f}Z"  # T is 13:46:40


def pod(uid: str, state: dict[str, Any], *, restarts: int = 0, of: str = "v1", **more: Any) -> Any:
    status = {"name": "engine", "restartCount": restarts, "state": state, **more}
    return {
        "metadata": {"uid": uid, "annotations": {cluster.CONFIG_HASH: of}},
        "status": {"containerStatuses": [status]},
    }


def waiting(reason: str, uid: str = "a", of: str = "v1", **more: Any) -> Any:
    return pod(uid, {"waiting": {"reason": reason, "message": "why"}}, of=of, **more)


def looping(uid: str = "a") -> Any:
    last = {"terminated": {"exitCode": 1, "message": "boom"}}
    return waiting("CrashLoopBackOff", uid, restarts=2, lastState=last)


def running(uid: str = "a", since: float = T, restarts: int = 0) -> Any:
    return pod(uid, {"running": {"startedAt": stamp(since)}}, restarts=restarts)


def seen(
    *pods: Any, since: float = T, held: int | None = 1, ready: int = 0, of: str = "v1",
    desired: int = 1, start: str = "01", blocked: Any = None,
) -> Seen:  # fmt: skip
    total = Total(0, held, since if held else 0.0)
    return Seen(pods, ready, desired, total, start, T, blocked, of)


def told(failing: Failing) -> tuple[str, bool]:
    assert failing.failure is not None
    return failing.failure.reason, failing.failure.final


def test_passing_trouble_is_final_after_its_grace_and_keeps_its_start() -> None:
    failing = Failing()
    failing.grace_seconds = 5
    failing.judge(seen(waiting("ErrImagePull")), T + 1)
    assert told(failing) == ("ImagePullBackOff", False)
    failing.judge(seen(waiting("ImagePullBackOff")), T + 5.9)
    assert told(failing) == ("ImagePullBackOff", False)
    failing.judge(seen(waiting("ImagePullBackOff")), T + 6)
    assert told(failing) == ("ImagePullBackOff", True)
    assert failing.failure
    assert failing.failure.start_id == "01"


def test_a_start_id_that_has_answered_answers_nobody_again() -> None:
    failing = Failing()
    failing.judge(seen(waiting("InvalidImageName")), T + 1)
    assert failing.failure
    assert failing.failure.start_id == "01"
    failing.judge(seen(ready=1), T + 2)
    assert failing.failure is None
    failing.judge(seen(waiting("InvalidImageName"), since=T + 3), T + 4)
    assert failing.failure
    assert failing.failure.start_id > "01"


def test_a_grace_is_not_begun_anew_by_a_crash_or_a_replaced_pod() -> None:
    failing = Failing()
    failing.grace_seconds = 5
    failing.judge(seen(waiting("ErrImagePull")), T)
    failing.judge(seen(running()), T + 3)
    failing.judge(seen(waiting("ErrImagePull", uid="b")), T + 6)
    assert told(failing) == ("ImagePullBackOff", True)


def test_another_version_has_a_past_of_its_own() -> None:
    failing = Failing()
    failing.judge(seen(waiting("InvalidImageName")), T)
    failing.judge(seen(waiting("InvalidImageName"), of="v2", since=T + 1), T + 1)
    assert failing.failure is None, "the old pod's trouble is no news"
    new = waiting("ErrImagePull", "b", of="v2")
    failing.judge(seen(waiting("InvalidImageName"), new, of="v2", since=T + 1), T + 2)
    assert told(failing) == ("ImagePullBackOff", False)


def test_who_comes_later_gets_a_try_of_their_own_once_per_backoff() -> None:
    failing = Failing()
    failing.judge(seen(looping()), T)
    assert told(failing) == ("CrashLoopBackOff", True)
    assert failing.failure
    first = failing.failure
    failing.judge(seen(looping(), held=0), T + 300)
    assert failing.failure is first, "nobody waits: the kubelet's pace will do"
    assert failing.discard([looping()], 1, T + 300) == []
    failing.judge(seen(looping(), since=T + 301), T + 301)
    assert failing.failure is None, "being tried again"
    assert failing.discard([looping()], 1, T + 301) == ["a"]
    failing.judge(seen(looping(), since=T + 301), T + 301.5)
    assert failing.failure is None, "the pod that goes is no news"
    failing.forget({"b": looping("b")})
    failing.judge(seen(looping("b"), since=T + 301), T + 303)
    assert told(failing) == ("CrashLoopBackOff", True)
    assert failing.failure
    second = failing.failure
    assert second.start_id != first.start_id
    failing.judge(seen(looping("b"), since=T + 304), T + 304)
    assert failing.failure, "within the back-off they are told at once"
    assert failing.failure.start_id not in {first.start_id, second.start_id}
    assert failing.discard([looping("b")], 1, T + 304) == []


def test_a_refused_pod_is_asked_for_again_while_somebody_waits() -> None:
    failing = Failing()
    failing.grace_seconds = 20
    nudges = []
    for second in range(20):
        failing.judge(seen(blocked=BLOCKED), T + second)
        assert told(failing) == ("QuotaExceeded", False)
        if failing.nudge:
            nudges.append(second)
    assert nudges[0] == 0
    gaps = [b - a for a, b in pairwise(nudges)]
    assert gaps == sorted(gaps)
    assert min(gaps) > NUDGED_SECONDS
    failing.judge(seen(blocked=BLOCKED), T + 20)
    assert told(failing) == ("QuotaExceeded", True)
    assert not failing.nudge
    failing.judge(seen(blocked=BLOCKED, held=0), T + 500)
    assert not failing.nudge, "nobody waits"
    failing.judge(seen(blocked=BLOCKED, since=T + 501), T + 501)
    assert failing.nudge
    before = failing.failure
    failing.judge(seen(blocked=BLOCKED, since=T + 501), T + 502)
    assert failing.failure is before, "its controller is given a moment"
    failing.judge(seen(blocked=BLOCKED, since=T + 501), T + 501 + NUDGED_SECONDS)
    assert failing.failure is not before, "and who waits is told what came of it"


def test_a_hung_start_fails_at_once_and_its_pod_goes_later_each_time() -> None:
    failing = Failing()
    failing.timeout_seconds = 10
    failing.judge(seen(running()), T + 9)
    assert failing.failure is None
    failing.judge(seen(running(), held=None), T + 11)
    assert failing.failure is None, "no router speaks, so nobody would have seen an answer"
    failing.judge(seen(running()), T + 11)
    assert told(failing) == ("StartTimeout", True)
    assert failing.discard([running()], 1, T + 11.5) == []
    assert failing.discard([running()], 1, T + 12) == ["a"]
    failing.forget({})
    failing.judge(seen(running("b", since=T + 12)), T + 22)
    assert failing.discard([running("b")], 1, T + 23.9) == []
    assert failing.discard([running("b")], 1, T + 24) == ["b"]


def test_an_engine_that_dies_of_its_first_request_was_healthy() -> None:
    failing = Failing()
    failing.refuse("a.0", "AnswerFailed", "connection lost", T)
    ended = {"terminated": {"exitCode": 1, "message": "segmentation fault"}}
    for one in (pod("a", ended), waiting("CrashLoopBackOff", restarts=1, lastState=ended)):
        failing.failure = None
        failing.judge(seen(one), T + 1)
        assert told(failing) == ("AnswerFailed", True)
    assert failing.failure
    assert "connection lost; then the engine exited" in failing.failure.message
    failing.judge(seen(running(restarts=1)), T + 2)
    assert failing.discard([running(restarts=1)], 1, T + 60) == [], "it is another life"


def test_one_that_serves_is_never_discarded_for_what_one_router_said() -> None:
    failing = Failing()
    failing.refuse("a.0", "AnswerFailed", "answered 500", T)
    serving = running()
    serving["status"]["conditions"] = [
        {"type": cluster.ANSWERED, "status": "True", "message": "a.0"}
    ]
    assert failing.discard([serving], 1, T + 60) == []


def test_what_a_deployment_says_of_its_pods() -> None:
    template = {"metadata": {"annotations": {cluster.CONFIG_HASH: "v7"}}}
    assert version({"spec": {"template": template}}) == "v7"
    assert version({}) == ""
    assert not_created({}) is None
    refused = {"type": "ReplicaFailure", "status": "True", "message": "admission webhook"}
    found = not_created({"status": {"conditions": [refused]}})
    assert found
    assert found.reason == "PodsRefused"


STATES = [
    waiting("ErrImagePull"), waiting("ImagePullBackOff"), waiting("InvalidImageName"), looping(),
    running(), pod("a", {"terminated": {"exitCode": 1}}), waiting("ContainerCreating"),
]  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(STATES), st.booleans()), max_size=40))
def test_nobody_is_answered_by_a_start_that_failed_before_he_came(
    steps: list[tuple[Any, bool]],
) -> None:
    """Each step: the pod's state, and whether a request comes now (and waits until it is told)."""
    failing, now, since, known = Failing(), T, 0.0, ""
    failing.grace_seconds = 4
    for state, comes in steps:
        now += 1
        if comes and not since:
            since = now
            before = failing.failure
            known = before.start_id if before is not None and before.final else ""
        failing.judge(seen(state, since=since, held=int(bool(since))), now)
        found = failing.failure
        if since and found is not None and found.final and found.start_id != known:
            assert found.at >= since, "found out after he came"
            since = 0.0
        if since:
            assert now - since <= len(steps)


@pytest.mark.parametrize("reason", ["InvalidImageName", "CrashLoopBackOff", "ImagePullBackOff"])
def test_whoever_waits_while_trouble_lasts_is_told_within_seconds(reason: str) -> None:
    state = looping() if reason == "CrashLoopBackOff" else waiting(reason)
    failing = Failing()
    failing.grace_seconds = 2
    failing.judge(seen(state), T)
    failing.judge(seen(state), T + 2)
    for arrival in (10.0, 20.0, 30.0, 100.0):
        known = failing.failure.start_id if failing.failure else ""
        for tick in range(4):
            failing.forget({"a": state} if tick != 1 else {})
            failing.judge(seen(state, since=T + arrival), T + arrival + tick)
        assert failing.failure is not None
        assert failing.failure.final
        assert failing.failure.start_id != known
