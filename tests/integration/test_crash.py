"""Kill -9 of the router and of billing under load: nothing is lost, nothing is billed twice."""

import asyncio
import os
import random
import sqlite3
from pathlib import Path

import httpx
import pytest

import running

STREAMS = 200


class Received:
    """What one client got: tokens, and whether the answer was whole."""

    def __init__(self) -> None:
        self.request_id = ""
        self.tokens = 0
        self.done = False


class Progress:
    """Tokens received by all clients: the clock by which parts are killed."""

    def __init__(self) -> None:
        self.tokens = 0
        self.mark = 0
        self.reached = asyncio.Event()

    def add(self) -> None:
        self.tokens += 1
        if self.tokens >= self.mark:
            self.reached.set()

    async def more(self, tokens: int) -> None:
        """Return when so many more tokens have come."""
        self.mark = self.tokens + tokens
        self.reached.clear()
        await self.reached.wait()


async def ask(
    client: httpx.AsyncClient,
    tokens: int,
    leave_after: int | None,
    got: Received,
    progress: Progress,
) -> None:
    body = {
        "model": "sim",
        "stream": True,
        "max_tokens": tokens,
        "messages": [{"role": "user", "content": "one two three"}],
    }
    try:
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            got.request_id = answer.headers.get("x-request-id", "")
            async for line in answer.aiter_lines():
                if '"content":" t' in line:
                    got.tokens += 1
                    progress.add()
                got.done |= line == "data: [DONE]"
                if leave_after is not None and got.tokens >= leave_after:
                    return
    except httpx.HTTPError:
        return


async def storm(up: running.Platform, seed: int) -> tuple[list[Received], list[str]]:
    """200 streams, a quarter of which leave early, while parts are killed. Also: who was killed."""
    chance = random.Random(seed)
    everyone = [Received() for _ in range(STREAMS)]
    progress, killed = Progress(), list[str]()

    async def killer() -> None:
        for name in ("router", "billing", "router", "billing"):
            await progress.more(chance.randint(200, 1200))
            killed.append(name)
            await asyncio.to_thread(up.kill, name)

    headers = {"authorization": f"Bearer {up.key}"}
    limits = httpx.Limits(max_connections=STREAMS)
    async with httpx.AsyncClient(
        base_url=up.base, headers=headers, limits=limits, timeout=30, trust_env=False
    ) as client:

        async def one(got: Received) -> None:
            await asyncio.sleep(chance.uniform(0, 5))
            tokens = chance.randint(1, 150)
            leave = chance.randint(0, tokens) if chance.random() < 0.25 else None
            await ask(client, tokens, leave, got, progress)

        killing = asyncio.create_task(killer())
        await asyncio.gather(*(one(g) for g in everyone))
        killing.cancel()
        await asyncio.wait([killing])
    return everyone, killed


@pytest.mark.parametrize("seed", [int(s) for s in os.environ.get("SEEDS", "1,2").split(",")])
def test_kill_of_router_and_billing(tmp_path: Path, seed: int) -> None:
    with running.platform(tmp_path, running.sim()) as up:
        everyone, killed = asyncio.run(storm(up, seed))
        assert {"router", "billing"} <= set(killed)
        up.ready("router")
        up.ready("billing")
        up.settled()
        events, truth = up.events(), up.truth()
        received = {g.request_id: g.tokens for g in everyone if g.request_id}
        assert not running.audit(events, truth, received)
        assert any(g.done for g in everyone)
        assert any(e["outcome"] == "lost" for e in events), "a router died in mid-stream"
        assert any(e["outcome"] == "aborted" for e in events)
        by_request = {e["request_id"]: e for e in events if e["outcome"] == "completed"}
        for got in everyone:
            if got.done:
                assert by_request[got.request_id]["completion_tokens"] == got.tokens
        rows = up.conservation()
        assert rows
        assert all(r["unexplained"] == 0 and r["unverified"] == 0 for r in rows), rows
        assert up.drifts() == []
        with sqlite3.connect(f"file:{up.data}/billing.db?mode=ro", uri=True) as ledger:
            written = ledger.execute("SELECT sum(settlements) FROM journal_count").fetchone()
        ledger.close()
        assert written == (len(events),), "as the journal itself has counted, over all its lives"
        # The audit is worth something only if it sees a fault.
        assert running.audit(events[1:], truth, received), "one settlement dropped"
        assert running.audit([*events, events[0]], truth, received), "one settlement doubled"
