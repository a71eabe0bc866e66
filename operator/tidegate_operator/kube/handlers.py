"""Where kopf's events come in: the resources themselves and the namespaces they are in.

Only raw events are handled. kopf's own change handlers would put a finalizer and progress notes on
every resource, and a resource with a finalizer of ours could not be deleted while we are away. What
is to be done about an event is decided by the queue, which does not look at its type.
"""

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import kopf
import structlog

from tidegate_operator.kube.state import State
from tidegate_runtime.contract.cluster import GROUP, PLURAL, VERSION

log = structlog.get_logger()

RESTART_SECONDS = 1.0
WATCH_SECONDS = 300
"""The server ends a watch after so long; a connection that died silently is noticed by then."""


class _Always:
    """Pauses between kopf's tries of one request, without end: giving up would end the operator,
    and a server that comes back refuses (403, 503) for a while before it is all there."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((0.1, 0.2, 0.5), itertools.repeat(1.0))


def registry(state: State, relisted: asyncio.Event) -> kopf.OperatorRegistry:
    """The handlers, bound to `state`. `relisted` is set where kopf has listed all there is."""
    made = kopf.OperatorRegistry()

    async def resource(event: Mapping[str, Any], **_: Any) -> None:
        if event["type"] is None:
            relisted.set()
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
    made.networking.error_backoffs = _Always()
    made.networking.connect_timeout = 5.0
    made.scanning.disabled = True  # see `follow`
    return made


def take_signals(stop: asyncio.Event) -> None:
    """SIGTERM and SIGINT end the process in order."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def follow(
    state: State,
    stop: asyncio.Event,
    relisted: asyncio.Event,
    served: Callable[[], Awaitable[bool]],
) -> None:
    """Runs kopf in this loop until `stop` is set. `served`: whether the definition is discoverable.

    What ends kopf otherwise (an error in a watch, a token that is refused, a definition that went)
    is no reason to end what runs beside it: it begins again, with a list. It takes the signals for
    itself, and would keep them when it has ended, so they are taken back as soon as it runs.

    kopf can look out for definitions by itself, but asks discovery once per event, and discovery
    learns of a new definition after its last event: then it would follow nothing, for good."""
    while not stop.is_set():
        await _until(served, stop)
        ready = asyncio.Event()
        back = asyncio.ensure_future(_taken_back(ready, stop, relisted))
        try:
            await kopf.operator(
                registry=registry(state, relisted),
                settings=settings(),
                standalone=True,
                clusterwide=True,
                stop_flag=stop,
                ready_flag=ready,
            )
        except Exception:  # kopf's boundary: it ends with whatever its tasks raised
            log.exception("kopf_ended")
            take_signals(stop)
            await _pause(stop)
        else:
            stop.set()
        finally:
            back.cancel()


async def _until(served: Callable[[], Awaitable[bool]], stop: asyncio.Event) -> None:
    while not stop.is_set() and not await served():
        await _pause(stop)


async def _pause(stop: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), RESTART_SECONDS)


async def _taken_back(ready: asyncio.Event, stop: asyncio.Event, relisted: asyncio.Event) -> None:
    await ready.wait()
    take_signals(stop)
    relisted.set()  # what went while it did not run is told by no event
