"""The billing process as its neighbours see it: real sockets, a real database, real signals."""

import asyncio
import contextlib
import json
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from billing_process import ADMIN, INTERNAL, Billing
from ledgers import Ledgers
from tidegate_billing import keys
from tidegate_billing.links import (
    EngineCounters,
    KeyView,
    ModelPricing,
    Pricing,
    SnapshotAck,
    SnapshotLine,
    UsageAck,
    UsageBatch,
)
from tidegate_billing.usage import Usage, attempt_month, uuid7


@pytest.fixture
def billing(ledgers: Ledgers, tmp_path: Path) -> Iterator[Billing]:
    """The process on an empty database of either kind, which it migrates."""
    made = Billing(tmp_path, ledgers.empty_url(), ledgers.server)
    try:
        made.start()
        yield made
    finally:
        made.close()


def model(**pricing: str) -> list[ModelPricing]:
    prices = {"input_per_million": "0.10", "output_per_million": "0.40", **pricing}
    return [ModelPricing(deployment="d/m", model="m", owner="team-a", pricing=Pricing(**prices))]


def settlement(**values: object) -> Usage:
    base: dict[str, object] = {
        "attempt_id": uuid7(),
        "kind": "settlement",
        "request_id": "req_1",
        "tenant": "team-b",
        "project": "web",
        "key_id": "key_1",
        "model": "m",
        "deployment": "d/m",
        "endpoint": "chat",
        "started_at": time.time_ns() // 1000,
        "finished_at": time.time_ns() // 1000,
        "replica": "epoch-1",
        "prompt_tokens": 5,
        "completion_tokens": 16,
        "outcome": "completed",
        "source": "engine",
        "billed": True,
        "price_version": 1,
    }
    return Usage(**{**base, **values})  # type: ignore[arg-type]


class Router:
    """A snapshot subscriber, as a router is one."""

    def __init__(self, billing: Billing, name: str, *, acks: bool = True) -> None:
        self.billing, self.name, self.acks = billing, name, acks
        self.keys: dict[str, KeyView] = {}
        self.lines: list[SnapshotLine] = []
        self.seen = asyncio.Condition()

    async def run(self) -> None:
        async with (
            httpx.AsyncClient(headers=INTERNAL, timeout=30) as client,
            client.stream(
                "GET", self.billing.url("/internal/snapshot"), params={"router": self.name}
            ) as answer,
        ):
            async for text in answer.aiter_lines():
                line = msgspec.json.decode(text, type=SnapshotLine)
                if line.type == "snapshot":
                    self.keys.clear()
                self.keys.update((key.id, key) for key in line.keys)
                for key_id in line.removed_keys:
                    self.keys.pop(key_id, None)
                if self.acks:
                    ack = SnapshotAck(router=self.name, version=line.version)
                    url = self.billing.url("/internal/snapshot/ack")
                    await client.post(url, content=msgspec.json.encode(ack))
                async with self.seen:
                    self.lines.append(line)
                    self.seen.notify_all()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(20), self.seen:
            await self.seen.wait_for(lambda: len(self.lines) >= count)

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.run())
        try:
            await self.until(1)
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def test_a_key_works_when_it_is_returned_and_stops_when_it_is_revoked(
    billing: Billing,
) -> None:
    first, second = Router(billing, "router"), Router(billing, "router-2")
    async with first.connected(), second.connected():
        made = await asyncio.to_thread(billing.key)
        for router in (first, second):
            view = router.keys[made["id"]]
            digest = keys.digest(b"new-pepper", made["key"].encode()).hex()
            assert (view.digest, view.pepper_version) == (digest, 2)
            assert (view.tenant, view.project) == ("team-b", "web")
        url = billing.url(f"/api/v1/keys/{made['id']}")
        revoked = await asyncio.to_thread(httpx.delete, url, headers=ADMIN)
        assert revoked.json()["revoked"] is True
        assert made["id"] not in first.keys | second.keys
    assert set(made) == {"id", "key", "prefix", "tenant", "project", "name", "created_at"}
    assert made["key"] not in billing.log
    assert made["id"].encode() in billing.contents()
    assert made["key"].encode() not in billing.contents()


async def test_a_router_that_does_not_ack_holds_nothing_up_for_long(billing: Billing) -> None:
    deaf = Router(billing, "deaf", acks=False)
    async with deaf.connected():
        begun = time.monotonic()
        made = await asyncio.to_thread(billing.key)
        assert 0.9 < time.monotonic() - begun < 10
        await deaf.until(2)
        assert made["id"] in deaf.keys
    assert "snapshot_ack_late" in billing.log


async def test_a_second_stream_of_a_name_takes_over_and_prices_are_pushed(
    billing: Billing,
) -> None:
    old, new = Router(billing, "router"), Router(billing, "router")
    async with old.connected():
        async with new.connected():
            answer = await asyncio.to_thread(billing.put, "/internal/models", model())
            assert answer.json()[0]["price_version"] == 1
            await new.until(2)
            assert [(one.deployment, one.version) for one in new.lines[-1].prices] == [("d/m", 1)]
            assert new.lines[-1].tenants == ["team-a"]
            again = await asyncio.to_thread(billing.put, "/internal/models", model())
            assert again.json() == answer.json()
        assert len(old.lines) == 1
    assert new.lines[-1].version > new.lines[0].version


def test_usage_becomes_an_exact_bill(billing: Billing) -> None:
    billing.put("/internal/models", model())
    billing.key()
    one = settlement()
    probe = settlement(billed=False, reason="probe", completion_tokens=1, price_version=0)
    batch = UsageBatch(journal="j", first=1, last=4, events=[one, probe])
    assert billing.send(batch, unacked=3) == UsageAck(acked=4)
    assert billing.send(batch, unacked=0) == UsageAck(acked=4)
    usage = billing.get("/api/v1/usage", tenant="team-b", by="model,key,day").json()
    (row,) = usage["data"]
    assert (row["requests"], row["prompt_tokens"], row["completion_tokens"]) == (1, 5, 16)
    assert (row["amount_exact"], row["currency"], row["key_id"]) == ("0.0000069", "USD", "key_1")
    assert usage["unshipped"] == 0
    month = attempt_month(one.attempt_id)
    bill = billing.get(f"/api/v1/invoices/{month}", tenant="team-b").json()
    assert [line["amount_exact"] for line in bill["lines"]] == ["0.0000005", "0.0000064"]
    assert bill["total"] == "0.00"
    events = billing.get("/api/v1/events", request_id="req_1", limit="1").json()
    assert (len(events["data"]), events["has_more"]) == (1, True)
    rest = billing.get("/api/v1/events", after=events["data"][0]["event_id"]).json()
    assert [event["reason"] for event in rest["data"]] == ["probe"]


def test_a_key_s_last_use_is_known_from_usage(billing: Billing) -> None:
    path = f"/api/v1/keys/{billing.key()['id']}"
    assert billing.get(path).json()["last_used_at"] is None
    ahead = settlement(key_id=path.rpartition("/")[2], finished_at=2**53)  # a clock far ahead
    billing.send(UsageBatch(journal="j", first=1, last=1, events=[ahead]))
    shown = billing.get(path).json()["last_used_at"]
    assert shown[:4] in {time.strftime("%Y", time.gmtime(time.time() - 60 * n)) for n in (0, 1)}


def test_a_conflict_and_a_gap_raise_alarms(billing: Billing) -> None:
    one = settlement()
    billing.send(UsageBatch(journal="j", first=1, last=1, events=[one]))
    other = msgspec.structs.replace(one, completion_tokens=1)
    ack = billing.send(UsageBatch(journal="j", first=5, last=6, events=[other, settlement()]))
    assert ack == UsageAck(acked=6, conflicts=[one.event_id])
    assert billing.metric("tidegate_ledger_conflicts_total") == "1"
    assert billing.metric("tidegate_journal_gaps_total") == "1"
    assert billing.metric("tidegate_ledger_parked_events") == "2"
    alarms = [json.loads(line) for line in billing.log.splitlines() if '"alarm": true' in line]
    assert {"journal_gap", "ledger_conflict"} <= {alarm["event"] for alarm in alarms}


def test_conservation_and_its_drift(billing: Billing) -> None:
    billing.put("/internal/models", model())
    one, two = settlement(), settlement(completion_tokens=4, outcome="aborted")
    billing.send(UsageBatch(journal="j", first=1, last=2, events=[one]))
    report = EngineCounters(
        model="m",
        deployment="d/m",
        epoch="epoch-1",
        prompt=10,
        generated=26,
        state="final",
        attempts={one.attempt_id: 16, two.attempt_id: 10},
    )
    billing.put("/internal/counters", [report], "POST")
    # A settlement that a meter dropped, or that is still on its way, can't hide.
    assert billing.metric('tidegate_conservation_drift_tokens{model="m"}') == "10"
    billing.send(UsageBatch(journal="j", first=3, last=3, events=[two]))
    assert billing.metric('tidegate_conservation_drift_tokens{model="m"}') == "0"
    (row,) = billing.get("/api/v1/conservation").json()["data"]
    assert row["unbilled"] == {"abort_tail": 6}
    assert (row["generated"], row["billed"], row["unexplained"]) == (26, 20, 0)
    assert (row["unverified"], row["verified"]) == (0, True)
    doubled = settlement(completion_tokens=16)
    billing.send(UsageBatch(journal="j", first=4, last=4, events=[doubled]))
    (row,) = billing.get("/api/v1/conservation").json()["data"]
    assert row["unexplained"] == -16


def test_killed_between_ingest_and_ack_nothing_is_twice(billing: Billing) -> None:
    billing.put("/internal/models", model())
    batches = [
        UsageBatch(journal="j", first=n * 50 + 1, last=n * 50 + 50, events=events)
        for n, events in enumerate([[settlement() for _ in range(50)] for _ in range(20)])
    ]
    acked = 0
    for round_number, batch in enumerate(batches):
        port = billing.management.getsockname()[1]
        content = msgspec.json.encode(batch)
        head = (
            f"POST /internal/usage HTTP/1.1\r\nhost: b\r\nauthorization: Bearer internal-token\r\n"
            f"content-length: {len(content)}\r\n\r\n"
        )
        if round_number % 5 == 2:
            # The batch is committed, its answer is never read, and the process is gone.
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(head.encode() + content)
                _wait_until_stored(billing, batch)
                assert billing.end(signal.SIGKILL) == -signal.SIGKILL
            billing.start()
        acked = billing.send(batch).acked
        assert acked == batch.last
    (kept,) = billing.query(
        "SELECT count(*), count(DISTINCT event_id), sum(CASE WHEN billed THEN 1 ELSE 0 END)"
        " FROM event"
    )
    assert kept == ["1000", "1000", "1000"]
    assert billing.metric("tidegate_journal_gaps_total") == "0"


def _wait_until_stored(billing: Billing, batch: UsageBatch) -> None:
    query = f"SELECT count(*) FROM event WHERE event_id = '{batch.events[-1].event_id}'"
    deadline = time.monotonic() + 20
    while billing.query(query) != [["1"]]:
        assert time.monotonic() < deadline, "the batch was never stored"


async def test_sigterm_ends_streams_and_a_restart_keeps_the_picture(billing: Billing) -> None:
    made = await asyncio.to_thread(billing.key)
    router = Router(billing, "router")
    task = asyncio.create_task(router.run())
    await router.until(1)
    begun = time.monotonic()
    assert await asyncio.to_thread(billing.end, signal.SIGTERM) == 0
    assert time.monotonic() - begun < 4
    await asyncio.wait_for(task, 10)
    await asyncio.to_thread(billing.start)
    again = Router(billing, "router")
    async with again.connected():
        assert again.keys[made["id"]] == router.keys[made["id"]]
        assert again.lines[0].version > router.lines[-1].version
