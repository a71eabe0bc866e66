"""The worker that sends: it looks each second for what is due, and tries each delivery by itself.

An endpoint has few tries under way at once, so that one that hangs takes no place from the others.
A try is written down after it was made. A process that dies between the two sends the message
once more when it is back, under the same id; so may a second process beside this one.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from tidegate_billing import alerts
from tidegate_billing.alerts import Message
from tidegate_billing.database import DatabaseDown
from tidegate_billing.deliveries import Answer
from tidegate_billing.service import Service, log, now
from tidegate_billing.webhooks import queue, signing
from tidegate_billing.webhooks.post import Poster
from tidegate_billing.webhooks.queue import Job

AT_ONCE = 64
EACH = 2
"""Tries of one endpoint under way at once."""
POLL_SECONDS = 1.0
WRITE_AGAIN_SECONDS = 5.0


class Worker:
    """Sends what is due. `clock`: microseconds since the epoch."""

    def __init__(self, service: Service, poster: Poster, clock: Callable[[], int] = now) -> None:
        self._service = service
        self._poster = poster
        self._clock = clock
        self._under_way: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()

    async def turn(self) -> int:
        """Begin what is due and has a place; how many tries that were. Raises as `Database.read`."""
        busy = Counter(self._under_way.values())
        full = [endpoint for endpoint, tries in busy.items() if tries >= EACH]
        if len(self._under_way) >= AT_ONCE:
            return 0
        # What ends while the database is read is still due in what was read.
        before = set(self._under_way)
        jobs = await self._service.database.read(
            lambda connection: queue.due(connection, self._clock(), full, 2 * AT_ONCE)
        )
        begun = 0
        for job in jobs:
            name, endpoint = job.delivery.id, job.delivery.endpoint
            if name in before or name in self._under_way or busy[endpoint] >= EACH:
                continue
            if len(self._under_way) >= AT_ONCE:
                break
            busy[endpoint] += 1
            begun += 1
            self._under_way[name] = endpoint
            task = asyncio.create_task(self._deliver(job))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return begun

    async def idle(self) -> None:
        """Wait until no try is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def run(self) -> None:
        """Send for ever."""
        try:
            while True:
                self._ended.clear()
                try:
                    while await self.turn():
                        pass
                except (SQLAlchemyError, DatabaseDown) as error:
                    log.warning("webhooks_not_read", error=type(error).__name__)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ended.wait(), POLL_SECONDS)
        finally:
            for task in self._tasks:
                task.cancel()

    async def _deliver(self, job: Job) -> None:
        try:
            answer = await self._send(job)
            await self._finish(job, answer)
        finally:
            del self._under_way[job.delivery.id]
            self._ended.set()

    async def _send(self, job: Job) -> Answer:
        at = self._clock()
        message = Message(job.delivery.message, job.type, job.body.encode())
        try:
            headers = alerts.headers(signing.in_force(job.secrets, at), message, at)
            return await self._poster.send(job.url, headers, message.body)
        except Exception as error:  # noqa: BLE001 - the boundary of a try: it is put off, the rest goes on
            log.exception("webhook_failed", alarm=True, delivery=job.delivery.id)
            return Answer(0, 0, f"failed on our side: {type(error).__name__}")

    async def _finish(self, job: Job, answer: Answer) -> None:
        """Write a try down. Until that is done its delivery stays under way: what can't be written
        would be sent again and again."""
        name = job.delivery.id
        while True:
            try:
                after = await self._service.database.write(
                    lambda connection: queue.finish(
                        connection, name, answer, self._clock(), random.random
                    )
                )
            except (SQLAlchemyError, DatabaseDown) as error:
                log.warning("webhook_not_written", delivery=name, error=type(error).__name__)
                await asyncio.sleep(WRITE_AGAIN_SECONDS)
                continue
            if after.state != "delivered":
                log.info("webhook_not_delivered", delivery=name, state=after.state, status=answer.status)  # fmt: skip
            return


async def run(service: Service) -> None:
    """Send for ever, where the service allows."""
    await Worker(service, Poster(service.destinations)).run()
