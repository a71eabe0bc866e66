"""The lender: answers routers that ask, recalls from others first, and tells all what pots there are.

Pots change with usage, with grants and limits, and with time. A change by the API is told before its
caller is answered; the rest within a second, for the tenants that were active, and of everybody each
quarter of a minute. Nothing depends on being told: an empty pot lends nothing, whoever asks.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import structlog
from sqlalchemy import Connection, select
from sqlalchemy.exc import SQLAlchemyError

from tidegate_billing import leases, money
from tidegate_billing.budgeting.tables import BUDGET
from tidegate_billing.database import Database, DatabaseDown
from tidegate_billing.leases import Granted, Recall
from tidegate_billing.lending import desk, pots, rates
from tidegate_billing.lending.pots import PREPAID, Place
from tidegate_billing.lending.said import LeaseAnswer, LeaseAsk, LeaseBack, LeaseRenewal, RateView
from tidegate_billing.snapshot import Snapshots
from tidegate_billing.tables import PRICE, TENANT
from tidegate_billing.tariff import Tariffs

log: structlog.stdlib.BoundLogger = structlog.get_logger("billing")

SECONDS: Final = 1.0
ROUNDS: Final = 15
"""Turns after which the pots of tenants are looked at that nothing was heard of."""

Key = tuple[str, str]


class Lender:
    """One for a process; `clock` gives microseconds since the epoch."""

    def __init__(self, database: Database, snapshots: Snapshots, clock: Callable[[], int]) -> None:
        self._database = database
        self._snapshots = snapshots
        self._clock = clock
        self._recalls: dict[Key, set[asyncio.Future[None]]] = {}
        self._active: set[str] = set()
        self._telling = asyncio.Lock()
        self._tariffs = Tariffs()
        self._rated: object = None

    # Questions

    async def ask(self, asked: LeaseAsk) -> LeaseAnswer:
        """Lend; before a no, wait a quarter of a second for what others give back.

        Raises SessionOver, MoneyError, and what the database raises."""
        answer = await self._ask(asked, recalled=False)
        if isinstance(answer, Recall):
            await self._recall(answer.routers)
            answer = await self._ask(asked, recalled=True)
        assert not isinstance(answer, Recall)
        if isinstance(answer, Granted):
            now = self._clock()
            ends = {name: end - now for name, end in answer.ends.items()}
            return LeaseAnswer(granted=desk.shown(answer.amounts), ends_in=ends)
        return LeaseAnswer(refused=desk.shown(answer.free))

    async def _ask(self, asked: LeaseAsk, *, recalled: bool) -> leases.Answer:
        routers = self._snapshots.routers
        return await self._database.write(
            lambda connection: desk.ask(
                connection, asked, self._clock(), routers=routers, recalled=recalled
            )
        )

    async def _recall(self, routers: Mapping[str, Iterable[str]]) -> None:
        """`routers`: by pot. Waits until all have answered, or for RECALL."""
        loop = asyncio.get_running_loop()
        wanted: dict[str, list[str]] = {}
        for pot, names in routers.items():
            for name in names:
                wanted.setdefault(name, []).append(pot)
        waiting: dict[asyncio.Future[None], Key] = {}
        for name, named in wanted.items():
            fresh = [pot for pot in named if (name, pot) not in self._recalls]
            if fresh and not self._snapshots.recall(name, fresh):
                continue
            for pot in named:
                answered = loop.create_future()
                self._recalls.setdefault((name, pot), set()).add(answered)
                waiting[answered] = (name, pot)
        if waiting:
            await asyncio.wait(waiting, timeout=leases.RECALL / leases.SECOND)
        for answered, key in waiting.items():
            self._recalls.get(key, set()).discard(answered)
            if not self._recalls.get(key):
                self._recalls.pop(key, None)

    async def back(self, said: LeaseBack) -> None:
        """A router holds less. Raises as `ask`."""
        await self._database.write(lambda connection: desk.back(connection, said))
        for pot in said.back:
            for answered in self._recalls.pop((said.router, pot), ()):
                if not answered.done():
                    answered.set_result(None)

    async def renew(self, said: LeaseRenewal) -> dict[str, int]:
        """Prolong what a router holds; for how long each. Raises as `ask`."""
        return await self._database.write(
            lambda connection: desk.renew(connection, said, self._clock())
        )

    # News

    def active(self, tenants: Iterable[str]) -> None:
        """What these tenants have may have changed."""
        self._active.update(tenants)

    def repriced(self) -> None:
        """Models may have other names or prices: what they cost is looked up anew."""
        self._rated = None

    async def tell(self, tenants: Iterable[str] | None = None) -> int:
        """Tell routers what pots these tenants have (None: all), and at what rates; the version that
        they have it with."""
        async with self._telling:
            chosen = None if tenants is None else set(tenants)
            now = self._clock()
            places = await self._database.read(lambda connection: _places(connection, chosen, now))
            known = {
                name: view
                for name, view in self._snapshots.pots.items()
                if chosen is None or view.tenant in chosen
            }
            new = [one.view for one in places if known.get(one.view.name) != one.view]
            gone = known.keys() - {one.view.name for one in places}
            rated = await self._rates(now, {view.tenant for view in new})
            if new or gone or rated:
                self._snapshots.change(pots=new, removed_pots=sorted(gone), rates=rated)
            self._recall_overlent(places, now)
            return self._snapshots.version

    async def _rates(self, now: int, new: set[str]) -> list[RateView]:
        """What has changed of the rates of tenants that have pots."""
        tenants = {view.tenant for view in self._snapshots.pots.values()} | new
        if not tenants:
            return []

        def query(connection: Connection) -> list[RateView]:
            state = (rates.state(connection, now), tenants)
            if state == self._rated:
                return []
            found = rates.views(connection, tenants, self._tariffs, now)
            self._rated = state
            return found

        found = await self._database.read(query)
        known = self._snapshots.rates
        return [one for one in found if known.get((one.tenant, one.deployment)) != one]

    def _recall_overlent(self, places: Iterable[Place], now: int) -> None:
        lent = {one.view.name: one.pot for one in places}
        for pot, names in leases.overlent(lent, now).items():
            for name in names:
                self._snapshots.recall(name, [pot])

    async def run(self, every: float = SECONDS) -> None:
        """Tell what time and usage change, for ever."""
        turn = 0
        while True:
            active, self._active = self._active, set()
            try:
                if turn % ROUNDS == 0:
                    # Not at once after a start: routers that outlived us have to be heard first.
                    if turn:
                        await self._expire()
                    await self.tell()
                elif active or self._snapshots.pots:
                    await self.tell(active)
            except (SQLAlchemyError, DatabaseDown) as error:
                self._active |= active
                log.warning("pots_not_told", error=type(error).__name__)
            turn += 1
            await asyncio.sleep(every)

    async def _expire(self) -> None:
        now = self._clock()
        lost = await self._database.write(lambda connection: desk.expire(connection, now))
        for pot, router, amount in lost:
            log.warning("lease_returned", pot=pot, router=router, amount=money.plain(amount))


def _places(connection: Connection, tenants: set[str] | None, now: int) -> list[Place]:
    """The pots of tenants whose money admission must not overrun."""
    currencies = _currencies(connection)
    found = []
    for tenant in limited(connection):
        if tenants is None or tenant in tenants:
            found += pots.of_tenant(connection, tenant, now, currencies)
    return found


def limited(connection: Connection) -> list[str]:
    """The tenants that have pots."""
    # every tenant: which of them is the question
    bounded = select(BUDGET.c.tenant).where(BUDGET.c.hard, BUDGET.c.removed_at.is_(None))
    those = select(TENANT.c.id).where((TENANT.c.plan == PREPAID) | TENANT.c.id.in_(bounded))
    return list(connection.execute(those.order_by(TENANT.c.seq)).scalars())


def _currencies(connection: Connection) -> list[str]:
    """Of every price that there is: a tenant without credit in one has an empty pot in it."""
    known = select(PRICE.c.currency).where(PRICE.c.currency != "").distinct()
    return list(connection.execute(known.order_by(PRICE.c.currency)).scalars())
