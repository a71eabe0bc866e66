"""Work on the database that no route does: `tidegate billing migrate | rebuild | retire | backup`.

Each is a process of its own (a Job in a cluster), safe beside a running service: all but a backup
take the write lock for as long as they need, and routers keep their usage until it is free.
"""

import asyncio
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection

from tidegate_billing import migrate
from tidegate_billing.database import DatabaseDown, DatabaseError, connect, parse

T = TypeVar("T")
TASKS = ("migrate", "rebuild", "retire", "backup")
HELP = (
    "serve (default) | migrate: bring the database to this release | rebuild: the rollups, from the"
    " ledger | retire YYYY-MM: take a month out of the ledger | backup FILE: copy a SQLite ledger"
)


def run(task: str, argument: str, url: str) -> None:
    """Do one of TASKS and say on stdout what was done. Raises ValueError, which says what is wrong."""
    needs = {"retire": "YYYY-MM", "backup": "FILE"}.get(task)
    if bool(argument) != bool(needs):
        raise ValueError(f"{task} takes {needs or 'no argument'}")
    if task == "migrate":
        migrate.migrate(url)
        _say(f"the database is at {migrate.HEAD}")
        return
    if not migrate.is_current(url):
        raise DatabaseError(
            f"the database is not at {migrate.HEAD}; run `tidegate billing migrate`"
        )
    if task == "backup":
        _backup(url, Path(argument))
    elif task == "rebuild":
        from tidegate_billing import rollup

        entries = _write(url, rollup.rebuild)
        _say(f"rebuilt the rollups from {entries} entries")
    else:
        from tidegate_billing import retention, service

        events = _write(url, lambda c: retention.retire(c, argument, service.now()))
        _say(f"{argument} has left the ledger with {events} events; {_where(url, argument)}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def _where(url: str, month: str) -> str:
    if parse(url).get_backend_name() == "sqlite":
        return "their rows are deleted"
    return f"archive the table event_{month.replace('-', '_')} and drop it"


def _write(url: str, work: Callable[[Connection], T]) -> T:
    async def once() -> T:
        database = connect(url, command_seconds=None)
        try:
            return await database.write(work)
        finally:
            await database.close()

    try:
        return asyncio.run(once())
    except DatabaseDown as error:
        raise DatabaseError(str(error)) from error


def _backup(url: str, target: Path) -> None:
    """Copy SQLite's ledger while it is in use, as of one moment; the copy is readable by its owner only."""
    parsed = parse(url)
    if parsed.get_backend_name() != "sqlite":
        raise DatabaseError("PostgreSQL is backed up by its own means: pg_dump, or its archive")
    assert parsed.database is not None
    try:
        target.touch(mode=0o600, exist_ok=False)
    except OSError as error:
        raise DatabaseError(f"the backup {target} can't be written: {error.strerror}") from error
    source, copy = sqlite3.connect(parsed.database), sqlite3.connect(target)
    try:
        source.backup(copy)
    finally:
        copy.close()
        source.close()
    _say(f"copied the ledger to {target}")
