"""Work beside the service: migrations as a process, backup and restore, rebuilding, retention."""

import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from billing_process import ENVIRON, Billing, command
from ledgers import Ledgers
from tidegate_billing.links import ModelPricing, Pricing, UsageBatch
from tidegate_billing.usage import Usage, uuid7

OLD_NS = 1_740_000_000 * 10**9
"""In February 2025."""


def task(*arguments: str, url: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(*arguments),
        env={"PATH": ENVIRON["PATH"], "TIDEGATE_DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def billing(ledgers: Ledgers, tmp_path: Path) -> Iterator[Billing]:
    made = Billing(tmp_path, ledgers.empty_url(), ledgers.server)
    done = task("migrate", url=made.database_url)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.startswith("the database is at ")
    assert task("migrate", url=made.database_url).stdout == done.stdout
    try:
        made.start()
        yield made
    finally:
        made.close()


def batch(number: int, *, old: bool = False) -> UsageBatch:
    events = [
        Usage(
            attempt_id=uuid7(OLD_NS) if old else uuid7(),
            kind="settlement",
            request_id="r",
            tenant="team-a",
            project="p",
            key_id="k",
            model="m",
            deployment="d/m",
            endpoint="chat",
            started_at=1,
            prompt_tokens=number,
            completion_tokens=n,
            outcome="completed",
            source="engine",
            billed=True,
            price_version=1,
        )
        for n in range(10)
    ]
    return UsageBatch(journal="j", first=number * 10 + 1, last=number * 10 + 10, events=events)


PRICED = [
    ModelPricing(
        deployment="d/m",
        model="m",
        owner="team-a",
        pricing=Pricing(input_per_million="0.1", output_per_million="0.4"),
    )
]


def usage(billing: Billing) -> object:
    asked = {"tenant": "team-a", "from": "2025-01-01", "to": "2035-01-01", "by": "model"}
    return billing.get("/api/v1/usage", **asked).json()["data"]


def restore(billing: Billing, ledgers: Ledgers, folder: Path) -> str:
    """Back the running ledger up, and restore it into a database of its own; its URL."""
    if ledgers.server is None:
        copy = folder / "copy.db"
        done = task("backup", str(copy), url=billing.database_url)
        assert (done.returncode, done.stdout) == (0, f"copied the ledger to {copy}\n")
        assert copy.stat().st_mode & 0o777 == 0o600
        again = task("backup", str(copy), url=billing.database_url)
        assert (again.returncode, "File exists" in again.stderr) == (1, True)
        return f"sqlite:///{copy}"
    refused = task("backup", str(folder / "x"), url=billing.database_url)
    assert "pg_dump" in refused.stderr
    dump = folder / "dump"
    dump.write_bytes(ledgers.server.tool("pg_dump", "-Fc", "-d", billing.database_url).stdout)
    url = ledgers.empty_url()
    ledgers.server.tool("pg_restore", "--exit-on-error", "-d", url, str(dump))
    return url


def test_a_restored_backup_takes_every_journal_again_and_comes_out_equal(
    billing: Billing, ledgers: Ledgers, tmp_path: Path
) -> None:
    billing.put("/internal/models", PRICED)
    batches = [batch(number) for number in range(8)]
    for one in batches[:5]:
        billing.send(one)
    url = restore(billing, ledgers, tmp_path)
    for one in batches[5:]:
        billing.send(one)
    (tmp_path / "restored").mkdir()
    restored = Billing(tmp_path / "restored", url, ledgers.server)
    restored.start()
    try:
        assert usage(restored) != usage(billing)
        for one in batches:
            restored.send(one)
        assert usage(restored) == usage(billing)
        count = "SELECT count(*), count(DISTINCT event_id) FROM event"
        assert restored.query(count) == billing.query(count) == [["80", "80"]]
        with pytest.raises((AssertionError, sqlite3.Error), match="append-only"):
            restored.query("DELETE FROM event")
    finally:
        restored.close()


def test_rollups_are_rebuilt_beside_the_running_service(billing: Billing) -> None:
    billing.put("/internal/models", PRICED)
    billing.send(batch(0))
    before = usage(billing)
    assert before
    for table in ("rollup_minute", "rollup_hour", "rollup_day"):
        _execute(billing, f"DELETE FROM {table}")
    assert usage(billing) == []
    done = task("rebuild", url=billing.database_url)
    assert (done.returncode, done.stdout) == (0, "rebuilt the rollups from 10 entries\n")
    assert usage(billing) == before
    billing.send(batch(1))
    assert usage(billing) != before


def _execute(billing: Billing, statement: str) -> None:
    if billing.server is not None:
        billing.query(statement)
        return
    with sqlite3.connect(billing.database_url.removeprefix("sqlite:///")) as connection:
        connection.execute(statement)
    connection.close()


def test_a_month_is_retired_beside_the_running_service(billing: Billing) -> None:
    billing.put("/internal/models", PRICED)
    old = batch(0, old=True)
    billing.send(old)
    parked = billing.metric("tidegate_ledger_parked_events")
    assert parked == "0"  # the router promised version 1, whenever that came into force
    before = usage(billing)
    done = task("retire", "2025-02", url=billing.database_url)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("2025-02 has left the ledger with 10 events; ")
    assert usage(billing) == before
    ack = billing.send(old)
    assert len(ack.conflicts) == 10
    assert billing.metric("tidegate_ledger_malformed_total") == "10"
    assert billing.query("SELECT count(*) FROM refused") == [["10"]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["retire"], "retire takes YYYY-MM"),
        (["backup"], "backup takes FILE"),
        (["rebuild", "x"], "rebuild takes no argument"),
        (["retire", "2999-01"], "too young"),
        (["retire", "soon"], "allowed: YYYY-MM"),
        (["backup", "/proc/none/copy"], "the backup /proc/none/copy can't be written"),
    ],
)
def test_a_task_that_cannot_be_done_is_one_line(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    early = task("rebuild", url=url)
    assert (early.returncode, "run `tidegate billing migrate`" in early.stderr) == (1, True)
    assert task("migrate", url=url).returncode == 0
    done = task(*arguments, url=url)
    assert (done.returncode, said in done.stderr) == (1, True), done.stderr
    assert len(done.stderr.splitlines()) == 1
