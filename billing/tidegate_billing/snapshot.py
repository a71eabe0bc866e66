"""The picture routers work from, and its way to them: whole once, then every change, then beats.

The hub keeps the picture in memory and encodes each change once for all. A subscriber has a short
queue; one that does not read is given the whole picture again when it does, so neither a slow nor
a dead router holds up another or the change itself. Versions only grow, over restarts too: they
start from the clock.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterable

import msgspec

from tidegate_billing.lending.said import PotView, RateView
from tidegate_billing.links import KeyView, PriceView, SnapshotLine

BEAT_SECONDS = 5.0
QUEUE = 256
"""Changes a subscriber may be behind before it gets the whole picture instead."""


def encode(line: SnapshotLine) -> bytes:
    """A line of NDJSON."""
    return msgspec.json.encode(line) + b"\n"


class Subscriber:
    """One router's stream. `acked`: the version up to which it said it works by the picture."""

    def __init__(self, router: str) -> None:
        self.router = router
        self.acked = 0
        self.queue: deque[bytes] = deque()
        self.behind = True  # owed the whole picture
        self.closed = False
        self.wake = asyncio.Event()

    def push(self, encoded: bytes) -> None:
        """Send a line, or the whole picture instead to one that does not read."""
        if len(self.queue) >= QUEUE:
            self.queue.clear()
            self.behind = True
        if not self.behind:
            self.queue.append(encoded)
        self.wake.set()


class Snapshots:
    """The picture and its subscribers. Every method but the stream and `applied` is immediate."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.subscribers: set[Subscriber] = set()
        self._keys: dict[str, KeyView] = {}
        self._prices: dict[str, PriceView] = {}
        self._tenants: dict[str, None] = {}
        self._suspended: dict[str, None] = {}
        self.pots: dict[str, PotView] = {}
        self.rates: dict[tuple[str, str], RateView] = {}
        self._waiters: set[asyncio.Future[None]] = set()

    def load(
        self,
        keys: Iterable[KeyView],
        prices: Iterable[PriceView],
        tenants: Iterable[str],
        suspended: Iterable[str] = (),
    ) -> None:
        """Set the whole picture, before anyone subscribes."""
        self._keys = {key.id: key for key in keys}
        self._prices = {price.deployment: price for price in prices}
        self._tenants = dict.fromkeys(tenants)
        self._suspended = dict.fromkeys(suspended)

    def change(
        self,
        *,
        keys: Iterable[KeyView] = (),
        removed_keys: Iterable[str] = (),
        prices: Iterable[PriceView] = (),
        tenants: Iterable[str] = (),
        suspended: Iterable[str] = (),
        resumed: Iterable[str] = (),
        pots: Iterable[PotView] = (),
        removed_pots: Iterable[str] = (),
        rates: Iterable[RateView] = (),
    ) -> int:
        """Take a change that is durable, send it to everyone, and return its version."""
        self.version += 1
        line = SnapshotLine(
            type="change",
            version=self.version,
            keys=list(keys),
            removed_keys=list(removed_keys),
            prices=list(prices),
            tenants=list(tenants),
            suspended=list(suspended),
            resumed=list(resumed),
            pots=list(pots),
            removed_pots=list(removed_pots),
            rates=list(rates),
        )
        self._keep(line)
        encoded = encode(line)
        for subscriber in self.subscribers:
            subscriber.push(encoded)
        return self.version

    def _keep(self, line: SnapshotLine) -> None:
        self._keys.update((key.id, key) for key in line.keys)
        for key_id in line.removed_keys:
            self._keys.pop(key_id, None)
        self._prices.update((price.deployment, price) for price in line.prices)
        self._tenants.update(dict.fromkeys(line.tenants))
        self._suspended.update(dict.fromkeys(line.suspended))
        for tenant in line.resumed:
            self._suspended.pop(tenant, None)
        self.pots.update((pot.name, pot) for pot in line.pots)
        for name in line.removed_pots:
            self.pots.pop(name, None)
        self.rates.update(((rate.tenant, rate.deployment), rate) for rate in line.rates)

    def recall(self, router: str, pots: Iterable[str]) -> bool:
        """Have a router give back what is unused of these pots; False: it isn't connected."""
        line = SnapshotLine(type="recall", version=self.version, recall=list(pots))
        asked = [one for one in self.subscribers if one.router == router]
        for subscriber in asked:
            subscriber.push(encode(line))
        return bool(asked)

    @property
    def routers(self) -> int:
        """How many are connected."""
        return len({one.router for one in self.subscribers})

    def expire(self, now: int) -> list[str]:
        """Take keys whose time is over out of the picture; which those were.

        Routers refuse them by their own clock before that. This keeps the picture from growing for
        ever, and ends them at a router whose clock is wrong, or which is of an older release."""
        over = [
            key.id
            for key in self._keys.values()
            if key.expires_at is not None and key.expires_at <= now
        ]
        if over:
            self.change(removed_keys=over)
        return over

    def ack(self, router: str, version: int) -> bool:
        """A router's word on how far it got; False: it has no stream."""
        known = False
        for subscriber in self.subscribers:
            if subscriber.router == router:
                subscriber.acked = max(subscriber.acked, version)
                known = True
        self._notify()
        return known

    async def applied(self, version: int, seconds: float) -> bool:
        """Wait until every connected router works by `version`; False: `seconds` went by."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while any(one.acked < version for one in self.subscribers):
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiters.add(waiter)
                    try:
                        await waiter
                    finally:
                        self._waiters.discard(waiter)
                return True
        return False

    async def stream(self, router: str, beat: float = BEAT_SECONDS) -> AsyncIterator[bytes]:
        """A router's lines, until it leaves, a newer stream of its name comes, or we stop."""
        for old in [one for one in self.subscribers if one.router == router]:
            self._leave(old)
        subscriber = Subscriber(router)
        self.subscribers.add(subscriber)
        try:
            while not subscriber.closed:
                lines = self._take(subscriber)
                if lines:
                    yield lines
                    continue
                try:
                    async with asyncio.timeout(beat):
                        await subscriber.wake.wait()
                except TimeoutError:
                    yield encode(SnapshotLine(type="beat", version=self.version))
        finally:
            self._leave(subscriber)

    def close(self) -> None:
        """End every stream."""
        for subscriber in list(self.subscribers):
            self._leave(subscriber)

    def _take(self, subscriber: Subscriber) -> bytes:
        subscriber.wake.clear()
        if subscriber.behind:
            subscriber.behind = False
            subscriber.queue.clear()
            return encode(self.whole())
        lines = b"".join(subscriber.queue)
        subscriber.queue.clear()
        return lines

    def whole(self) -> SnapshotLine:
        """The picture as it is now."""
        return SnapshotLine(
            type="snapshot",
            version=self.version,
            keys=list(self._keys.values()),
            prices=list(self._prices.values()),
            tenants=list(self._tenants),
            suspended=list(self._suspended),
            pots=list(self.pots.values()),
            rates=list(self.rates.values()),
        )

    def _leave(self, subscriber: Subscriber) -> None:
        subscriber.closed = True
        subscriber.wake.set()
        self.subscribers.discard(subscriber)
        self._notify()

    def _notify(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
