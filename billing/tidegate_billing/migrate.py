"""Migrations: bringing a database to this release, whichever it is on.

One process migrates at a time (it holds the write lock while it does) and in one transaction, so
a migration that fails leaves what was there. A database that a newer release has been at is refused.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, inspect, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from tidegate_billing.database import DatabaseDown, DatabaseError, parse

HEAD = "0009"
"""The newest migration. Known here so that a current database needs no Alembic in memory."""
PROJECTED = "0002"
"""The newest migration that changed what projections hold. A database from before has them rebuilt."""

T = TypeVar("T")


def migrate(url: str) -> None:
    """Bring the database at `url` to HEAD; SQLite's file is made, readable by its owner only.

    Raises DatabaseError where it can't be opened, or a newer release has been at it.
    """
    parsed = parse(url)
    if parsed.get_backend_name() == "sqlite":
        path = _path(parsed)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise DatabaseError(f"the database {path} can't be opened: {error.strerror}") from error
    _run(parsed, _to_head, write=True)


def is_current(url: str) -> bool:
    """Whether the database at `url` is there and at HEAD. Raises DatabaseError as `migrate`."""
    parsed = parse(url)
    if parsed.get_backend_name() == "sqlite" and not _path(parsed).is_file():
        return False
    return _run(parsed, revision, write=False) == HEAD


def _path(url: URL) -> Path:
    assert url.database is not None
    return Path(url.database)


def _place(url: URL) -> str:
    """Where a database of files is; of a server's nothing is shown."""
    return f" {_path(url)}" if url.get_backend_name() == "sqlite" else ""


def _run(url: URL, work: Callable[[Connection], T], *, write: bool) -> T:
    try:
        if url.get_backend_name() == "sqlite":
            return _on_sqlite(url, work, write=write)
        return asyncio.run(_on_postgres(url, work, write=write))
    except DBAPIError as error:
        raise DatabaseError(f"the database{_place(url)} can't be used: {error.orig}") from error
    except (OSError, DatabaseDown) as error:
        raise DatabaseError(f"the database can't be reached: {error}") from error


def _on_sqlite(url: URL, work: Callable[[Connection], T], *, write: bool) -> T:
    from tidegate_billing import sqlite

    engine = sqlite.engine(url, begin=sqlite.WRITE if write else sqlite.READ)
    try:
        with engine.begin() as connection:
            return work(connection)
    finally:
        engine.dispose()


async def _on_postgres(url: URL, work: Callable[[Connection], T], *, write: bool) -> T:
    from tidegate_billing import postgres

    engine = postgres.engine(url, 1, None)
    try:
        async with engine.begin() as connection:
            if write:
                lock = f"SELECT pg_advisory_xact_lock({postgres.WRITE_LOCK})"
                await connection.execute(text(lock))
            return await connection.run_sync(work)
    finally:
        await engine.dispose()


def revision(connection: Connection) -> str | None:
    """The migration a database is at; None: it is empty. Raises DatabaseError for a newer one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if found is not None and str(found) > HEAD:
        raise DatabaseError(
            f"the database is at migration {found}, newer than this release's ({HEAD}); "
            "run the release that was here, or restore the database of before"
        )
    return None if found is None else str(found)


def _to_head(connection: Connection) -> None:
    before = revision(connection)
    if before == HEAD:
        return
    upgrade(connection, "head")
    if before is not None and before < PROJECTED:
        from tidegate_billing import rollup

        rollup.rebuild(connection)


def upgrade(connection: Connection, target: str) -> None:
    """Run the migrations up to `target` in the connection's transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, target)
