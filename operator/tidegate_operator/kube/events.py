"""Events of transitions, on the resource they are about, where `kubectl describe` shows them.

An Event that cannot be written is only logged: the status has said it already.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import structlog

from tidegate_billing.usage import uuid7
from tidegate_operator.capacity import GiveWay
from tidegate_operator.kube.api import Api, ApiError, collection
from tidegate_operator.kube.report import Condition, stamp
from tidegate_runtime.contract.cluster import FIELD_MANAGER, GROUP, VERSION

log = structlog.get_logger()

Object = Mapping[str, Any]


def made(about: Object, told: Condition, now: float) -> dict[str, Any]:
    """The Event of a transition."""
    metadata = about["metadata"]
    at = stamp(now)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{metadata['name'][:200]}.{uuid7().replace('-', '')[-16:]}",
            "namespace": metadata["namespace"],
        },
        "involvedObject": {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "ModelDeployment",
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata.get("resourceVersion", ""),
        },
        "type": "Normal" if told.status else "Warning",
        "reason": told.reason,
        "message": told.message[:1000],
        "source": {"component": FIELD_MANAGER},
        "reportingComponent": FIELD_MANAGER,
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    }


def of_giving_way(give: GiveWay) -> Iterator[tuple[str, Condition]]:
    """What is told of a model that gives way: on it, and on the one that waits."""
    victim = f"idle, and goes to zero to make room for {give.waiter}"
    yield give.victim, Condition("Scaled", True, "GaveWay", victim)
    waiter = f"{give.victim} is idle and goes to zero to make room for it"
    yield give.waiter, Condition("Scaled", True, "MadeRoom", waiter)


class Events:
    """Writes them."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def tell(self, about: Object, told: Condition) -> None:
        """Writes the Event of a transition."""
        event = made(about, told, time.time())
        try:
            await self._api.create(collection("Event", event["metadata"]["namespace"]), event)
        except ApiError as error:
            log.warning("event_not_written", reason=told.reason, error=error.message[:200])
