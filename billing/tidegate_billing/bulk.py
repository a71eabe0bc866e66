"""Many rows at once, in each database's own fast way: COPY and arrays, or prepared repetition.

SQLAlchemy's own insert of many rows costs more than all the rest of keeping an event, so these few
statements are written out. Names of tables and columns come from `tables`, values are bound.
"""

from collections.abc import Mapping, Sequence
from typing import Any

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


def add_rows(
    connection: Connection, table: Table, columns: Sequence[str], rows: Sequence[tuple[int, ...]]
) -> None:
    """Add to the row of each key, or make it. All columns are integers, the first two the key."""
    if not rows:
        return
    key, sums = columns[:2], columns[2:]
    adding = ", ".join(f"{name} = {table.name}.{name} + excluded.{name}" for name in sums)
    conflict = f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {adding}"
    into = f"INSERT INTO {table.name} ({', '.join(columns)})"
    if connection.dialect.name == "postgresql":
        _copy_added(connection, len(columns), rows)
        used = ", ".join(f"c{number}" for number in range(len(columns)))
        connection.exec_driver_sql(f"{into} SELECT {used} FROM added{conflict}")
        return
    marks = ", ".join("?" * len(columns))
    connection.exec_driver_sql(f"{into} VALUES ({marks}){conflict}", list(rows))


def _copy_added(connection: Connection, width: int, rows: Sequence[tuple[int, ...]]) -> None:
    """COPY rows into a table of this connection alone: arrays of integers cost thrice as much."""
    columns = [f"c{number}" for number in range(width)]
    defined = ", ".join(f"{name} BIGINT" for name in columns)
    connection.exec_driver_sql("DROP TABLE IF EXISTS added")
    connection.exec_driver_sql(f"CREATE TEMP TABLE added ({defined}) ON COMMIT DROP")
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
