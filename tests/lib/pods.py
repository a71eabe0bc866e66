"""Statuses of pods as a kubelet and a scheduler write them."""

from typing import Any


def pod(
    *containers: dict[str, Any], initial: list[dict[str, Any]] | None = None, **status: Any
) -> Any:
    return {
        "metadata": {"uid": "u"},
        "status": {
            "containerStatuses": list(containers),
            "initContainerStatuses": initial or [],
            **status,
        },
    }


def waiting(
    reason: str, message: str = "", last: dict[str, Any] | None = None, restarts: int = 0
) -> Any:
    made = {
        "name": "engine",
        "restartCount": restarts,
        "state": {"waiting": {"reason": reason, "message": message}},
    }
    return made | ({"lastState": {"terminated": last}} if last else {})


def ended(code: int, reason: str = "Error", message: str = "", name: str = "engine") -> Any:
    state = {"terminated": {"exitCode": code, "reason": reason, "message": message}}
    return {"name": name, "restartCount": 0, "state": state}


def unscheduled(message: str) -> Any:
    return pod(conditions=[{"type": "PodScheduled", "status": "False", "message": message}])
