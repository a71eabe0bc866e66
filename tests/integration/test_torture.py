"""The torture of a million events, cut short: kills and restarts at seeded points."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torture

import postgres
from billing_process import Billing

EVENTS = int(os.environ.get("TEST_TORTURE_EVENTS", "10000"))


@pytest.fixture(params=["sqlite", "postgresql"])
def tortured(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Billing, postgres.Server | None]]:
    """A process, and a durable server of its own, for it is killed."""
    server = postgres.Server(durable=True) if request.param == "postgresql" else None
    billing = None
    try:
        if server is not None:
            server.start()
        url = server.create("ledger") if server else f"sqlite:///{tmp_path}/ledger.db"
        billing = Billing(tmp_path, url, server)
        billing.start()
        yield billing, server
    finally:
        if billing is not None:
            billing.close()
        if server is not None:
            server.remove()


def test_the_ledger_equals_the_truth_whatever_is_killed(
    tortured: tuple[Billing, postgres.Server | None],
) -> None:
    billing, server = tortured
    report = torture.torture(billing, server, EVENTS, seed=5, faults=3)
    assert report.wrong == []
    assert report.kills + report.restarts >= 3
    assert report.events >= EVENTS
    assert torture.rebuilt(billing) == []


def test_the_torture_sees_what_is_lost_and_what_is_doubled(tmp_path: Path) -> None:
    """The judge itself, judged: one event less, one token more, one posting twice."""
    billing = Billing(tmp_path, f"sqlite:///{tmp_path}/ledger.db")
    billing.start()
    try:
        for number in range(torture.TENANTS):
            billing.key(tenant=f"tenant-{number}")
        truth = torture.generate(billing, 300, seed=2)
        assert list(torture.differences(billing, truth)) == []
        pick = "(SELECT max(id) FROM event WHERE amount_nano IS NOT NULL)"
        for name, damage in {
            "ledger": f"UPDATE event SET completion_tokens = completion_tokens + 1 WHERE id = {pick}",
            "events": f"DELETE FROM event WHERE id = {pick}",
            "usage": "UPDATE rollup_day SET amount_atto = amount_atto + 1",
            "requests in the outbox": "UPDATE outbox SET requests = requests + 1",
        }.items():
            with billing.tampered(damage):
                found = list(torture.differences(billing, truth))
            assert any(line.startswith(name) for line in found), (name, found)
        assert list(torture.differences(billing, truth)) == []
    finally:
        billing.close()
