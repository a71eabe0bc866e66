"""What the operations port says of the fleet: rows for people, metrics, and how long starts took."""

import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from tidegate_operator.kube.coldstart import ColdStart
from tidegate_operator.kube.model import Model

if TYPE_CHECKING:
    from tidegate_operator.kube.fleet import Fleet

Finished = deque[tuple[str, ColdStart]]
"""Cold starts that have ended, by deployment, in their order."""


def row(fleet: "Fleet", model: Model) -> dict[str, Any]:
    """A model, as `tidegate models --json` has it."""
    resource = fleet.state.resources[model.deployment]
    return {
        "name": fleet.served_name(model.deployment),
        "task": resource["spec"]["model"].get("task", "generate"),
        "deployment": model.deployment,
        "phase": (resource.get("status") or {}).get("phase"),
        "ready": len(model.ready()),
        "desired": model.desired,
        "in_flight": model.total.in_flight or 0,
        "held": model.total.held or 0,
        "failure": None if model.failure is None else msgspec.to_builtins(model.failure),
    }


def starts(
    writes: Iterable[tuple[str, float, float]], finished: Iterable[tuple[str, ColdStart]]
) -> dict[str, Any]:
    """Scale writes (held since, acknowledged at) and finished cold starts, in their order."""
    return {
        "scale_writes": [
            {"deployment": name, "held_since": held, "at": at} for name, held, at in writes
        ],
        "cold_starts": [{"deployment": name, **cold._asdict()} for name, cold in finished],
    }


def metrics(fleet: "Fleet") -> str:
    """Prometheus text."""
    api = fleet.site.api
    lines = [
        "# TYPE tidegate_operator_leading gauge",
        f"tidegate_operator_leading {int(fleet.leading)}",
        "# TYPE tidegate_operator_api_calls_total counter",
        f"tidegate_operator_api_calls_total {api.calls}",
        "# TYPE tidegate_operator_api_failures_total counter",
        f"tidegate_operator_api_failures_total {api.failures}",
        "# TYPE tidegate_operator_reconcile_failures_total counter",
        f"tidegate_operator_reconcile_failures_total {fleet.queue.failures}",
        "# TYPE tidegate_operator_write_failures_total counter",
        f"tidegate_operator_write_failures_total {fleet.scaler.failures}",
        "# TYPE tidegate_operator_faults_total counter",
        f"tidegate_operator_faults_total {fleet.faults}",
        "# TYPE tidegate_operator_queue_depth gauge",
        f"tidegate_operator_queue_depth {fleet.queue.depth}",
        "# TYPE tidegate_operator_resources gauge",
        f"tidegate_operator_resources {len(fleet.models)}",
        *_capacity(fleet),
        "# TYPE tidegate_replicas_desired gauge",
        "# TYPE tidegate_replicas_ready gauge",
    ]
    for model in fleet.models.values():
        label = f'{{deployment="{model.deployment}"}}'
        lines.append(f"tidegate_replicas_desired{label} {model.desired}")
        lines.append(f"tidegate_replicas_ready{label} {len(model.ready())}")
    return "\n".join([*lines, ""])


def _capacity(fleet: "Fleet") -> list[str]:
    known = fleet.capacity
    return [
        "# TYPE tidegate_capacity_waiting gauge",
        f"tidegate_capacity_waiting {len(known.waits)}",
        "# TYPE tidegate_gave_way_total counter",
        f"tidegate_gave_way_total {known.gave_way}",
        "# TYPE tidegate_devices_free gauge",
        *(
            f'tidegate_devices_free{{node="{node}",resource="{resource}"}} {left:g}'
            for node, resource, left in known.free(time.time())
        ),
    ]
