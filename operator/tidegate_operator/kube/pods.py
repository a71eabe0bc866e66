"""What one pod, and the Deployment that has it, say of a step down: pure readers of the API's JSON."""

from collections.abc import Mapping
from typing import Any, Final

from tidegate_runtime.contract.cluster import DRAINING, answered, lost, reachable

Object = Mapping[str, Any]
DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
CHEAPEST: Final = "-2147483647"


def ends(pod: Object) -> bool:
    """Whether its deletion has begun."""
    return "deletionTimestamp" in pod["metadata"]


def silent(pod: Object, mark: str) -> bool:
    """Whether nobody is served there, nor will be though its engine may start again: whoever then
    sees an engine sees the mark as well, for this version of the pod has it."""
    never_there = not pod.get("status", {}).get("podIP")
    return never_there or (draining_mark(pod) == mark and not reachable(pod))


def serves(pod: Object) -> bool:
    """Whether its engine has answered, and its node is heard of."""
    return answered(pod) and not lost(pod)


def rolling(deployment: Object) -> bool:
    """Whether pods of an earlier version are there, or some of the newest are not there yet."""
    told = deployment.get("status") or {}
    updated = int(told.get("updatedReplicas") or 0)
    return updated < max(int(told.get("replicas") or 0), int(deployment["spec"]["replicas"]))


def draining_mark(pod: Object) -> str:
    """Its draining mark; empty without one."""
    return str((pod["metadata"].get("annotations") or {}).get(DRAINING, ""))


def marked_at(pod: Object, now: float) -> float:
    """When its drain began, which ends all waiting for it: `now` where the mark tells no time that
    has been. It may be another machine's clock, and the drain's end as much too early or late."""
    said = draining_mark(pod)
    try:
        began = float(said)
    except ValueError:
        return now
    return began if 0.0 <= began <= now else now


def created(pod: Object) -> str:
    """When it was made, as the API server writes it."""
    return str(pod["metadata"].get("creationTimestamp", ""))


def cheapest(pod: Object) -> bool:
    """Whether a ReplicaSet that has to delete one deletes this one first."""
    return (pod["metadata"].get("annotations") or {}).get(DELETION_COST) == CHEAPEST
