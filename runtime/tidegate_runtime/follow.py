"""The router's two standing links: the world and billing's snapshot, each an NDJSON stream.

A link that breaks is made again at once, then with growing pauses up to a second. What was known
stays known meanwhile.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import httpx
import msgspec
import structlog

from tidegate_billing.links import SnapshotAck, SnapshotLine
from tidegate_runtime import picture
from tidegate_runtime.contract.links import WorldLine
from tidegate_runtime.gate import Gate

log = structlog.get_logger()

SILENCE: Final = 15.0
"""Beats come every 5 s: a link silent for this long is dead."""

RENEW: Final = 60.0
"""How often a beat alone renews the picture on disk."""


async def lines(
    client: httpx.AsyncClient, url: str, take: Callable[[str], Awaitable[None]]
) -> None:
    """Follow an NDJSON stream for ever. Cancel to stop."""
    pause = 0.05
    while True:
        try:
            timeout = httpx.Timeout(5.0, read=SILENCE)
            async with client.stream("GET", url, timeout=timeout) as answer:
                answer.raise_for_status()
                pause = 0.05
                async for line in answer.aiter_lines():
                    if line:
                        await take(line)
        except httpx.HTTPError as exc:
            log.info("link_lost", url=url, error=type(exc).__name__)
        except msgspec.DecodeError as exc:
            log.error("link_line_refused", url=url, error=str(exc))
        await asyncio.sleep(pause)
        pause = min(2 * pause, 1.0)


class Links:
    """Feeds a gate from both streams and keeps the picture on disk."""

    def __init__(self, gate: Gate, client: httpx.AsyncClient, path: Path) -> None:
        self._gate = gate
        self._client = client
        self._path = path
        self._world: WorldLine | None = None
        self._saved_at = 0.0

    def restore(self) -> None:
        """Start from the last good picture, if there is one."""
        known = picture.load(self._path, time.time())
        if known is None:
            return
        age = time.time() - known.at
        if known.snapshot is not None:
            self._gate.tenants.apply(known.snapshot, self._gate.loop.time() - age)
        if known.world is not None:
            self._world = known.world
            self._gate.apply(known.world)
        log.info("picture_restored", age_seconds=round(age, 1))

    async def follow_world(self, url: str) -> None:
        """Follow the world for ever."""
        await lines(self._client, url, self._take_world)

    async def follow_billing(self, url: str) -> None:
        """Follow billing's snapshot for ever, acknowledging what was applied."""

        async def take(text: str) -> None:
            line = msgspec.json.decode(text, type=SnapshotLine)
            self._gate.tenants.apply(line, self._gate.loop.time())
            if line.type == "beat":
                if self._gate.loop.time() - self._saved_at > RENEW:
                    self._save()
                return
            self._gate.repriced()
            ack = SnapshotAck(router=self._gate.name, version=line.version)
            await self._client.post(
                f"{url}/internal/snapshot/ack", content=msgspec.json.encode(ack)
            )
            self._save()

        await lines(self._client, f"{url}/internal/snapshot?router={self._gate.name}", take)

    async def _take_world(self, text: str) -> None:
        line = msgspec.json.decode(text, type=WorldLine)
        if line.type == "world":
            self._gate.apply(line)
            self._world = line
            # After the held requests are on their way: a cold start must not wait for a file.
            self._gate.loop.call_soon(self._save)

    def _save(self) -> None:
        tenants, now = self._gate.tenants, self._gate.loop.time()
        self._saved_at = now
        age = tenants.age(now)
        at = 0.0 if age is None else time.time() - age
        try:
            picture.save(self._path, at, tenants.picture(), self._world)
        except OSError as exc:
            log.warning("picture_not_saved", error=str(exc))
