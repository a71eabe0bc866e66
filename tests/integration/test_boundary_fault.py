"""A fault planted in the router's own code: that request fails, is settled, and no other notices."""

import asyncio
from pathlib import Path

import httpx
import pytest

import sim_process
from tidegate_billing.keys import digest
from tidegate_billing.links import KeyView
from tidegate_runtime.contract.links import ModelView, Replica, WorldLine
from tidegate_runtime.front import Front
from tidegate_runtime.gate import Gate
from tidegate_runtime.journal import Journal
from tidegate_runtime.meter import Meter
from tidegate_runtime.slots import Slots
from tidegate_runtime.tenants import Tenants

BODY = {"model": "m", "max_tokens": 2, "messages": [{"role": "user", "content": "x"}]}


async def ask(client: httpx.AsyncClient, url: str, body: object) -> httpx.Response | None:
    """The answer, or None where the connection was closed instead."""
    try:
        return await client.post(url, json=body)
    except httpx.RemoteProtocolError:
        return None


@pytest.mark.parametrize("place", ["openai.splice", "usage_of", "Scanner", "settlement"])
async def test_a_fault_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    flags = ("--ttft-ms", "1", "--tokens-per-second", "500")
    with sim_process.running(tmp_path, *flags, guard="") as sim:
        meter = Meter(
            Journal(tmp_path / "journal"), Slots(tmp_path / "journal" / "slots"), strict=True
        )
        tenants = Tenants({1: b"p"}, priced=False)
        tenants.add(KeyView(id="k", digest=digest(b"p", b"sk").hex(), tenant="t", project="p"))
        gate = Gate("router", meter, tenants)
        view = ModelView(deployment="d/m", owner="t", name="m", visibility="Public")
        replica = Replica(id="r", deployment="d/m", url=sim.url, state="ready", guard="")
        gate.apply(WorldLine(type="world", version=1, models=[view], replicas=[replica]))
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Front(gate, loop), "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/chat/completions"
        stream = {**BODY, "stream": place == "Scanner"}
        async with httpx.AsyncClient(
            headers={"authorization": "Bearer sk"}, trust_env=False, timeout=10
        ) as client:

            def broken(*_: object, **__: object) -> None:
                raise RuntimeError("a fault of ours")

            with monkeypatch.context() as patch:
                patch.setattr(f"tidegate_runtime.exchange.{place}", broken)
                answered = await ask(client, url, stream)
            if answered is not None:
                assert answered.status_code == 500
                assert answered.json()["error"]["code"] == "internal_error"
            assert (await client.post(url, json=BODY)).status_code == 200
        state = gate.models["d/m"]
        assert (state.in_flight, len(state.queue), len(gate.live)) == (0, 0, 0)
        left = len(meter.journal.open_attempts)
        assert left == (1 if place == "settlement" else 0), "the next life settles that one"
        server.close()
        meter.close()
