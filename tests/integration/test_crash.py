"""Kill -9 of the router and of billing under load: nothing is lost, nothing is billed twice."""

import asyncio
import os
import random
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


async def ask(base: str, key: str, tokens: int, leave_after: int | None, got: Received) -> None:
    body = {
        "model": "sim", "stream": True, "max_tokens": tokens,
        "messages": [{"role": "user", "content": "one two three"}],
    }  # fmt: skip
    headers = {"authorization": f"Bearer {key}"}
    try:
        async with (
            httpx.AsyncClient(timeout=30, trust_env=False) as client,
            client.stream(
                "POST", f"{base}/v1/chat/completions", json=body, headers=headers
            ) as answer,
        ):
            got.request_id = answer.headers.get("x-request-id", "")
            async for line in answer.aiter_lines():
                got.tokens += '"content":" t' in line
                got.done |= line == "data: [DONE]"
                if leave_after is not None and got.tokens >= leave_after:
                    return
    except httpx.HTTPError:
        return


async def storm(up: running.Platform, seed: int) -> list[Received]:
    chance = random.Random(seed)
    base, key = up.base, up.key
    everyone = [Received() for _ in range(STREAMS)]

    async def one(got: Received) -> None:
        await asyncio.sleep(chance.uniform(0, 4))
        tokens = chance.randint(1, 150)
        leave = chance.randint(0, tokens) if chance.random() < 0.25 else None
        await ask(base, key, tokens, leave, got)

    async def killer() -> None:
        for name in ("router", "billing", "router", "billing"):
            await asyncio.sleep(chance.uniform(0.3, 1.0))
            await asyncio.to_thread(up.kill, name)

    await asyncio.gather(killer(), *(one(g) for g in everyone))
    return everyone


@pytest.mark.parametrize("seed", [int(s) for s in os.environ.get("SEEDS", "1,2").split(",")])
def test_kill_of_router_and_billing(tmp_path: Path, seed: int) -> None:
    with running.platform(tmp_path, running.sim()) as up:
        everyone = asyncio.run(storm(up, seed))
        up.settled()
        events, truth = up.events(), up.truth()
        received = {g.request_id: g.tokens for g in everyone if g.request_id}
        assert not running.audit(events, truth, received)
        assert sum(g.done for g in everyone) > STREAMS / 10
        assert any(e["outcome"] == "lost" for e in events), "a router died in mid-stream"
        assert any(e["outcome"] == "aborted" for e in events)
        by_request = {e["request_id"]: e for e in events if e["outcome"] == "completed"}
        for got in everyone:
            if got.done:
                assert by_request[got.request_id]["completion_tokens"] == got.tokens
        rows = up.conservation()
        assert rows
        assert all(r["unexplained"] == 0 and r["unverified"] == 0 for r in rows), rows
        # The audit is worth something only if it sees a fault.
        assert running.audit(events[1:], truth, received), "one settlement dropped"
        assert running.audit([*events, events[0]], truth, received), "one settlement doubled"
