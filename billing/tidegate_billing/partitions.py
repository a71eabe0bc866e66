"""The ledger's months on PostgreSQL: a partition each, made before its first row, detached at last.

A partition is made as a table of its own and attached, because that takes no lock that a reader
or a backup in progress would have to give up. On SQLite there is one table and nothing to do.
"""

import re
from collections.abc import Iterable

from sqlalchemy import Connection, text

_MONTH = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")


def table(month: str) -> str:
    """The name of a month's partition. Raises ValueError for what is no `YYYY-MM`."""
    if not _MONTH.fullmatch(month):
        raise ValueError(f"{month!r} is not a month; allowed: YYYY-MM")
    return "event_" + month.replace("-", "_")


def ensure(connection: Connection, months: Iterable[str]) -> None:
    """Make the partitions that are missing."""
    if connection.dialect.name != "postgresql":
        return
    there = attached(connection)
    for month in sorted(set(months)):
        if month not in there:
            add_month(connection, month)


def attached(connection: Connection) -> set[str]:
    """The months that have a partition."""
    rows = connection.execute(
        text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'event'::regclass")
    )
    return {name.removeprefix("event_").replace("_", "-") for (name,) in rows}


def add_month(connection: Connection, month: str) -> None:
    """Make and attach a month's partition."""
    name = table(month)
    connection.execute(
        text(f"CREATE TABLE {name} (LIKE event INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
    )
    connection.execute(text(f"ALTER TABLE event ATTACH PARTITION {name} FOR VALUES IN ('{month}')"))
    connection.execute(
        text(
            f"CREATE TRIGGER never_emptied BEFORE TRUNCATE ON {name}"
            " FOR EACH STATEMENT EXECUTE FUNCTION append_only()"
        )
    )


def detach_month(connection: Connection, month: str) -> bool:
    """Take a month out of the ledger; its table stays, for whoever archives it. False: not there."""
    if month not in attached(connection):
        return False
    connection.execute(text(f"ALTER TABLE event DETACH PARTITION {table(month)}"))
    return True
