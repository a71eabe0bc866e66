"""Usage in: what is acknowledged is durable, and nothing is counted twice or thrown away.

A batch may come any number of times, in any cut and order: an event that is known and equal is a
no-op, one that is known and different is refused and told, and the rest of its batch goes in all
the same, because a router can't ship past a batch that never succeeds. What is refused is kept
aside, whole. An event is rated, summed up and put on the outbox in the transaction that keeps it.
Without a price it is kept and parked: its amount is unknown, not zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, insert, select, update

from tidegate_billing import bulk, partitions, rating, retention, rollup
from tidegate_billing.budgeting import spent
from tidegate_billing.entry import FIELDS, Rating
from tidegate_billing.lending import desk
from tidegate_billing.lending.said import LeaseKept, LeaseWord
from tidegate_billing.links import UsageBatch
from tidegate_billing.prepaid import purses
from tidegate_billing.tables import EVENT, JOURNAL, PARKED, REFUSED
from tidegate_billing.tariff import Tariffs
from tidegate_billing.usage import Usage, attempt_time, day_of, digest, problem

DERIVED = ("attempt_month", "event_id", "digest", "day")
COLUMNS = (*FIELDS, *DERIVED, *Rating._fields)
_UNRATED = (None,) * len(Rating._fields)


class Prepared(NamedTuple):
    """An event that may be kept, with what follows from it. `at`: milliseconds, from its id."""

    event: Usage
    at: int
    month: str
    day: str
    event_id: str
    digest: str


class Delivery(NamedTuple):
    """A batch as it is taken to the ledger. `unshipped`: records its router holds beyond it.

    Most of the work on a batch needs no database and is done before (`prepare`): there is one
    writer, and it has better things to do."""

    journal: str
    first: int
    last: int
    unshipped: int
    good: list[Prepared]
    malformed: list[tuple[Usage, str]]
    leases: LeaseWord | None = None


def prepare(batch: UsageBatch, unshipped: int = 0) -> Delivery:
    """Sort a batch's events into those that can be kept and those that can't."""
    delivery = Delivery(batch.journal, batch.first, batch.last, unshipped, [], [], batch.leases)
    for event in batch.events:
        wrong = problem(event)
        if wrong is None:
            at = attempt_time(event.attempt_id)
            day = day_of(at)
            delivery.good.append(Prepared(event, at, day[:7], day, event.event_id, digest(event)))
        else:
            delivery.malformed.append((event, wrong))
    return delivery


class Outcome(NamedTuple):
    """What became of one batch. `gap`: records missing before it. `tenants`: of its new usage."""

    acked: int
    gap: int
    added: int
    replayed: int
    conflicts: tuple[str, ...]
    malformed: tuple[str, ...]
    parked: tuple[str, ...]
    tenants: frozenset[str] = frozenset()
    kept: LeaseKept | None = None


@dataclass
class Memory:
    """What earlier transactions found that can't change. One that fails makes it void."""

    series: rollup.Numbers = field(default_factory=dict)
    tariffs: Tariffs = field(default_factory=Tariffs)
    months: set[str] = field(default_factory=set)

    def forget(self) -> None:
        """Know nothing any more."""
        self.series.clear()
        self.tariffs.forget()
        self.months.clear()


@dataclass
class _Sorted:
    """One batch, sorted by what becomes of its events."""

    fresh: list[Prepared] = field(default_factory=list)
    conflicts: list[Usage] = field(default_factory=list)
    malformed: list[tuple[Usage, str]] = field(default_factory=list)
    replayed: int = 0


def ingest(
    connection: Connection, deliveries: Sequence[Delivery], memory: Memory, now: int
) -> list[Outcome]:
    """Keep batches, all or none; what became of each."""
    batches = _sort(connection, deliveries)
    fresh = [new for one in batches for new in one.fresh]
    ratings = rating.rate(connection, [(new.event, new.at) for new in fresh], memory.tariffs)
    _keep(connection, fresh, ratings, memory, now)
    _burn(connection, fresh, ratings, now)
    _set_aside(connection, deliveries, batches, now)
    parked = {
        new.event_id
        for new, cost in zip(fresh, ratings, strict=True)
        if new.event.billed and cost is None
    }
    outcomes = []
    for delivery, one in zip(deliveries, batches, strict=True):
        acked, gap = _mark(connection, delivery)
        word = delivery.leases
        if word is not None and gap and word.holds is None:
            word = None  # of what is missing we know no cost: it stays lent
        outcomes.append(
            Outcome(
                acked=acked,
                gap=gap,
                added=len(one.fresh),
                replayed=one.replayed,
                conflicts=tuple(event.event_id for event in one.conflicts),
                malformed=tuple(event.event_id for event, _ in one.malformed),
                parked=tuple(new.event_id for new in one.fresh if new.event_id in parked),
                tenants=frozenset(new.event.tenant for new in one.fresh),
                kept=None if word is None else desk.heard(connection, word, now),
            )
        )
    return outcomes


def _sort(connection: Connection, deliveries: Sequence[Delivery]) -> list[_Sorted]:
    months = {new.month for delivery in deliveries for new in delivery.good}
    gone = months & retention.retired(connection)
    ids = [new.event_id for delivery in deliveries for new in delivery.good]
    known = dict(bulk.digests(connection, months - gone, ids))
    return [_sort_one(delivery, gone, known) for delivery in deliveries]


def _sort_one(delivery: Delivery, gone: set[str], known: dict[str, str]) -> _Sorted:
    """`known`: the digests of what is kept; what is new is added."""
    one = _Sorted(malformed=[*delivery.malformed])
    for new in delivery.good:
        kept = known.get(new.event_id)
        if new.month in gone:
            one.malformed.append((new.event, f"{new.month} has left the ledger"))
        elif kept is None:
            known[new.event_id] = new.digest
            one.fresh.append(new)
        elif kept == new.digest:
            one.replayed += 1
        else:
            one.conflicts.append(new.event)
    return one


def _keep(
    connection: Connection,
    fresh: Sequence[Prepared],
    ratings: Sequence[Rating | None],
    memory: Memory,
    now: int,
) -> None:
    """Write new events, their sums, and those that wait for a price."""
    months = {new.month for new in fresh} - memory.months
    partitions.ensure(connection, months)
    memory.months |= months
    rows = []
    parked = []
    totals: rollup.Totals = {}
    for (event, at, month, day, event_id, content), cost in zip(fresh, ratings, strict=True):
        values = msgspec.structs.astuple(event)
        rows.append((*values, month, event_id, content, day, *(cost or _UNRATED)))
        if event.kind == "settlement":
            rollup.add(totals, event, at, cost)
        if event.billed and cost is None:
            parked.append((month, event_id, event.tenant, event.deployment))
    bulk.insert_rows(connection, EVENT, COLUMNS, rows)
    names = ("attempt_month", "event_id", "tenant", "deployment")
    bulk.insert_rows(connection, PARKED, names, parked)
    rollup.post(connection, totals, memory.series, now)
    spent.post(connection, totals, now)


def _burn(
    connection: Connection,
    fresh: Sequence[Prepared],
    ratings: Sequence[Rating | None],
    now: int,
) -> None:
    """Take what new events cost out of their tenants' credit, where they have any."""
    owners = purses.purses_of(connection, {new.event.tenant for new in fresh})
    if not owners:
        return
    charges = [
        purses.Charge(new.event.tenant, cost.currency, new.at * 1000, cost.amount)
        for new, cost in zip(fresh, ratings, strict=True)
        if cost is not None
    ]
    purses.burn(connection, owners, charges, purses.Why("usage"), now)


def _set_aside(
    connection: Connection, deliveries: Sequence[Delivery], batches: Sequence[_Sorted], now: int
) -> None:
    """Keep what is refused, once, for whoever has to find out."""
    for delivery, one in zip(deliveries, batches, strict=True):
        refused = [*one.malformed, *((event, "other content") for event in one.conflicts)]
        for event, reason in refused:
            _refuse(connection, delivery.journal, event, reason, now)


def _refuse(connection: Connection, journal: str, event: Usage, reason: str, now: int) -> None:
    content = digest(event)
    event_id = event.event_id.replace("\0", "\\0")[:200]
    known = connection.execute(
        select(REFUSED.c.id).where(REFUSED.c.event_id == event_id, REFUSED.c.digest == content)
    ).first()
    if known is None:
        body = msgspec.json.encode(event).decode()
        connection.execute(
            insert(REFUSED).values(
                at=now,
                journal=journal,
                event_id=event_id,
                digest=content,
                reason=reason,
                body=body,
            )
        )


def _mark(connection: Connection, delivery: Delivery) -> tuple[int, int]:
    """Move the journal's high-water mark; the new mark, and how many records are missing."""
    row = connection.execute(select(JOURNAL).where(JOURNAL.c.name == delivery.journal)).first()
    before = 0 if row is None else int(row.acked)
    gap = max(0, delivery.first - before - 1)
    acked = max(before, delivery.last)
    values = {"acked": acked, "unshipped": delivery.unshipped}
    if row is None:
        connection.execute(
            insert(JOURNAL).values(name=delivery.journal, gaps=int(gap > 0), **values)
        )
    else:
        connection.execute(
            update(JOURNAL)
            .where(JOURNAL.c.name == delivery.journal)
            .values(gaps=row.gaps + int(gap > 0), **values)
        )
    return acked, gap
