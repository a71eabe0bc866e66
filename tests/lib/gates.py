"""A router's gate in this process, over real sockets: the world and the clock are the test's."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec

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
VIEW = ModelView(deployment="t/m", owner="t", name="m", created=2.0)
CHAT = "/v1/chat/completions"


def key(tenant: str = "t", token: str = "sk", **more: Any) -> KeyView:
    """A key that the gate knows when it is told."""
    made = digest(b"p", token.encode()).hex()
    return KeyView(id=f"k-{token}", digest=made, tenant=tenant, project="p", **more)


class Running(NamedTuple):
    """A gate with one model and no replica, and a client of it with the key `sk`."""

    gate: Gate
    client: httpx.AsyncClient
    view: ModelView = VIEW

    async def held(self, **more: Any) -> "asyncio.Task[httpx.Response]":
        """A request that waits for an engine; returns when it does."""
        queue = self.gate.models["t/m"].queue
        before = len(queue)
        task = asyncio.create_task(self.client.post(CHAT, json={**BODY, **more}))
        while len(queue) == before:
            await asyncio.sleep(0.005)
        return task

    async def streaming(self) -> "asyncio.Task[httpx.Response]":
        """A stream that waits, and has had its first heartbeat; for a view with heartbeatSeconds 0."""
        task = await self.held(stream=True)
        self.gate.sweep()
        return task

    def engine(self, url: str, guard: str = "") -> None:
        """The model has a replica that is ready."""
        ready = Replica(id="r", deployment="t/m", url=url, state="ready", guard=guard)
        self.world(self.view, replicas=(ready,))

    def world(self, *views: ModelView, replicas: tuple[Replica, ...] = ()) -> None:
        """What the gate sees now."""
        line = WorldLine(type="world", version=1, models=list(views), replicas=list(replicas))
        self.gate.apply(line)

    async def until(self, done: Callable[[], bool]) -> None:
        """Let the gate's seconds pass until something is so."""
        while not done():
            self.gate.sweep()
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(
    folder: Path, view: ModelView = VIEW, *, priced: bool = False, connections: int = 1
) -> AsyncIterator[Running]:
    """`priced`: its tenants and prices come from billing, which has not told any yet."""
    meter = Meter(Journal(folder / "journal"), Slots(folder / "journal" / "slots"), strict=True)
    tenants = Tenants({1: b"p"}, priced=priced)
    if not priced:
        tenants.add(key())
    gate = Gate("router", meter, tenants)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Front(gate, loop), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    client = httpx.AsyncClient(
        base_url=url, headers={"authorization": "Bearer sk"}, trust_env=False, timeout=20,
        limits=httpx.Limits(max_connections=connections),
    )  # fmt: skip
    async with client:
        made = Running(gate, client, view)
        made.world(view)
        yield made
        made.world()  # lets go of the engines' connections
    server.close()
    for front in list(gate.fronts):
        front.close()
    while gate.fronts:
        await asyncio.sleep(0.005)
    await asyncio.sleep(0)
    meter.close()


def error(answer: httpx.Response) -> dict[str, Any]:
    """The error of an answer, also where it is a stream's last event."""
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        assert "[DONE]" not in answer.text
        event = [one for one in answer.text.split("\n\n") if one.startswith("data: ")][-1]
        return dict(msgspec.json.decode(event.removeprefix("data: "))["error"])
    return dict(answer.json()["error"])
