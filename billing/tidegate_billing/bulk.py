"""Many rows at once, in each database's own fast way: COPY and arrays, or prepared repetition.

SQLAlchemy's own insert of many rows costs more than all the rest of keeping an event, so these few
statements are written out. Names of tables and columns come from `tables`, values are bound.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table

CHUNK = 500
"""Values bound to one statement on SQLite, well under its limit of 32,766."""


def insert_rows(
    connection: Connection, table: Table, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Insert rows of `columns`. A duplicate key raises IntegrityError."""
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        adapted: Any = connection.connection.dbapi_connection
        adapted.run_async(
            lambda raw: raw.copy_records_to_table(table.name, records=rows, columns=columns)
        )
        return
    marks = ", ".join("?" * len(columns))
    statement = f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({marks})"
    connection.exec_driver_sql(statement, list(rows))


class Target(NamedTuple):
    """A table of sums, its two keys, and how its second key is made from the bucket given: `width`
    buckets are one, or (0) all of them are `fixed`."""

    table: Table
    keys: tuple[str, str]
    width: int
    fixed: int = 0


Rows = Mapping[tuple[int, int], Sequence[int]]
"""Sums by series and bucket."""


def add_rows(
    connection: Connection, targets: Sequence[Target], sums: Sequence[str], rows: Rows
) -> None:
    """Add sums to each target's row of their key, or make it. All columns are integers."""
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        _copy_added(connection, sums, [(*key, *row) for key, row in rows.items()])
    for target in targets:
        if connection.dialect.name == "postgresql":
            _add_from_added(connection, target, sums)
        else:
            _add_each(connection, target, sums, rows)


def _add_each(connection: Connection, target: Target, sums: Sequence[str], rows: Rows) -> None:
    marks = ", ".join("?" * (len(sums) + 2))
    statement = f"{_into(target, sums)} VALUES ({marks}){_conflict(target, sums)}"
    grouped = [(*key, *row) for key, row in coarser(rows, target.width, target.fixed).items()]
    connection.exec_driver_sql(statement, grouped)


def coarser(rows: Rows, width: int, fixed: int) -> Rows:
    """Sums of buckets that are `width` times as wide; of width 0: all in `fixed`."""
    if width == 1:
        return rows
    found: dict[tuple[int, int], list[int]] = {}
    for (series, bucket), sums in rows.items():
        key = (series, bucket // width if width else fixed)
        known = found.get(key)
        if known is None:
            found[key] = [*sums]
        else:
            for position, value in enumerate(sums):
                known[position] += value
    return found


def _add_from_added(connection: Connection, target: Target, sums: Sequence[str]) -> None:
    """The same from `added`, which the server groups by itself."""
    listed = ", ".join(sums)
    if target.width == 1:
        chosen = f"SELECT series, bucket, {listed} FROM added"
    else:
        bucket = f"bucket / {target.width}" if target.width else f"{target.fixed}::bigint"
        added = ", ".join(f"sum({name})::bigint" for name in sums)
        chosen = f"SELECT series, {bucket}, {added} FROM added GROUP BY 1, 2"
    connection.exec_driver_sql(f"{_into(target, sums)} {chosen}{_conflict(target, sums)}")


def _into(target: Target, sums: Sequence[str]) -> str:
    return f"INSERT INTO {target.table.name} ({', '.join((*target.keys, *sums))})"


def _conflict(target: Target, sums: Sequence[str]) -> str:
    table = target.table.name
    adding = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in sums)
    return f" ON CONFLICT ({', '.join(target.keys)}) DO UPDATE SET {adding}"


def _copy_added(
    connection: Connection, sums: Sequence[str], rows: Sequence[tuple[int, ...]]
) -> None:
    """COPY rows into a table of this connection alone: arrays of integers cost thrice as much."""
    columns = ("series", "bucket", *sums)
    defined = ", ".join(f"{name} BIGINT" for name in columns)
    connection.exec_driver_sql(
        f"CREATE TEMP TABLE IF NOT EXISTS added ({defined}) ON COMMIT DELETE ROWS"
    )
    # It may have been filled before in this transaction.
    connection.exec_driver_sql("DELETE FROM added")
    adapted: Any = connection.connection.dbapi_connection
    adapted.run_async(lambda raw: raw.copy_records_to_table("added", records=rows, columns=columns))


def digests(connection: Connection, months: set[str], ids: Sequence[str]) -> Mapping[str, str]:
    """The content digests of those events that are kept, by event id."""
    # every tenant: an event's id is known once, whoever it is said to be of
    select = "SELECT event_id, digest FROM event WHERE attempt_month"
    if connection.dialect.name == "postgresql":
        found: dict[str, str] = {}
        for month in sorted(months):
            rows = connection.exec_driver_sql(
                f"{select} = $1 AND event_id = ANY($2::text[])",
                (month, [*ids]),
            )
            found.update((row[0], row[1]) for row in rows)
        return found
    found = {}
    for start in range(0, len(ids), CHUNK):
        part = ids[start : start + CHUNK]
        marks = ", ".join("?" * len(part))
        listed = ", ".join("?" * len(months))
        rows = connection.exec_driver_sql(
            f"{select} IN ({listed}) AND event_id IN ({marks})", (*sorted(months), *part)
        )
        found.update((row[0], row[1]) for row in rows)
    return found
