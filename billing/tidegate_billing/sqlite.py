"""The ledger on SQLite: one writing thread, and a few that read.

SQLite has one writer at a time. It takes the write lock at the start (`BEGIN IMMEDIATE`), and
commits are `synchronous=FULL` in WAL mode, hence an acknowledged record outlives a power cut.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.pool import ConnectionPoolEntry

T = TypeVar("T")
WRITE = "BEGIN IMMEDIATE"
READ = "BEGIN"


class Sqlite:
    """A `database.Database` in one file."""

    def __init__(self, url: URL) -> None:
        self._writer = engine(url, begin=WRITE)
        self._reader = engine(url, begin=READ)
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="ledger-write")
        self._reading = ThreadPoolExecutor(2, thread_name_prefix="ledger-read")

    async def write(self, transaction: Callable[[Connection], T]) -> T:
        """Run `transaction` alone and commit it."""
        return await asyncio.get_running_loop().run_in_executor(
            self._writing, _run, self._writer, transaction
        )

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run `query` on one view."""
        return await asyncio.get_running_loop().run_in_executor(
            self._reading, _run, self._reader, query
        )

    async def close(self) -> None:
        """Finish what is under way."""
        self._writing.shutdown()
        self._reading.shutdown()
        self._writer.dispose()
        self._reader.dispose()


def _run(engine: Engine, transaction: Callable[[Connection], T]) -> T:
    with engine.begin() as connection:
        return transaction(connection)


def engine(url: URL, *, begin: str) -> Engine:
    """An engine whose transactions start with `begin`."""
    made = create_engine(url, pool_size=2, max_overflow=0)

    @event.listens_for(made, "connect")
    def _open(raw: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
        raw.isolation_level = None  # we say when a transaction begins
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "busy_timeout=10000",
            "foreign_keys=ON",
        ):
            raw.execute(f"PRAGMA {pragma}")

    @event.listens_for(made, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return made
