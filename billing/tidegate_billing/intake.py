"""The door of the ledger: batches that come while one is being written are kept together.

A commit costs the same for one event and for thousands, and there is one writer; so what has come
in the meantime goes into one transaction. Nobody is answered before his batch is durable.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy import Connection

from tidegate_billing import accounts, ingest
from tidegate_billing.database import Database, DatabaseDown
from tidegate_billing.ingest import Delivery, Memory, Outcome

TOGETHER = 2000
"""Events that one transaction takes, unless a single batch has more."""


class _Waiting(NamedTuple):
    delivery: Delivery
    done: "asyncio.Future[Outcome]"


class Intake:
    """Takes batches from any number of requests."""

    def __init__(self, database: Database, clock: Callable[[], int]) -> None:
        self._database = database
        self._clock = clock
        self._memory = Memory()
        self._waiting: deque[_Waiting] = deque()
        self._working: asyncio.Task[None] | None = None

    async def keep(self, delivery: Delivery) -> Outcome:
        """Keep a batch durably. Raises what the database raised, and then nothing was kept."""
        done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(delivery, done))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await done

    async def _work(self) -> None:
        while self._waiting:
            group = [self._waiting.popleft()]
            events = len(group[0].delivery.good)
            while self._waiting:
                events += len(self._waiting[0].delivery.good)
                if events > TOGETHER:
                    break
                group.append(self._waiting.popleft())
            await self._keep(group)

    async def _keep(self, group: list[_Waiting]) -> None:
        """Keep a group; where the database refuses it, each alone, for only one may be to blame."""
        deliveries = [one.delivery for one in group]

        def transaction(connection: Connection) -> list[Outcome]:
            now = self._clock()
            outcomes = ingest.ingest(connection, deliveries, self._memory, now)
            events = (ready.event for one in deliveries for ready in one.good)
            accounts.touch(connection, accounts.last_use(events, now))
            return outcomes

        try:
            outcomes = await self._database.write(transaction)
        except Exception as error:  # noqa: BLE001 - the boundary of requests: each gets its own error
            self._memory.forget()
            await self._failed(group, error)
            return
        except BaseException:
            self._memory.forget()
            for one in group:
                one.done.cancel()
            raise
        for one, outcome in zip(group, outcomes, strict=True):
            if not one.done.done():
                one.done.set_result(outcome)

    async def _failed(self, group: list[_Waiting], error: Exception) -> None:
        """Nothing of a group was kept. A database that is away is so for each of them."""
        if len(group) > 1 and not isinstance(error, DatabaseDown):
            for one in group:
                await self._keep([one])
            return
        for one in group:
            if not one.done.done():
                one.done.set_exception(error)
