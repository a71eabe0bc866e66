"""Usage in: one batch is one transaction, and what is acknowledged is durable.

A batch may come any number of times, in any cut and order: an event that is known and equal is a
no-op, one that is known and different is refused and told, and the rest of its batch goes in all
the same, because a router can't ship past a batch that never succeeds. An event is rated in the
transaction that keeps it. Without a price it is kept and parked: its amount is unknown, not zero.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, insert, select, update

from tidegate_billing import price, pricebook
from tidegate_billing.links import UsageBatch
from tidegate_billing.pricebook import Version
from tidegate_billing.tables import EVENT, JOURNAL
from tidegate_billing.usage import Usage, attempt_day, attempt_time, digest

CHUNK = 500
LARGEST = 2**53
"""No count of tokens or microseconds is past this: JSON readers stay exact below it."""


class Outcome(NamedTuple):
    """What became of one batch. `gap`: records missing before it."""

    acked: int
    gap: int
    added: int
    replayed: int
    conflicts: tuple[str, ...]
    malformed: tuple[str, ...]
    parked: tuple[str, ...]


def problem(event: Usage) -> str | None:
    """Why an event can't be kept, or None."""
    try:
        attempt_time(event.attempt_id)
    except ValueError:
        return "attempt_id is not a UUIDv7"
    if event.attempt_id != event.attempt_id.lower() or len(event.attempt_id) != 36:
        return "attempt_id is not in the canonical form of a UUID"
    counts = {
        "prompt_tokens": event.prompt_tokens,
        "cached_tokens": event.cached_tokens,
        "completion_tokens": event.completion_tokens,
        "reasoning_tokens": event.reasoning_tokens,
        "started_at": event.started_at,
        "finished_at": event.finished_at,
        "price_version": event.price_version,
        "version": event.version,
    }
    for name, count in counts.items():
        if not 0 <= count <= LARGEST:
            return f"{name} is {count}, not from 0 to {LARGEST}"
    return None


def ingest(connection: Connection, batch: UsageBatch, unshipped: int) -> Outcome:
    """Keep a batch. `unshipped`: records its router holds beyond this batch."""
    good = [event for event in batch.events if problem(event) is None]
    malformed = tuple(event.event_id for event in batch.events if problem(event) is not None)
    fresh, conflicts = _sift(connection, good)
    rows = rate(connection, fresh)
    for start in range(0, len(rows), CHUNK):
        connection.execute(insert(EVENT), rows[start : start + CHUNK])
    acked, gap = _mark(connection, batch, unshipped)
    return Outcome(
        acked=acked,
        gap=gap,
        added=len(rows),
        replayed=len(good) - len(rows) - len(conflicts),
        conflicts=tuple(conflicts),
        malformed=malformed,
        parked=tuple(
            str(row["event_id"]) for row in rows if row["billed"] and row["amount"] is None
        ),
    )


def _sift(connection: Connection, events: Sequence[Usage]) -> tuple[list[Usage], list[str]]:
    """Events that are new, and the ids of those that contradict what is kept."""
    known: dict[str, str] = {}
    for start in range(0, len(events), CHUNK):
        chunk = events[start : start + CHUNK]
        found = connection.execute(
            select(EVENT.c.event_id, EVENT.c.digest).where(
                EVENT.c.attempt_month.in_({attempt_day(event.attempt_id)[:7] for event in chunk}),
                EVENT.c.event_id.in_([event.event_id for event in chunk]),
            )
        )
        known.update((event_id, kept) for event_id, kept in found)
    fresh: list[Usage] = []
    conflicts: list[str] = []
    for event in events:
        content = digest(event)
        kept = known.setdefault(event.event_id, "")
        if not kept:
            known[event.event_id] = content
            fresh.append(event)
        elif kept != content:
            conflicts.append(event.event_id)
    return fresh, conflicts


def rate(connection: Connection, events: Sequence[Usage]) -> list[dict[str, object]]:
    """The rows of new events, priced where their price is known."""
    named = pricebook.versions(
        connection, [event.price_version for event in events if event.billed]
    )
    rows = []
    for event in events:
        version = _version_of(connection, event, named) if event.billed else None
        rows.append(_row(event, version))
    return rows


def _version_of(connection: Connection, event: Usage, named: dict[int, Version]) -> Version | None:
    """The price an event was promised, else the one in force when its attempt began."""
    if event.price_version:
        version = named.get(event.price_version)
        right = version is not None and version.deployment == event.deployment
        return version if right else None
    return pricebook.at(connection, event.deployment, attempt_time(event.attempt_id) * 1000)


def _row(event: Usage, version: Version | None) -> dict[str, object]:
    day = attempt_day(event.attempt_id)
    fields = {name: getattr(event, name) for name in Usage.__struct_fields__}
    return {
        **fields,
        "attempt_month": day[:7],
        "day": day,
        "event_id": event.event_id,
        "digest": digest(event),
        **_rating(event, version),
    }


def _rating(event: Usage, version: Version | None) -> dict[str, object]:
    if version is None or version.price is None:
        return {"rated_version": None, "cached_billed": None, "amount": None, "currency": None}
    quantities = price.split(event, version.price)
    return {
        "rated_version": version.version,
        "cached_billed": quantities.cached_input,
        "amount": price.plain(price.amount(quantities, version.price)),
        "currency": version.price.currency,
    }


def _mark(connection: Connection, batch: UsageBatch, unshipped: int) -> tuple[int, int]:
    """Move the journal's high-water mark; the new mark, and how many records are missing."""
    row = connection.execute(select(JOURNAL).where(JOURNAL.c.name == batch.journal)).first()
    before = 0 if row is None else int(row.acked)
    gap = max(0, batch.first - before - 1)
    acked = max(before, batch.last)
    values = {"acked": acked, "unshipped": unshipped}
    if row is None:
        connection.execute(insert(JOURNAL).values(name=batch.journal, gaps=int(gap > 0), **values))
    else:
        connection.execute(
            update(JOURNAL)
            .where(JOURNAL.c.name == batch.journal)
            .values(gaps=row.gaps + int(gap > 0), **values)
        )
    return acked, gap


def release(connection: Connection, deployments: Sequence[str]) -> int:
    """Rate parked events whose price is known by now; how many that were."""
    parked = connection.execute(
        select(EVENT).where(
            EVENT.c.billed, EVENT.c.amount.is_(None), EVENT.c.deployment.in_(deployments)
        )
    ).all()
    rated = []
    for row in parked:
        event = Usage(**{name: getattr(row, name) for name in Usage.__struct_fields__})
        named = pricebook.versions(connection, [event.price_version])
        rating = _rating(event, _version_of(connection, event, named))
        if rating["amount"] is not None:
            rated.append({"row": row.id, **rating})
    if rated:
        statement = update(EVENT).where(EVENT.c.id == bindparam("row"))
        connection.execute(statement, rated)
    return len(rated)
