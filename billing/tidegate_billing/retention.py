"""Months leave the ledger whole, when nothing in them is open any more; their sums stay.

A month that has left takes no events: what is kept twice can be known only while the first copy
is there, so a late event of it is refused and set aside. Rollups of it are left as they are, by
`rollup.rebuild` too.
"""

from sqlalchemy import Connection, delete, func, insert, select, text

from tidegate_billing import months, partitions
from tidegate_billing.tables import EVENT, PARKED, RETIRED
from tidegate_billing.usage import day_of

KEEP_MONTHS = 2
"""A month may leave when so many whole months have passed since: journals of lost nodes come late."""


class RetentionError(ValueError):
    """A month can't leave the ledger; the message says why."""


def latest(now: int) -> str:
    """The newest month that may leave at `now` (microseconds)."""
    return months.moved(day_of(now // 1000)[:7], -KEEP_MONTHS - 1)


def retired(connection: Connection) -> set[str]:
    """The months that have left."""
    return set(connection.execute(select(RETIRED.c.month)).scalars())


def retire(connection: Connection, month: str, now: int) -> int:
    """Take a month out of the ledger; how many events left with it.

    On PostgreSQL its partition is detached and stays as a table, to be archived and dropped; on
    SQLite its rows are deleted, so back the file up before. Raises RetentionError.
    """
    partitions.table(month)
    if month > latest(now):
        raise RetentionError(f"{month} is too young; allowed: up to {latest(now)}")
    if month in retired(connection):
        raise RetentionError(f"{month} has left the ledger already")
    # every tenant: a month leaves as a whole
    waiting = connection.execute(
        select(func.count()).select_from(PARKED).where(PARKED.c.attempt_month == month)
    ).scalar_one()
    if waiting:
        raise RetentionError(
            f"{waiting} events of {month} still wait for a price; price them first"
        )
    events = int(
        connection.execute(
            select(func.count()).select_from(EVENT).where(EVENT.c.attempt_month == month)
        ).scalar_one()
    )
    connection.execute(insert(RETIRED).values(month=month, at=now, events=events))
    if connection.dialect.name == "postgresql":
        partitions.detach_month(connection, month)
    else:
        _delete_on_sqlite(connection, month)
    return events


def _delete_on_sqlite(connection: Connection, month: str) -> None:
    """Delete a month's rows: the one way past the trigger, put back in the same transaction."""
    trigger = connection.execute(
        text(
            "SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name = 'event_never_deleted'"
        )
    ).scalar_one()
    connection.execute(text("DROP TRIGGER event_never_deleted"))
    # every tenant: a month leaves as a whole
    connection.execute(delete(EVENT).where(EVENT.c.attempt_month == month))
    connection.execute(text(trigger))
