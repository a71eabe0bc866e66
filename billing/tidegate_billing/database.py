"""The database: one writer at a time, readers beside it, every answer durable before it is given.

SQL is written as plain functions of a SQLAlchemy connection, and a whole transaction runs in one
hop to another thread, on SQLite and PostgreSQL alike (`sqlite`, `postgres`). Every writing
transaction takes the database's single write lock first, hence nothing that it read can change
under it; readers see one consistent view and never wait for the writer.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

T = TypeVar("T")
ALLOWED = "sqlite:///PATH or postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
COMMAND_SECONDS = 60
_OPTIONS = {
    "sslmode": frozenset(["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]),
    "host": None,
    "port": None,
}
"""What a PostgreSQL URL may say after its `?`; None: anything."""


class DatabaseError(ValueError):
    """The database can't be used; the message says why, without its URL."""


class DatabaseDown(Exception):
    """The database doesn't answer just now; nothing was changed that was not acknowledged."""


class Database(Protocol):
    """Runs transactions."""

    async def write(self, transaction: Callable[[Connection], T]) -> T:
        """Run `transaction` alone and commit it durably; what it raises rolls all of it back.

        Raises DatabaseDown, or SQLAlchemy's errors where a statement failed.
        """

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run `query` on one consistent view of the database. Raises as `write`."""

    async def close(self) -> None:
        """Finish what is under way and close every connection."""


def parse(url: str) -> URL:
    """`url` in the form we open it. Raises DatabaseError, which leaves out the URL: it may hold a
    secret."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise DatabaseError(f"not a database URL; allowed: {ALLOWED}") from error
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return _postgresql(parsed)
    if backend != "sqlite":
        raise DatabaseError(f"{backend} is not supported; allowed: {ALLOWED}")
    if not parsed.database or parsed.database == ":memory:":
        raise DatabaseError(f"a ledger in memory keeps nothing; allowed: {ALLOWED}")
    return parsed.set(drivername="sqlite")


def _postgresql(parsed: URL) -> URL:
    form = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
    for part, value in (
        ("host", parsed.host or parsed.query.get("host")),
        ("database", parsed.database),
    ):
        if not value:
            raise DatabaseError(f"postgresql names no {part}; its form is {form}")
    for name, value in parsed.query.items():
        if name not in _OPTIONS:
            raise DatabaseError(
                f"option {name!r} of postgresql is not known; allowed: {', '.join(_OPTIONS)}"
            )
        values = _OPTIONS[name]
        if values is not None and value not in values:
            raise DatabaseError(f"{name} is not known; allowed: {', '.join(sorted(values))}")
    return parsed.set(drivername="postgresql+asyncpg")


def connect(url: str, *, command_seconds: int | None = COMMAND_SECONDS) -> Database:
    """The database at `url`, opened when it is first used. Raises DatabaseError for a bad URL.

    `command_seconds`: after how long a statement is given up; None: never.
    """
    parsed = parse(url)
    if parsed.get_backend_name() == "sqlite":
        from tidegate_billing.sqlite import Sqlite

        return Sqlite(parsed)
    from tidegate_billing.postgres import Postgres

    return Postgres(parsed, command_seconds)
