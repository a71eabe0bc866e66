"""Second thoughts about money: what an event costs changes by a new entry, never by an edit.

An adjustment says what is taken off for an event and what it costs from here on; the newest counts.
Releasing a parked event is the first kind: it cost nothing that anybody knew, and now has a price.
Re-rating is the other: documents that came late, or were wrong, are applied to what was rated.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, and_, delete, or_, select

from tidegate_billing import bulk, rating, rollup
from tidegate_billing.budgeting import spent
from tidegate_billing.entry import Rating, first_rating, rating_after, rating_before, usage_of
from tidegate_billing.prepaid import purses
from tidegate_billing.rating import Counts
from tidegate_billing.tables import ADJUSTMENT, EVENT, PARKED
from tidegate_billing.tariff import Tariffs
from tidegate_billing.usage import COUNTED, attempt_time

RELEASED = "released"
_COLUMNS = (
    *("attempt_month", "event_id", "tenant", "posted_at", "reason", "actor", "note"),
    *(
        "before_version",
        "before_cached",
        "before_reasoning",
        "before_nano",
        "before_atto",
        "before_currency",
    ),
    *(
        "after_version",
        "after_cached",
        "after_reasoning",
        "after_nano",
        "after_atto",
        "after_currency",
    ),
)
CHUNK = 1000
"""Events that one pass rates."""


class AdjustmentError(ValueError):
    """What events cost can't be changed so; the message says which one and why."""


class Why(NamedTuple):
    """Who changes what events cost, and why."""

    reason: str
    actor: str
    note: str = ""


class Scope(NamedTuple):
    """Which events to look at again: months `first` to `last`; None: of any."""

    first: str
    last: str
    tenant: str | None = None
    deployment: str | None = None


def release(connection: Connection, now: int, deployments: Sequence[str] | None = None) -> int:
    """Rate parked events whose price is known by now, of all deployments or some; how many."""
    released = 0
    last = ("", "")
    known = Tariffs()
    while True:
        rows = _parked(connection, deployments, last)
        if not rows:
            return released
        last = (rows[-1].attempt_month, rows[-1].event_id)
        released += _price_again(connection, rows, Why(RELEASED, "system"), now, known)


def _parked(
    connection: Connection, deployments: Sequence[str] | None, after: tuple[str, str]
) -> Sequence["Row[Any]"]:
    """The next parked events, in the order of their ids."""
    month, event_id = PARKED.c.attempt_month, PARKED.c.event_id
    # every tenant: a price belongs to a deployment, whoever used it
    query = (
        select(EVENT)
        .join(PARKED, and_(EVENT.c.attempt_month == month, EVENT.c.event_id == event_id))
        .where(or_(month > after[0], and_(month == after[0], event_id > after[1])))
        .order_by(month, event_id)
        .limit(CHUNK)
    )
    if deployments is not None:
        query = query.where(PARKED.c.deployment.in_(deployments))
    return connection.execute(query).all()


def rerate(connection: Connection, scope: Scope, why: Why, now: int) -> int:
    """Price events again by the documents as they are now; how many cost otherwise.

    An event that nothing prices any more keeps what it costs: a price is taken back by a document
    that says another one, not by silence.
    """
    changed, last = 0, 0
    known = Tariffs()
    while True:
        # every tenant: where the scope names none, the platform's operator meant all
        query = (
            select(EVENT)
            .where(
                EVENT.c.id > last,
                EVENT.c.attempt_month.between(scope.first, scope.last),
                EVENT.c.kind.in_(COUNTED),
                EVENT.c.billed,
            )
            .order_by(EVENT.c.id)
            .limit(CHUNK)
        )
        if scope.tenant is not None:
            query = query.where(EVENT.c.tenant == scope.tenant)
        if scope.deployment is not None:
            query = query.where(EVENT.c.deployment == scope.deployment)
        rows = connection.execute(query).all()
        if not rows:
            return changed
        last = rows[-1].id
        changed += _price_again(connection, rows, why, now, known)


def _price_again(
    connection: Connection, rows: Sequence["Row[Any]"], why: Why, now: int, known: Tariffs
) -> int:
    """Adjust those rows of the ledger that cost otherwise now; how many."""
    events = [(usage_of(row), attempt_time(row.attempt_id)) for row in rows]
    current = ratings(connection, rows)
    was_by = rating.tariffs_of(
        connection,
        [
            (current[row.event_id], event)
            for row, (event, _) in zip(rows, events, strict=True)
            if row.event_id in current
        ],
    )
    counts = Counts()
    changes = []
    found = rating.find(connection, events, known)
    for row, (event, at), one in zip(rows, events, found, strict=True):
        before = current.get(row.event_id)
        if one is None or (before is not None and before.rated_version == one.version):
            continue
        if before is not None:
            old = was_by[before.rated_version]
            before = rating.take_off(connection, event, at, before, old, counts)
        after = rating.charge(connection, event, at, one, counts)
        if after is not None:
            changes.append((row, before, after))
        elif before is not None:
            raise AdjustmentError(
                f"{row.event_id} costs more than an event can; nothing was changed"
            )
    counts.write(connection)
    adjust(connection, changes, why, now)
    return len(changes)


def adjust(
    connection: Connection,
    changes: Sequence[tuple["Row[Any]", Rating | None, Rating]],
    why: Why,
    now: int,
) -> None:
    """Write what is taken off for events (rows of the ledger) and what they cost from here on."""
    rows = []
    totals: rollup.Totals = {}
    charges: list[purses.Charge] = []
    for row, before, after in changes:
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
        charges += _charges(row.tenant, at, before, after)
        if before is None:
            _unpark(connection, row)
    bulk.insert_rows(connection, ADJUSTMENT, _COLUMNS, rows)
    rollup.post(connection, totals, {}, now)
    spent.post(connection, totals, now)
    owners = purses.purses_of(connection, {charge.tenant for charge in charges})
    purses.burn(connection, owners, charges, purses.Why(why.reason, why.actor, why.note), now)


def _charges(tenant: str, at: int, before: Rating | None, after: Rating) -> list[purses.Charge]:
    """What credit loses or gets back: the difference, so that a lower price never takes any."""
    if before is None:
        return [purses.Charge(tenant, after.currency, at * 1000, after.amount)]
    if before.currency == after.currency:
        amount = after.amount - before.amount
        return [purses.Charge(tenant, after.currency, at * 1000, amount)]
    return [
        purses.Charge(tenant, before.currency, at * 1000, -before.amount),
        purses.Charge(tenant, after.currency, at * 1000, after.amount),
    ]


def _unpark(connection: Connection, row: "Row[Any]") -> None:
    connection.execute(
        delete(PARKED).where(
            PARKED.c.attempt_month == row.attempt_month,
            PARKED.c.event_id == row.event_id,
            PARKED.c.tenant == row.tenant,
        )
    )


def costs(connection: Connection, rows: Sequence[Any]) -> dict[str, tuple[int, str]]:
    """What events have added to the bill by now, by event id: their first rating, and what every
    adjustment took off and put on. Currency is the newest; what is in others is not in it."""
    found = {
        row.event_id: (first.amount, first.currency)
        for row in rows
        if (first := first_rating(row)) is not None
    }
    for event_id, before, after in _adjustments(connection, rows):
        amount, currency = found.get(event_id, (0, after.currency))
        if currency != after.currency:
            amount = 0
        elif before is not None:
            amount -= before.amount
        found[event_id] = (amount + after.amount, after.currency)
    return found


def _adjustments(
    connection: Connection, rows: Sequence[Any]
) -> Iterator[tuple[str, Rating | None, Rating]]:
    """Every adjustment of these events, oldest first: what it took off, and what it put on."""
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
            yield row.event_id, rating_before(row), rating_after(row)


def ratings(connection: Connection, rows: Sequence[Any]) -> Mapping[str, Rating]:
    """What events are rated by now, by event id: the newest adjustment, else the first rating.

    Rows have the ledger's columns; one that has no price yet is left out."""
    found = {row.event_id: first for row in rows if (first := first_rating(row)) is not None}
    return found | {event_id: after for event_id, _, after in _adjustments(connection, rows)}
