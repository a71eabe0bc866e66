"""Second thoughts about money: what an event costs changes by a new entry, never by an edit.

An adjustment says what an event cost so far and what it costs from here on; the newest one counts.
Releasing a parked event is the first kind: it cost nothing that anybody knew, and now has a price.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, and_, delete, or_, select

from tidegate_billing import bulk, ingest, rollup
from tidegate_billing.entry import Rating, first_rating, rating_after, usage_of
from tidegate_billing.ingest import Memory
from tidegate_billing.tables import ADJUSTMENT, EVENT, PARKED
from tidegate_billing.usage import attempt_time

RELEASED = "released"
_COLUMNS = (
    *("attempt_month", "event_id", "tenant", "posted_at", "reason", "actor", "note"),
    *("before_version", "before_cached", "before_nano", "before_atto", "before_currency"),
    *("after_version", "after_cached", "after_nano", "after_atto", "after_currency"),
)
CHUNK = 1000
"""Parked events that one pass rates."""


class Why(NamedTuple):
    """Who changes what events cost, and why."""

    reason: str
    actor: str
    note: str = ""


def release(connection: Connection, deployments: Sequence[str], now: int) -> int:
    """Rate parked events whose price is known by now; how many that were."""
    released = 0
    last = ("", "")
    while True:
        rows = _parked(connection, deployments, last)
        if not rows:
            return released
        last = (rows[-1].attempt_month, rows[-1].event_id)
        found = ingest.rate(connection, [usage_of(row) for row in rows], Memory())
        changes = [(row, rating) for row, rating in zip(rows, found, strict=True) if rating]
        adjust(connection, changes, Why(RELEASED, "system"), now)
        for row, _ in changes:
            connection.execute(
                delete(PARKED).where(
                    PARKED.c.attempt_month == row.attempt_month,
                    PARKED.c.event_id == row.event_id,
                    PARKED.c.tenant == row.tenant,
                )
            )
        released += len(changes)


def _parked(
    connection: Connection, deployments: Sequence[str], after: tuple[str, str]
) -> Sequence["Row[Any]"]:
    """The next parked events of these deployments, in the order of their ids."""
    month, event_id = PARKED.c.attempt_month, PARKED.c.event_id
    # every tenant: a price belongs to a deployment, whoever used it
    return connection.execute(
        select(EVENT)
        .join(PARKED, and_(EVENT.c.attempt_month == month, EVENT.c.event_id == event_id))
        .where(
            PARKED.c.deployment.in_(deployments),
            or_(month > after[0], and_(month == after[0], event_id > after[1])),
        )
        .order_by(month, event_id)
        .limit(CHUNK)
    ).all()


def adjust(
    connection: Connection,
    changes: Sequence[tuple["Row[Any]", Rating]],
    why: Why,
    now: int,
) -> None:
    """Write what events (rows of the ledger) cost from here on, and sum the difference up."""
    current = ratings(connection, [row for row, _ in changes])
    rows = []
    totals: rollup.Totals = {}
    for row, after in changes:
        before = current.get(row.event_id)
        rows.append(
            (
                *(row.attempt_month, row.event_id, row.tenant, now, *why),
                *(before or (None,) * len(after)),
                *after,
            )
        )
        event, at = usage_of(row), attempt_time(row.attempt_id)
        rollup.add(totals, event, at, before, sign=-1)
        rollup.add(totals, event, at, after)
    bulk.insert_rows(connection, ADJUSTMENT, _COLUMNS, rows)
    rollup.post(connection, totals, {}, now)


def ratings(connection: Connection, rows: Sequence[Any]) -> Mapping[str, Rating]:
    """What events cost now, by event id: the newest adjustment, else the first rating.

    Rows have the ledger's columns; one that has no price yet is left out."""
    found = {row.event_id: first for row in rows if (first := first_rating(row)) is not None}
    ids = [row.event_id for row in rows]
    months = {row.attempt_month for row in rows}
    for start in range(0, len(ids), bulk.CHUNK):
        # every tenant: by the ids of events that the caller has already been given
        later = connection.execute(
            select(ADJUSTMENT)
            .where(
                ADJUSTMENT.c.attempt_month.in_(months),
                ADJUSTMENT.c.event_id.in_(ids[start : start + bulk.CHUNK]),
            )
            .order_by(ADJUSTMENT.c.id)
        )
        for row in later:
            found[row.event_id] = rating_after(row)
    return found
