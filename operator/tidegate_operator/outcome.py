"""What is wrong with a pod, in the words of whoever found out, as a value.

Kubernetes says it in five places (conditions of the pod, waiting and terminated states of its
containers, their last states, the pod's own reason), and mostly says it again and again. One
function reads them in the order in which they explain each other; it is a table, and each row is a
test. `passing` troubles may be cured by waiting (a node that is being added, a registry that comes
back, a first crash); the others will not go away by themselves. docs/failures.md says what to do
about each.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tidegate_runtime.contract.cluster import ENGINE_CONTAINER, condition, lost, seconds

Object = Mapping[str, Any]

REASONS = frozenset(
    {
        "AnswerFailed",
        "CrashLoopBackOff",
        "CreateContainerConfigError",
        "CreateContainerError",
        "EngineExited",
        "EngineHung",
        "ImagePullBackOff",
        "InvalidImageName",
        "ModelNotFound",
        "ModelUnavailable",
        "NodeLost",
        "OOMKilled",
        "OutOfMemory",
        "PodsRefused",
        "QuotaExceeded",
        "RunContainerError",
        "StartTimeout",
        "Unschedulable",
        "VolumePending",
    }
)
"""Every reason that a start is ever said to have failed for."""
_PULL = frozenset({"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ErrImageNeverPull"})
_CONFIG = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
FETCH_ENDS = {
    2: ("ModelNotFound", False),
    3: ("ModelUnavailable", True),
    4: ("VolumePending", True),
}
"""What the exit status of the init container `fetch` means, and whether waiting may cure it: no such
model or address; the registry does not answer; no room for the weights."""
STEADY_SECONDS = 600.0
"""The kubelet forgets its back-off of a container that has run for so long, and so do we."""
_BACKING_OFF = frozenset({"CrashLoopBackOff", "ImagePullBackOff"})
_WORDS = 600


class Trouble(NamedTuple):
    """Why a pod does not serve. `since`: seconds since the epoch, 0 where nobody says.
    `backing_off`: the kubelet lets time pass before it tries again, up to five minutes."""

    reason: str
    message: str
    passing: bool
    since: float = 0.0
    backing_off: bool = False


def trouble(pod: Object) -> Trouble | None:
    """What keeps this pod from serving; None where nothing is known to."""
    status = pod.get("status", {})
    if lost(pod):
        return _lost(pod)
    unscheduled = _unscheduled(pod)
    if unscheduled is not None:
        return unscheduled
    for container in _containers(status):
        found = _of_container(container)
        if found is not None:
            return found
    return None


def overdue(pod: Object, allowed: float, now: float) -> Trouble | None:
    """The container of this pod that has run for more than `allowed` seconds while nothing answered.

    Its start is the kubelet's word and `now` ours: clocks that differ by seconds are not told from
    a start that takes seconds longer."""
    for container in _containers(pod.get("status", {})):
        began = seconds(((container.get("state") or {}).get("running") or {}).get("startedAt"))
        if not began or now - began < allowed:
            continue
        engine = container.get("name") == ENGINE_CONTAINER
        step = "the engine is loading" if engine else "the model is being fetched"
        message = (
            f"no answer within {allowed:.0f} s (coldStart.startTimeoutSeconds): the container "
            f"`{container.get('name')}` has run for {now - began:.0f} s; its last step: {step}"
        )
        return Trouble("StartTimeout", message, passing=False, since=began + allowed)
    return None


def _lost(pod: Object) -> Trouble:
    node = pod.get("spec", {}).get("nodeName") or "its node"
    message = f"the control plane has lost the node {node}, on which a replica runs"
    ready = condition(pod, "Ready") or {}
    return Trouble("NodeLost", message, True, seconds(ready.get("lastTransitionTime")))


def _unscheduled(pod: Object) -> Trouble | None:
    scheduled = condition(pod, "PodScheduled")
    if scheduled is None or scheduled.get("status") != "False":
        return None
    message = scheduled.get("message") or "no node was found for it"
    volume = "persistentvolumeclaim" in message.lower()
    reason = "VolumePending" if volume else "Unschedulable"
    return Trouble(reason, _short(message), True, seconds(scheduled.get("lastTransitionTime")))


def _containers(status: Object) -> Iterator[Object]:
    initial: Iterable[Object] = status.get("initContainerStatuses") or []
    yield from initial
    usual: Iterable[Object] = status.get("containerStatuses") or []
    yield from (one for one in usual if one.get("name") == ENGINE_CONTAINER)


def _of_container(container: Object) -> Trouble | None:
    state = container.get("state") or {}
    waiting, ended = state.get("waiting"), state.get("terminated")
    if waiting:
        return _waiting(container, waiting)
    engine = container.get("name") == ENGINE_CONTAINER
    if ended and (engine or ended.get("exitCode")):  # fetching ends, an engine does not
        return _ended(container, ended)
    return None


def _waiting(container: Object, waiting: Object) -> Trouble | None:
    reason = waiting.get("reason") or ""
    message = waiting.get("message") or reason
    off = reason in _BACKING_OFF
    if reason == "InvalidImageName":
        return Trouble(reason, _short(message), passing=False)
    if reason in _PULL:
        return Trouble("ImagePullBackOff", _short(message), passing=True, backing_off=off)
    if reason in _CONFIG:
        return Trouble(reason, _short(message), passing=True)
    last = (container.get("lastState") or {}).get("terminated")
    if last and (off or last.get("exitCode")):
        found = _ended(container, last)
        if off and found.reason in {"EngineExited", "OOMKilled"}:
            loops = found.reason if found.reason == "OOMKilled" else reason
            found = found._replace(reason=loops, passing=False)
        return found._replace(backing_off=off)
    return None  # ContainerCreating, PodInitializing: on its way


def _ended(container: Object, ended: Object) -> Trouble:
    code = ended.get("exitCode")
    at, began = seconds(ended.get("finishedAt")), seconds(ended.get("startedAt"))
    said = _short(ended.get("message") or "")
    tail = f": {said}" if said else ""
    steady = bool(began) and at - began >= STEADY_SECONDS
    again = int(container.get("restartCount") or 0) > 0 and not steady
    if ended.get("reason") == "OOMKilled":
        limit = "it used more memory than resources.profile allows"
        return Trouble("OOMKilled", f"the engine was killed, {limit}{tail}", not again, at)
    if container.get("name") != ENGINE_CONTAINER:
        name = container.get("name")
        if name == "fetch" and code in FETCH_ENDS:
            reason, passing = FETCH_ENDS[code]
            return Trouble(reason, said or f"fetch exited with status {code}", passing, at)
        return Trouble("EngineExited", f"{name} exited with status {code}{tail}", True, at)
    words = f"the engine exited with status {code}{tail}"
    return Trouble("CrashLoopBackOff" if again else "EngineExited", words, not again, at)


def _short(text: str) -> str:
    """The end of a text, where the cause stands."""
    text = " ".join(text.split())
    return text if len(text) <= _WORDS else "..." + text[-_WORDS:]
