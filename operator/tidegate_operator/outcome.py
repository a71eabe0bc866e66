"""What is wrong with a pod, in the words of whoever found out, as a value.

Kubernetes says it in five places (conditions of the pod, waiting and terminated states of its
containers, their last states, the pod's own reason), and mostly says it again and again. One
function reads them in the order in which they explain each other; it is a table, and each row is a
test. `passing` troubles may be cured by waiting (a node that is being added, a registry that comes
back, a first crash); the others will not go away by themselves.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tidegate_runtime.contract.cluster import ENGINE_CONTAINER, condition, seconds

Object = Mapping[str, Any]

_PULL = frozenset({"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ErrImageNeverPull"})
_CONFIG = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
FETCH_ENDS = {
    2: ("ModelNotFound", False),
    3: ("ModelUnavailable", True),
    4: ("VolumePending", True),
}
"""What the exit status of the init container `fetch` means, and whether waiting may cure it: no such
model or address; the registry does not answer; no room for the weights."""
_WORDS = 600


class Trouble(NamedTuple):
    """Why a pod does not serve. `since`: seconds since the epoch, 0 where nobody says."""

    reason: str
    message: str
    passing: bool
    since: float = 0.0


def trouble(pod: Object) -> Trouble | None:
    """What keeps this pod from serving; None where nothing is known to."""
    status = pod.get("status", {})
    if status.get("phase") == "Failed":
        return _failed(status)
    unscheduled = _unscheduled(pod)
    if unscheduled is not None:
        return unscheduled
    for container in _containers(status):
        found = _of_container(container)
        if found is not None:
            return found
    return None


def _failed(status: Object) -> Trouble:
    reason = status.get("reason") or "EngineExited"
    message = status.get("message") or "the pod has failed"
    known = {"NodeLost": "NodeLost", "UnexpectedAdmissionError": "Unschedulable"}
    return Trouble(known.get(reason, reason), _short(message), passing=True)


def _unscheduled(pod: Object) -> Trouble | None:
    scheduled = condition(pod, "PodScheduled")
    if scheduled is None or scheduled.get("status") != "False":
        return None
    message = scheduled.get("message") or "no node was found for it"
    volume = "PersistentVolumeClaim" in message
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
    if ended and ended.get("exitCode"):
        return _ended(container, ended)
    return None


def _waiting(container: Object, waiting: Object) -> Trouble | None:
    reason = waiting.get("reason") or ""
    message = waiting.get("message") or reason
    if reason == "InvalidImageName":
        return Trouble(reason, _short(message), passing=False)
    if reason in _PULL:
        return Trouble("ImagePullBackOff", _short(message), passing=True)
    if reason in _CONFIG:
        return Trouble(reason, _short(message), passing=True)
    last = (container.get("lastState") or {}).get("terminated")
    if last and last.get("exitCode"):
        found = _ended(container, last)
        if reason == "CrashLoopBackOff" and found.reason == "EngineExited":
            return found._replace(reason="CrashLoopBackOff", passing=False)
        return found
    return None  # ContainerCreating, PodInitializing: on its way


def _ended(container: Object, ended: Object) -> Trouble:
    code = ended.get("exitCode")
    at = seconds(ended.get("finishedAt"))
    said = _short(ended.get("message") or "")
    tail = f": {said}" if said else ""
    if ended.get("reason") == "OOMKilled":
        limit = "it used more memory than resources.profile allows"
        return Trouble("OOMKilled", f"the engine was killed, {limit}{tail}", True, at)
    if container.get("name") != ENGINE_CONTAINER:
        name = container.get("name")
        if name == "fetch" and code in FETCH_ENDS:
            reason, passing = FETCH_ENDS[code]
            return Trouble(reason, said or f"fetch exited with status {code}", passing, at)
        return Trouble("EngineExited", f"{name} exited with status {code}{tail}", True, at)
    again = int(container.get("restartCount") or 0) > 0
    words = f"the engine exited with status {code}{tail}"
    return Trouble("EngineExited", words, passing=not again, since=at)


def _short(text: str) -> str:
    """The end of a text, where the cause stands."""
    text = " ".join(text.split())
    return text if len(text) <= _WORDS else "..." + text[-_WORDS:]
