"""The router's two standing links: the world and billing's snapshot, each an NDJSON stream.

A link that breaks is made again at once, then with growing pauses up to a second. What was known
stays known meanwhile.
"""

import asyncio
import contextlib
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

SAVE_PAUSE: Final = 1.0
"""The picture on disk is at most so much older than what is known, however fast that changes."""


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
        self._world: Callable[[], WorldLine | None] = lambda: None
        self._unsaved = asyncio.Event()
        self._told_world, self._told_tenants = asyncio.Event(), asyncio.Event()
        self._saved_at = 0.0

    async def renewed(self, seconds: float) -> None:
        """Return when both links have said what is so now, after `seconds` at most: the picture on
        disk may lack what came just before a crash, a new key or a new model."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._told_world.wait()
                await self._told_tenants.wait()

    def restore(self) -> bool:
        """Start from the last good picture; whether there is one."""
        known = picture.load(self._path, time.time())
        if known is None:
            return False
        age = time.time() - known.at
        if known.snapshot is not None:
            self._gate.tenants.apply(known.snapshot, self._gate.loop.time() - age)
        if known.world is not None:
            world = known.world
            self._world = lambda: world
            self._gate.apply(world)
        log.info("picture_restored", age_seconds=round(age, 1))
        return True

    async def follow_world(self, url: str) -> None:
        """Follow the world for ever."""
        await lines(self._client, url, self._take_world)

    async def follow_kubernetes(self, guard_key: bytes, kubeconfig: str) -> None:
        """Follow the cluster's API server for ever."""
        # Only here: a router without a cluster needs neither the package nor the half second.
        from tidegate_runtime.kube.link import Cluster

        await Cluster(self._gate, guard_key, kubeconfig, self.keep).run()

    async def follow_billing(self, url: str) -> None:
        """Follow billing's snapshot for ever, acknowledging what was applied."""

        async def take(text: str) -> None:
            line = msgspec.json.decode(text, type=SnapshotLine)
            till = self._gate.till
            if line.type == "recall":
                if till is not None:
                    till.recall(line.recall)
                return
            changed = self._gate.tenants.apply(line, self._gate.loop.time())
            if till is not None and changed:
                till.told(changed)
            if line.type == "beat":
                if self._gate.loop.time() - self._saved_at > RENEW:
                    self._unsaved.set()
                return
            self._gate.repriced()
            self._told_tenants.set()
            ack = SnapshotAck(router=self._gate.name, version=line.version)
            await self._client.post(
                f"{url}/internal/snapshot/ack", content=msgspec.json.encode(ack)
            )
            self._unsaved.set()

        await lines(self._client, f"{url}/internal/snapshot?router={self._gate.name}", take)

    async def _take_world(self, text: str) -> None:
        line = msgspec.json.decode(text, type=WorldLine)
        if line.type == "world":
            self._gate.apply(line)
            self.keep(lambda: line)

    def keep(self, world: Callable[[], WorldLine | None]) -> None:
        """The world has changed: keep what `world` gives when it is time to write it down."""
        self._told_world.set()
        self._world = world
        self._unsaved.set()

    async def save(self) -> None:
        """Keep the picture on disk for ever: at once after a change, then once in SAVE_PAUSE.

        The writing is a thread's: a cold start must not wait for a file."""
        writing: asyncio.Future[None] | None = None
        try:
            while True:
                await self._unsaved.wait()
                self._unsaved.clear()
                writing = asyncio.ensure_future(asyncio.to_thread(self._write, *self._known()))
                await asyncio.shield(writing)
                await asyncio.sleep(SAVE_PAUSE)
        finally:
            if writing is not None:
                await writing  # never two at once
            if self._unsaved.is_set():
                self._write(*self._known())

    def _known(self) -> tuple[float, SnapshotLine, WorldLine | None]:
        tenants, now = self._gate.tenants, self._gate.loop.time()
        self._saved_at = now
        age = tenants.age(now)
        return 0.0 if age is None else time.time() - age, tenants.picture(), self._world()

    def _write(self, at: float, snapshot: SnapshotLine, world: WorldLine | None) -> None:
        try:
            picture.save(self._path, at, snapshot, world)
        except OSError as exc:
            log.warning("picture_not_saved", error=str(exc))
