"""Counts engines that leave: what each generated is read until it is gone, and told to billing.

A pod that ends goes on until it has been idle for a while (`engines.leave`), and the routers have
excluded it, so the last reading is the final one. An engine that dies without notice, or while it
still answered somebody, is told with what was last read of it, unverified: by name, and never as zero.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

import httpx
import msgspec
import structlog

from tidegate_billing.links import EngineCounters
from tidegate_operator.local.billing import Billing, BillingError
from tidegate_operator.local.counters import measured
from tidegate_runtime.contract.cluster import epoch, replica
from tidegate_runtime.contract.links import Replica

log = structlog.get_logger()

Object = Mapping[str, Any]
READ_EVERY: Final = 0.5
TRIES: Final = 3


class Leaving:
    """One reading task per engine on its way out, which ends with the engine, whoever leads then."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        billing: Billing,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._http, self._billing, self._spawn = http, billing, spawn
        self._reading: dict[str, asyncio.Event] = {}
        self.last: dict[str, EngineCounters] = {}

    def leaves(self, pod: Object, deployment: str, model: str, secret: str) -> None:
        """Its end has begun: read it until it is gone."""
        key = epoch(pod)
        address = replica(pod, deployment, secret)
        if address is None or key in self._reading:
            return
        self._reading[key] = asyncio.Event()
        self._spawn(self._read(address, model, self._reading[key]))

    def gone(self, key: str, deployment: str, model: str, *, tell: bool) -> None:
        """The epoch has ended; where nobody was reading, tell what is known (a leader does)."""
        reading = self._reading.get(key)
        if reading is not None:
            reading.set()
            return
        base = self.last.pop(key, None) or unread(key, deployment, model)
        if not tell:
            return
        lost = msgspec.structs.replace(base, state="lost", verified=False)
        self._spawn(self._tell(lost))

    async def live(self, pods: list[tuple[Object, str, str, str]]) -> list[EngineCounters]:
        """What runs, read now: (pod, deployment, model, secret) each."""
        found = []
        for pod, deployment, model, secret in pods:
            address = replica(pod, deployment, secret)
            if address is not None:
                found.append(self._now(address, model))
        counters = await asyncio.gather(*found)
        there = {epoch(pod) for pod, *_ in pods}
        kept = {key: one for key, one in self.last.items() if key in there}
        self.last = kept | {one.epoch: one for one in counters if one.verified}
        return list(counters)

    async def _now(self, address: Replica, model: str) -> EngineCounters:
        base = msgspec.structs.replace(unread(address.id, address.deployment, model), state="live")
        return await measured(self._http, base, address.url, address.guard, None)

    async def _read(self, address: Replica, model: str, gone: asyncio.Event) -> None:
        best: EngineCounters | None = None
        failures = 0
        while failures < TRIES and not gone.is_set():
            now = await self._now(address, model)
            failures = 0 if now.verified else failures + 1
            best = now if now.verified else best
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(gone.wait(), READ_EVERY)
        last = self.last.pop(address.id, None) or unread(address.id, address.deployment, model)
        if best is None or best.in_flight:
            told = msgspec.structs.replace(best or last, state="lost", verified=False)
        else:
            told = msgspec.structs.replace(best, state="final")
        await self._tell(told)
        await gone.wait()
        del self._reading[address.id]

    async def _tell(self, counters: EngineCounters) -> None:
        try:
            await self._billing.count([counters])
        except BillingError as error:
            log.error("counters_refused", epoch=counters.epoch, error=str(error))


def unread(key: str, deployment: str, model: str) -> EngineCounters:
    """An epoch nobody has read."""
    return EngineCounters(
        model=model, deployment=deployment, epoch=key, prompt=0, generated=0, state="lost",
        verified=False,
    )  # fmt: skip
