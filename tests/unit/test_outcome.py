"""What is wrong with a pod: one row per way Kubernetes says it."""

from typing import Any

import pytest

from pods import ended, pod, unscheduled, waiting
from tidegate_operator.outcome import REASONS, STEADY_SECONDS, overdue, trouble


def crashed(code: int, lasted: int, restarts: int = 3) -> Any:
    """An engine that ended after so many seconds, not for the first time."""
    minutes, rest = divmod(lasted, 60)
    ended = {
        "exitCode": code, "startedAt": "2026-01-01T00:00:00Z",
        "finishedAt": f"2026-01-01T00:{minutes:02}:{rest:02}Z",
    }  # fmt: skip
    return {"name": "engine", "restartCount": restarts, "state": {"terminated": ended}}


ROWS = [
    ("pull", pod(waiting("ImagePullBackOff", "no such image")), "ImagePullBackOff", True, "no such"),
    ("pull, first", pod(waiting("ErrImagePull", "denied")), "ImagePullBackOff", True, "denied"),
    ("image name", pod(waiting("InvalidImageName", "bad")), "InvalidImageName", False, "bad"),
    (
        "configuration",
        pod(waiting("CreateContainerConfigError", 'secret "s" not found')),
        "CreateContainerConfigError", True, "secret",
    ),
    (
        "crash loop",
        pod(waiting("CrashLoopBackOff", last={"exitCode": 3, "message": "boom"}, restarts=2)),
        "CrashLoopBackOff", False, "status 3: boom",
    ),
    ("first crash", pod(ended(1, message="no model")), "EngineExited", True, "no model"),
    (
        "memory",
        pod(waiting("CrashLoopBackOff", last={"exitCode": 137, "reason": "OOMKilled"}, restarts=1)),
        "OOMKilled", False, "resources.profile",
    ),
    (
        "memory, once",
        pod(ended(137, "OOMKilled")),
        "OOMKilled", True, "resources.profile",
    ),
    ("killed by somebody", pod(ended(137)), "EngineExited", True, "status 137"),
    ("crash again", pod(crashed(1, 5)), "CrashLoopBackOff", False, "status 1"),
    ("crash after long", pod(crashed(1, int(STEADY_SECONDS))), "EngineExited", True, "status 1"),
    ("it just ended", pod(ended(0, "Completed")), "EngineExited", True, "status 0"),
    (
        "it just ends, again and again",
        pod(waiting("CrashLoopBackOff", last={"exitCode": 0}, restarts=2)),
        "CrashLoopBackOff", False, "status 0",
    ),
    (
        "no such claim",
        unscheduled('persistentvolumeclaim "weights" not found'),
        "VolumePending", True, "weights",
    ),
    ("no node", unscheduled("0/2 nodes: 2 Insufficient nvidia.com/gpu"), "Unschedulable", True, "gpu"),
    (
        "no volume",
        unscheduled("pod has unbound immediate PersistentVolumeClaims"),
        "VolumePending", True, "unbound",
    ),
    (
        "no model",
        pod(initial=[ended(2, message="404 hf://a/b", name="fetch")]),
        "ModelNotFound", False, "404",
    ),
    (
        "registry away",
        pod(initial=[ended(3, message="timed out", name="fetch")]),
        "ModelUnavailable", True, "timed out",
    ),
    (
        "no room",
        pod(initial=[ended(4, message="needs 5 GB", name="fetch")]),
        "VolumePending", True, "5 GB",
    ),
    (
        "fetching failed",
        pod(initial=[ended(1, message="reset by peer", name="fetch")]),
        "EngineExited", True, "fetch exited",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("what", "seen", "reason", "passing", "words"), ROWS)
def test_trouble(what: str, seen: Any, reason: str, passing: bool, words: str) -> None:
    del what
    found = trouble(seen)
    assert found is not None
    assert (found.reason, found.passing) == (reason, passing)
    assert words in found.message
    assert found.reason in REASONS


@pytest.mark.parametrize(
    "seen",
    [
        pod(),
        pod(waiting("ContainerCreating")),
        pod(initial=[ended(0, "Completed", name="fetch")]),
        pod({"name": "engine", "restartCount": 4, "state": {"running": {}}}),
        pod(
            {"name": "sidecar", "restartCount": 0, "state": {"waiting": {"reason": "ErrImagePull"}}}
        ),
    ],
)
def test_no_trouble(seen: Any) -> None:
    assert trouble(seen) is None


def test_a_long_log_keeps_its_end() -> None:
    found = trouble(pod(ended(1, message="x" * 5000 + " the cause")))
    assert found is not None
    assert found.message.endswith("the cause")
    assert len(found.message) < 1000


@pytest.mark.parametrize(
    ("seen", "off"),
    [
        (pod(waiting("ErrImagePull")), False),
        (pod(waiting("ImagePullBackOff")), True),
        (pod(waiting("CrashLoopBackOff", last={"exitCode": 1}, restarts=2)), True),
        (
            pod(initial=[waiting("CrashLoopBackOff", last={"exitCode": 2}) | {"name": "fetch"}]),
            True,
        ),
        (pod(ended(1)), False),
        (unscheduled("no GPU"), False),
    ],
)
def test_whether_the_kubelet_lets_time_pass(seen: Any, off: bool) -> None:
    found = trouble(seen)
    assert found is not None
    assert found.backing_off == off


def runs(name: str, since: str) -> Any:
    return {"name": name, "restartCount": 0, "state": {"running": {"startedAt": since}}}


def test_a_container_that_runs_for_too_long_names_its_step() -> None:
    at = 1767225600.0  # 2026-01-01T00:00:00Z
    engine = pod(runs("engine", "2026-01-01T00:00:00Z"))
    assert overdue(engine, 30, at + 29.9) is None
    late = overdue(engine, 30, at + 42)
    assert late is not None
    assert (late.reason, late.passing) == ("StartTimeout", False)
    assert "within 30 s (coldStart.startTimeoutSeconds)" in late.message
    assert "run for 42 s; its last step: the engine is loading" in late.message
    fetch = overdue(pod(initial=[runs("fetch", "2026-01-01T00:00:00Z")]), 30, at + 42)
    assert fetch is not None
    assert "`fetch`" in fetch.message
    assert overdue(pod(waiting("ContainerCreating")), 30, at + 42) is None
    assert overdue(pod(), 30, at + 42) is None
