"""The world as routers see it: models and replicas, with a version that grows on every change.

A change is encoded once and wakes every subscriber; each then sends the newest picture, so a slow
one skips what is outdated instead of queueing it. All access is from the event loop.
"""

import asyncio
from collections.abc import AsyncIterator

import msgspec

from tidegate_runtime.contract.links import ModelView, Replica, WorldLine

BEAT_SECONDS = 5.0


class World:
    """The picture. Writers change `models` and `replicas` and then call `publish`."""

    def __init__(self) -> None:
        self.models: dict[str, ModelView] = {}
        self.replicas: dict[str, Replica] = {}
        self.version = 0
        self._line = b""
        self._closed = False
        self._subscribers: set[asyncio.Event] = set()
        self.publish()

    def publish(self) -> None:
        """Makes the current state the picture, at once."""
        self.version += 1
        line = WorldLine(
            type="world",
            version=self.version,
            models=list(self.models.values()),
            replicas=list(self.replicas.values()),
        )
        self._line = msgspec.json.encode(line) + b"\n"
        for changed in self._subscribers:
            changed.set()

    def close(self) -> None:
        """Ends every stream of `lines`."""
        self._closed = True
        for changed in self._subscribers:
            changed.set()

    async def lines(self) -> AsyncIterator[bytes]:
        """The whole picture, then one line per change, else a beat every `BEAT_SECONDS`."""
        changed = asyncio.Event()
        changed.set()
        self._subscribers.add(changed)
        try:
            while not self._closed:
                try:
                    await asyncio.wait_for(changed.wait(), BEAT_SECONDS)
                    changed.clear()
                    yield self._line
                except TimeoutError:
                    yield self._beat()
        finally:
            self._subscribers.discard(changed)

    def _beat(self) -> bytes:
        return msgspec.json.encode(WorldLine(type="beat", version=self.version)) + b"\n"
