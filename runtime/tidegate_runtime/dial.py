"""Connections to engines: an idle one where there is one, else a new one."""

import asyncio
from typing import Final, Protocol

from tidegate_runtime.endpoints import ReplicaState
from tidegate_runtime.upstream import Upstream

CONNECT_SECONDS: Final = 5.0


class Caller(Protocol):
    """Whoever wants a connection; hears exactly one of the two."""

    def connected(self, upstream: Upstream) -> None:
        """Here it is."""

    def not_connected(self, reason: str) -> None:
        """The replica takes none."""


class Dialer:
    """Connects on one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()

    def connect(self, caller: Caller, replica: ReplicaState) -> None:
        """Give `caller` a connection to `replica`, at once if one is idle."""
        while replica.idle:
            upstream = replica.idle.pop()
            if upstream.transport is not None and not upstream.transport.is_closing():
                caller.connected(upstream)
                return
        task = self._loop.create_task(self._dial(caller, replica))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _dial(self, caller: Caller, replica: ReplicaState) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, upstream = await self._loop.create_connection(
                    lambda: Upstream(replica), replica.host, replica.port
                )
        except OSError as exc:  # TimeoutError is one
            caller.not_connected(f"cannot connect: {exc or 'timeout'}")
            return
        caller.connected(upstream)
