"""The database: one writer, a few readers, and every answer durable before it is given.

SQL is written as plain functions of a SQLAlchemy connection, and a whole transaction runs in one
hop to a worker thread. SQLite has one writer at a time, so there is one writing thread: it takes
the write lock at the start (`BEGIN IMMEDIATE`), hence nothing it read can change under it, and
commits are `synchronous=FULL` in WAL mode, hence an acknowledged record outlives a power cut.
Readers see a snapshot and never wait for the writer.
"""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

HEAD = "0003"
"""The newest migration. Known here so that a current database needs no Alembic in memory."""

T = TypeVar("T")


class DatabaseError(ValueError):
    """The database can't be used; the message says why, without its URL."""


def sqlite_url(url: str) -> str:
    """`url` in the form we open it. Raises DatabaseError, which leaves out the URL: it may hold a
    secret."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise DatabaseError("not a database URL; allowed: sqlite:///PATH") from error
    if parsed.get_backend_name() == "postgresql":
        raise DatabaseError(_postgresql(parsed))
    if parsed.get_backend_name() != "sqlite":
        raise DatabaseError(
            f"{parsed.get_backend_name()} is not supported; allowed: sqlite:///PATH"
        )
    if not parsed.database or parsed.database == ":memory:":
        raise DatabaseError("a ledger in memory keeps nothing; allowed: sqlite:///PATH")
    return parsed.set(drivername="sqlite").render_as_string(hide_password=False)


def _postgresql(parsed: URL) -> str:
    """What is wrong with a URL of PostgreSQL: its form first, for it is to be right one day."""
    form = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
    for part, value in (("host", parsed.host), ("database", parsed.database)):
        if not value:
            return f"postgresql names no {part}; its form is {form}"
    return "postgresql is not served yet (the URL's form is right); allowed: sqlite:///PATH"


class Database:
    """Runs transactions. Open it with `migrate` done; `close` waits for what is under way."""

    def __init__(self, url: str) -> None:
        """Connects lazily. Raises DatabaseError for a URL that is not SQLite's."""
        self._writer = _engine(sqlite_url(url), begin="BEGIN IMMEDIATE")
        self._reader = _engine(sqlite_url(url), begin="BEGIN")
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="ledger-write")
        self._reading = ThreadPoolExecutor(2, thread_name_prefix="ledger-read")

    async def write(self, transaction: Callable[[Connection], T]) -> T:
        """Run `transaction` and commit it durably; what it raises rolls all of it back."""
        return await asyncio.get_running_loop().run_in_executor(
            self._writing, _run, self._writer, transaction
        )

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run `query` on one consistent view of the database."""
        return await asyncio.get_running_loop().run_in_executor(
            self._reading, _run, self._reader, query
        )

    def close(self) -> None:
        """Finish what is under way and close every connection."""
        self._writing.shutdown()
        self._reading.shutdown()
        self._writer.dispose()
        self._reader.dispose()


def _run(engine: Engine, transaction: Callable[[Connection], T]) -> T:
    with engine.begin() as connection:
        return transaction(connection)


def _engine(url: str, *, begin: str) -> Engine:
    engine = create_engine(url, pool_size=2, max_overflow=0)

    @event.listens_for(engine, "connect")
    def _open(raw: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
        raw.isolation_level = None  # we say when a transaction begins
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "busy_timeout=10000",
            "foreign_keys=ON",
        ):
            raw.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def migrate(url: str) -> None:
    """Bring the database at `url` to HEAD; makes the file, readable by its owner only.

    Raises DatabaseError where it can't be opened, or a newer release has been at it.
    """
    path = _path(url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise DatabaseError(f"the database can't be opened: {error.strerror}") from error
    with _opened(url, "BEGIN IMMEDIATE") as connection:
        if _revision(connection) != HEAD:
            _upgrade(connection)


def is_current(url: str) -> bool:
    """Whether the database at `url` is there and at HEAD. Raises DatabaseError as `migrate`."""
    if not _path(url).is_file():
        return False
    with _opened(url, "BEGIN") as connection:
        return _revision(connection) == HEAD


def _path(url: str) -> Path:
    path = make_url(sqlite_url(url)).database
    assert path is not None
    return Path(path)


@contextmanager
def _opened(url: str, begin: str) -> Iterator[Connection]:
    engine = _engine(sqlite_url(url), begin=begin)
    try:
        with engine.begin() as connection:
            yield connection
    except DBAPIError as error:
        raise DatabaseError(f"the database can't be used: {error.orig}") from error
    finally:
        engine.dispose()


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if revision is not None and str(revision) > HEAD:
        raise DatabaseError(f"the database is at migration {revision}, newer than this release's")
    return None if revision is None else str(revision)


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
