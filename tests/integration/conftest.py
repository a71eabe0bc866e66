"""What integration tests share: a real PostgreSQL, started once, and ledgers on both databases."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import postgres
from ledgers import KINDS, Ledger, Ledgers


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    """The system's PostgreSQL, without fsync."""
    if postgres.binaries() is None and not os.environ.get("CI"):
        pytest.skip("PostgreSQL is not installed; try `apt-get install postgresql`")
    server = postgres.Server()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(params=KINDS)
def ledgers(request: pytest.FixtureRequest, tmp_path: Path) -> Ledgers:
    """Makes ledgers; every test that asks for it runs on each database."""
    server = request.getfixturevalue("postgres_server") if request.param == "postgresql" else None
    return Ledgers(request.param, tmp_path, server)


@pytest.fixture
def ledger(ledgers: Ledgers) -> Iterator[Ledger]:
    """A fresh ledger."""
    with ledgers.made() as made:
        yield made
