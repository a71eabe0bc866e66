"""The meter: every attempt is on record before it is dispatched and settled exactly once.

`attempt` writes before an engine is asked. `settle` writes the settlement, and in strict mode
calls back only after one fdatasync, shared by all that wait for it, so that the last bytes of an
answer never leave before their record is durable. The commit thread does nothing but sync (and
make the next segment); all writes are the loop's own. A shipper tells billing in batches and drops
what billing has confirmed.

Where the disk is too small for the next segment, `scarce` names it: what comes is served into the room
that is left, and a router that should not be asked any more says so. Where that is used up, the disk is
full or a sync fails, `refusal` names it and new work is refused; what already runs settles into the
reserve, and a settlement that cannot be written is kept and tried again.
"""

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import httpx
import msgspec
import structlog

from tidegate_billing.lending.said import LeaseKept, LeaseWord
from tidegate_billing.links import UsageAck
from tidegate_billing.usage import Usage
from tidegate_runtime.journal import Journal, Record, Segment
from tidegate_runtime.settlement import settlement
from tidegate_runtime.slots import Slots
from tidegate_runtime.stream import Counts

log = structlog.get_logger()

BATCH: Final = 1000
LINGER: Final = 0.02
OPEN_TOLD_AFTER: Final = 2.0
LOW_DISK: Final = 2 * 1024 * 1024
NO_SPACE: Final = "no disk space is left for the usage journal"

Done = Callable[[], None]


class _Work(NamedTuple):
    """What the commit thread did: synced up to record `number` (0: nothing), made a spare, or why
    not (`scarce`); `fault`: why nothing can be metered. `lasting`: it cannot be cured while this
    process lives."""

    number: int
    spare: Segment | None = None
    fault: str = ""
    scarce: str = ""
    lasting: bool = False


class Teller(Protocol):
    """Who has something to say with a batch: see `till`."""

    @property
    def due(self) -> bool:
        """Whether a batch shall go out for its sake."""

    def word(self, *, whole: bool) -> LeaseWord | None:
        """What goes with a batch that is cut in this step; `whole`: the journal has nothing after it."""

    def heard(self, kept: LeaseKept | None, said_at: float) -> None:
        """The answer to a batch that was cut at `said_at` (the loop's clock)."""


class _Batch(msgspec.Struct):
    """A `links.UsageBatch` whose events are sent as the journal keeps them."""

    journal: str
    first: int
    last: int
    events: list[msgspec.Raw]
    leases: LeaseWord | None = None


class Meter:
    """One router's journal, slots and shipper. Use from one event loop; `close` at the end."""

    def __init__(self, journal: Journal, slots: Slots, *, strict: bool) -> None:
        self.journal = journal
        self.slots = slots
        self.teller: Teller | None = None
        self._strict = strict
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[int, Done]] = deque()
        self._owed: list[tuple[Usage, int, Done | None]] = []
        self._told: set[str] = set()
        self._news = asyncio.Event()
        self._fault = self.scarce = ""
        self._lasting = False
        self._wake = threading.Event()
        self._closing = False
        self._syncing = False
        self._want_spare = True
        self._recover()
        self._thread = threading.Thread(target=self._commit, name="journal", daemon=True)
        self._thread.start()
        self._kick()

    @property
    def refusal(self) -> str:
        """Why new work cannot be metered now; empty while it can."""
        if self._fault:
            return self._fault
        if self._owed:
            return "a settlement could not be written"
        return (self.scarce or "the usage journal is full") if self.journal.room <= 0 else ""

    def attempt(self, event: Usage) -> None:
        """Put an attempt on record. Raises OSError where that is impossible."""
        self.journal.append(event)
        if self.journal.spare is None and not self._syncing:
            self._want_spare = True
            self._kick()

    def settle(self, event: Usage, slot: int, done: Done | None = None) -> None:
        """Settle an attempt and free its slot; `done` is called when that is durable."""
        try:
            number = self.journal.append(event)
        except OSError as exc:
            log.error("settlement_not_written", attempt_id=event.attempt_id, error=str(exc))
            self._owed.append((event, slot, done))
            return
        if slot >= 0:
            self.slots.give(slot)
        self._told.discard(event.attempt_id)
        self._news.set()
        if done is None:
            return
        if not self._strict:
            done()
            return
        self._waiting.append((number, done))
        if not self._syncing:
            self._kick()

    def sweep(self, now: float) -> None:
        """Once a second: try again what failed, make sure long attempts are told."""
        owed, self._owed = self._owed, []
        for event, slot, done in owed:
            self.settle(event, slot, done)
        self._want_spare = self.journal.spare is None
        if not self._syncing:
            self._kick()
        if any(self._untold(now)):
            self._news.set()

    def _untold(self, now: float) -> list[Usage]:
        limit = int((now - OPEN_TOLD_AFTER) * 1e6)
        return [
            record.event
            for key, record in self.journal.open_attempts.items()
            if record.event.started_at < limit and key not in self._told
        ]

    def _recover(self) -> None:
        """Settle what a former life left: by its slot's counts, or as nothing seen."""
        counts = self.slots.left()
        for event in self.journal.unsettled():
            prompt, completion = counts.get(event.attempt_id, (0, 0))
            seen = Counts(prompt, completion) if prompt or completion else None
            lost = settlement(
                event, "lost", seen, partial=True, reason=event.reason, now=time.time()
            )
            self.journal.append(lost)
            log.warning("attempt_recovered", attempt_id=event.attempt_id, tokens=completion)
        os.fdatasync(self.journal.current.fd)
        self.slots.clear()
        if self.journal.unacked:
            self._news.set()

    # The commit thread.

    def _kick(self) -> None:
        self._syncing = True
        self._wake.set()

    def _commit(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._closing:
                return
            done = self._work()
            self._loop.call_soon_threadsafe(self._committed, done)

    def _work(self) -> _Work:
        """One turn of the commit thread. Confirms only what it synced itself."""
        number = self.journal.number
        try:
            if self._waiting:
                os.fdatasync(self.journal.current.fd)
            else:
                number = 0
        except OSError as exc:
            return _Work(0, fault=f"the usage journal cannot be synced: {exc}", lasting=True)
        try:
            disk = os.statvfs(self.journal.folder)
            left = disk.f_bavail * disk.f_frsize
            growth = self.journal.segment_bytes if self._want_spare else 0
            if left < LOW_DISK:
                return _Work(number, fault=NO_SPACE, scarce=NO_SPACE)
            if left < growth + LOW_DISK:
                return _Work(number, scarce=NO_SPACE)
            return _Work(number, self.journal.make_spare() if growth else None)
        except OSError as exc:
            return _Work(number, scarce=f"the usage journal cannot grow: {exc}")

    def _committed(self, work: _Work) -> None:
        if work.spare is not None:
            self.journal.spare, self._want_spare = work.spare, False
        if not self._lasting:
            told, now = self._fault or self.scarce, work.fault or work.scarce
            self._fault, self.scarce = work.fault, work.scarce
            if now and now != told:
                log.error("journal_fault", reason=now, refuses=bool(self.refusal))
            elif told and not now:
                log.info("journal_recovered")
        # After a failed sync the kernel forgets what it could not write: a later success proves
        # nothing, so this process meters no new work any more.
        self._lasting |= work.lasting
        waiting = self._waiting
        ready = []
        while waiting and waiting[0][0] <= work.number:
            ready.append(waiting.popleft()[1])
        self._syncing = False
        if waiting and not self._lasting:
            self._kick()
        for done in ready:
            self._loop.call_soon(done)

    # The shipper.

    async def ship(self, client: httpx.AsyncClient, url: str) -> None:
        """Tell billing for ever; every batch is repeated until it is confirmed."""
        while True:
            await self._news.wait()
            await asyncio.sleep(LINGER)
            self._news.clear()
            while (
                (records := self.journal.read_next(BATCH))
                or self._untold(time.time())
                or (self.teller is not None and self.teller.due)
            ):
                await self._tell(client, url, records)

    def hurry(self) -> None:
        """There is something to tell billing."""
        self._news.set()

    async def _tell(self, client: httpx.AsyncClient, url: str, records: list[Record]) -> None:
        open_ones = self._untold(time.time())
        settled = [msgspec.Raw(r.payload) for r in records if not r.attempt]
        last = records[-1].number if records else self.journal.acked
        said_at, word = self._loop.time(), None
        if self.teller is not None:
            word = self.teller.word(whole=last == self.journal.number and not self._owed)
        batch = _Batch(
            journal=self.journal.id,
            first=records[0].number if records else last + 1,
            last=last,
            events=[msgspec.Raw(msgspec.json.encode(e)) for e in open_ones] + settled,
            leases=word,
        )
        body = msgspec.json.encode(batch)
        pause = 0.05
        while True:
            headers = {"X-Journal-Unacked": str(self.journal.number - last)}
            try:
                answer = await client.post(url, content=body, headers=headers)
                if answer.status_code == 200:
                    ack = msgspec.json.decode(answer.content, type=UsageAck)
                    break
                log.warning("usage_refused", status=answer.status_code, body=answer.text[:200])
            except (httpx.HTTPError, msgspec.DecodeError) as exc:
                log.warning("billing_away", error=type(exc).__name__)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)
        for event_id in ack.conflicts:
            log.error("usage_conflict", event_id=event_id)
        self._told.update(e.attempt_id for e in open_ones)
        self._told &= self.journal.open_attempts.keys()
        # Never further than what was sent: after a power loss billing may know more of this
        # journal than is left of it, and those numbers are used again.
        if ack.acked > self.journal.number:
            log.error("journal_behind_billing", acked=ack.acked, number=self.journal.number)
        self.journal.acknowledge(last)
        if word is not None and self.teller is not None:
            self.teller.heard(ack.leases, said_at)

    async def keep(self) -> None:
        """Without a billing service (a router alone): confirm to ourselves."""
        while True:
            await self._news.wait()
            await asyncio.sleep(LINGER)
            self._news.clear()
            while records := self.journal.read_next(BATCH):
                self.journal.acknowledge(records[-1].number)

    async def flushed(self) -> None:
        """Return when billing has confirmed every record."""
        while self.journal.number > self.journal.acked or self._owed:
            await asyncio.sleep(LINGER)

    def close(self) -> None:
        """Stop the thread and close the files; unconfirmed records stay for the next life."""
        self._closing = True
        self._wake.set()
        self._thread.join()
        if self._waiting:
            os.fdatasync(self.journal.current.fd)
        self.slots.close()
        self.journal.close()
