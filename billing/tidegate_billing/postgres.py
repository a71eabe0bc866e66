"""The ledger on PostgreSQL: asyncpg on event loops of its own, so that ours stays free.

Rating a batch is work for the processor and runs inside its transaction. On the loop that answers
requests it would hold up every one of them; so writing and reading have a thread with a loop each.
Any number of billing processes may write: a transaction-level advisory lock lets one at a time.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import Connection, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tidegate_billing.database import COMMAND_SECONDS, DatabaseDown

T = TypeVar("T")
WRITE_LOCK = 7_164_283
"""The advisory lock of writers: any number, as long as all versions use the same."""
CONNECT_SECONDS = 10


class Postgres:
    """A `database.Database` on a server."""

    def __init__(self, url: URL, command_seconds: int | None = COMMAND_SECONDS) -> None:
        self._writing = _Loop(engine(url, 1, command_seconds), "ledger-write")
        self._reading = _Loop(
            engine(url, 3, command_seconds).execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            ),
            "ledger-read",
        )

    async def write(self, transaction: Callable[[Connection], T]) -> T:
        """Run `transaction` alone and commit it."""
        return await self._writing.run(_write(self._writing.engine, transaction))

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run `query` on one view."""
        return await self._reading.run(_read(self._reading.engine, query))

    async def close(self) -> None:
        """Finish what is under way."""
        await self._writing.close()
        await self._reading.close()


class _Loop:
    """An engine, and a thread whose event loop is the only one that uses it."""

    def __init__(self, engine: AsyncEngine, name: str) -> None:
        self.engine = engine
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` over there. It goes on where our caller is cancelled: a commit is not cut."""
        future = asyncio.run_coroutine_threadsafe(_guarded(work), self._loop)
        return await asyncio.shield(asyncio.wrap_future(future))

    async def close(self) -> None:
        await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(self.engine.dispose(), self._loop)
        )
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)
        self._loop.close()


async def _guarded(work: Coroutine[Any, Any, T]) -> T:
    """`work`, with every way of not reaching the server told alike."""
    try:
        return await work
    except (OSError, PoolTimeout) as error:
        raise DatabaseDown(f"PostgreSQL can't be reached: {type(error).__name__}") from error
    except DBAPIError as error:
        if error.connection_invalidated or _refuses(error.orig):
            raise DatabaseDown("PostgreSQL has gone away") from error
        raise
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:  # of COPY, past SQLAlchemy
        if _refuses(error):
            raise DatabaseDown("PostgreSQL has gone away") from error
        raise DBAPIError("COPY", None, error) from error


def _refuses(error: BaseException | None) -> bool:
    """Whether the server said that it serves nobody now (SQLSTATE classes 08, 53 and 57P)."""
    state = str(getattr(error, "sqlstate", "") or "")
    return state[:2] in {"08", "53"} or state.startswith("57P")


async def _write(engine: AsyncEngine, transaction: Callable[[Connection], T]) -> T:
    async with engine.begin() as connection:
        await connection.execute(text(f"SELECT pg_advisory_xact_lock({WRITE_LOCK})"))
        return await connection.run_sync(transaction)


async def _read(engine: AsyncEngine, query: Callable[[Connection], T]) -> T:
    async with engine.begin() as connection:
        return await connection.run_sync(query)


def engine(url: URL, size: int, command_seconds: int | None) -> AsyncEngine:
    """An engine of `size` connections; a dead one is noticed before it is used."""
    options: dict[str, Any] = {
        "timeout": CONNECT_SECONDS,
        "command_timeout": command_seconds,
        "server_settings": {"application_name": "tidegate-billing"},
    }
    mode = url.query.get("sslmode")
    if mode is not None:
        options["ssl"] = mode
    return create_async_engine(
        url.difference_update_query(["sslmode"]),
        pool_size=size,
        max_overflow=0,
        pool_timeout=COMMAND_SECONDS,
        pool_pre_ping=True,
        connect_args=options,
    )
