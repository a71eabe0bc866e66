"""A start from zero, and how far it has come."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tidegate_runtime.contract.cluster import condition, engine_status, seconds

Object = Mapping[str, Any]


class ColdStart(NamedTuple):
    """A start from zero, step by step, in seconds since the epoch (0: not yet)."""

    id: str = ""
    held_at: float = 0.0
    scaled_at: float = 0.0
    created_at: float = 0.0
    scheduled_at: float = 0.0
    running_at: float = 0.0
    addressed_at: float = 0.0
    answered_at: float = 0.0
    forwarded_at: float = 0.0


def start_steps(cold: ColdStart, pod: Object) -> ColdStart:
    """`cold` with the steps its pod has taken, as far as Kubernetes tells (in whole seconds)."""
    scheduled = condition(pod, "PodScheduled") or {}
    running = (engine_status(pod).get("state") or {}).get("running") or {}
    placed = scheduled.get("status") == "True"
    return cold._replace(
        created_at=seconds(pod["metadata"].get("creationTimestamp")),
        scheduled_at=seconds(scheduled.get("lastTransitionTime")) if placed else 0.0,
        running_at=seconds(running.get("startedAt")),
    )
