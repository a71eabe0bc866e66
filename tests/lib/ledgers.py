"""Ledgers for tests, on either database: made fresh, and driven as the service drives them."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection

from postgres import Server
from tidegate_billing import migrate
from tidegate_billing.database import connect

T = TypeVar("T")
KINDS = ("sqlite", "postgresql")
_NUMBERS = itertools.count(1)


class Ledger:
    """A database at HEAD. Call it with a function of a connection: it runs and commits."""

    def __init__(self, url: str, kind: str) -> None:
        self.url = url
        self.kind = kind
        self.database = connect(url)
        self._runner = asyncio.Runner()

    def __call__(self, work: Callable[..., T], *arguments: Any, **named: Any) -> T:
        return self._runner.run(
            self.database.write(lambda connection: work(connection, *arguments, **named))
        )

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on one view."""
        return self._runner.run(self.database.read(work))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run what needs the ledger's loop."""
        return self._runner.run(work)

    def close(self) -> None:
        """Close every connection."""
        self._runner.run(self.database.close())
        self._runner.close()


class Ledgers:
    """Makes ledgers of one kind; a migrated PostgreSQL database is copied, which is quick."""

    TEMPLATE = "ledger_at_head"

    def __init__(self, kind: str, folder: Path, server: Server | None) -> None:
        self.kind = kind
        self._folder = folder
        self.server = server

    def url(self) -> str:
        """The URL of a fresh database at HEAD."""
        name = f"ledger_{next(_NUMBERS)}"
        if self.server is None:
            url = f"sqlite:///{self._folder}/{name}.db"
            migrate.migrate(url)
            return url
        if not self.server.sql(
            "postgres", f"SELECT 1 FROM pg_database WHERE datname = '{self.TEMPLATE}'"
        ):
            migrate.migrate(self.server.create(self.TEMPLATE))
        return self.server.create(name, self.TEMPLATE)

    def empty_url(self) -> str:
        """The URL of a database that nothing was done to."""
        name = f"empty_{next(_NUMBERS)}"
        if self.server is None:
            return f"sqlite:///{self._folder}/{name}.db"
        return self.server.create(name)

    @contextmanager
    def made(self) -> Iterator[Ledger]:
        """A fresh ledger."""
        ledger = Ledger(self.url(), self.kind)
        try:
            yield ledger
        finally:
            ledger.close()
            if self.server is not None:
                self.server.drop(ledger.url.rpartition("/")[2])
