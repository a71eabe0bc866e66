"""One deployment's model, its pods and what routers say of it, as values for tests."""

from typing import Any

from tidegate_operator.autoscale import Policy
from tidegate_operator.demand import Picture
from tidegate_operator.kube.model import Model
from tidegate_runtime.contract import cluster
from tidegate_runtime.contract.links import DemandLine, ModelDemand, ReplicaDemand

NAME = "team/m"
T = 1_000_000.0


def pod(
    uid: str, *, ready: bool = True, draining: bool = False, restarts: int = 0, **status: Any
) -> dict[str, Any]:
    made: dict[str, Any] = {
        "metadata": {"uid": uid, "name": f"pod-{uid}", "namespace": "team"},
        "status": {
            "podIP": "10.0.0.1",
            "containerStatuses": [
                {"name": "engine", "restartCount": restarts, "state": {"running": {}}}
            ],
            **status,
        },
    }
    if draining:
        made["metadata"]["annotations"] = {cluster.DRAINING: "1"}
    if ready:
        made["status"]["conditions"] = [
            {"type": cluster.ANSWERED, "status": "True", "message": f"{uid}.{restarts}"}
        ]
    return made


def deployment(
    replicas: int, version: int = 1, *, old: int = 0, updated: int | None = None, **status: Any
) -> dict[str, Any]:
    """`old`: pods of an earlier version; `updated`: of this one (left out: all there are to be)."""
    new = replicas if updated is None else updated
    return {
        "metadata": {"resourceVersion": str(version)},
        "spec": {"replicas": replicas},
        "status": {"replicas": old + new, "updatedReplicas": new, **status},
    }


def heard(
    picture: Picture, now: float, *, in_flight: int = 0, held: int = 0, router: str = "r",
    replicas: list[ReplicaDemand] | None = None, ahead: float = 0.0,
) -> None:  # fmt: skip
    """`ahead`: of this clock, the router's."""
    demand = ModelDemand(
        deployment=NAME, in_flight=in_flight, held=held, held_since=now if held else 0.0
    )
    line = DemandLine(router=router, at=now + ahead, models=[demand], replicas=replicas or [])
    picture.hear(router, line, now)


def made(replicas: int, *pods: dict[str, Any], **policy: Any) -> Model:
    model = Model(NAME)
    model.off = False
    model.policy = Policy(**{"scale_down_delay_seconds": 0, "stable_window_seconds": 2, **policy})
    model.observe(deployment(replicas), pods)
    return model
