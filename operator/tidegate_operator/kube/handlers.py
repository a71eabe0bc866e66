"""Where kopf's events come in: the resources themselves and the namespaces they are in.

Only raw events are handled. kopf's own change handlers would put a finalizer and progress notes on
every resource, and a resource with a finalizer of ours could not be deleted while we are away. What
is to be done about an event is decided by the queue, which does not look at its type.
"""

import asyncio
import os
from collections.abc import Mapping
from typing import Any

import kopf

from tidegate_operator.kube.state import State
from tidegate_runtime.contract.cluster import GROUP, PLURAL, VERSION

WATCH_SECONDS = 300
"""The server ends a watch after so long; a connection that died silently is noticed by then."""


def registry(state: State) -> kopf.OperatorRegistry:
    """The handlers, bound to `state`."""
    made = kopf.OperatorRegistry()

    async def resource(event: Mapping[str, Any], **_: Any) -> None:
        state.resource(dict(event["object"]), deleted=event["type"] == "DELETED")

    async def namespace(event: Mapping[str, Any], **_: Any) -> None:
        state.namespace(dict(event["object"]), deleted=event["type"] == "DELETED")

    async def login(**given: Any) -> kopf.ConnectionInfo | None:
        if "KUBECONFIG" in os.environ:
            return kopf.login_with_kubeconfig(**given)
        return kopf.login_with_service_account(**given)

    kopf.on.login(registry=made)(login)
    kopf.on.event(GROUP, VERSION, PLURAL, registry=made)(resource)
    kopf.on.event("", "v1", "namespaces", registry=made)(namespace)
    return made


def settings() -> kopf.OperatorSettings:
    """kopf's settings: no words of its own in the cluster, and no waiting for more events."""
    made = kopf.OperatorSettings()
    made.posting.enabled = False
    made.batching.batch_window = 0.0
    made.watching.server_timeout = WATCH_SECONDS
    made.watching.client_timeout = WATCH_SECONDS + 30
    made.watching.reconnect_backoff = 0.5
    made.networking.error_backoffs = [0.5, 1, 1]
    return made


async def follow(state: State, stop: asyncio.Event) -> None:
    """Runs kopf in this loop until `stop` is set (or a signal tells kopf to end)."""
    await kopf.operator(
        registry=registry(state),
        settings=settings(),
        standalone=True,
        clusterwide=True,
        stop_flag=stop,
    )
