"""The fleet's own boundaries: one model's fault, one link's fault, one name's two resources."""

import asyncio
from typing import Any

import httpx
import pytest

from owned import owned
from planning import SETTINGS, SIM
from tidegate_billing.links import EngineCounters
from tidegate_operator import demand
from tidegate_operator.kube.fleet import Fleet, Site
from tidegate_operator.kube.routers import Routers
from tidegate_runtime.contract.links import DemandLine, ModelDemand


class Billing:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.counted: list[EngineCounters] = []
        self.news = asyncio.Event()

    async def count(self, counters: list[EngineCounters]) -> None:
        self.counted += counters
        self.news.set()


class Api:
    """Answers nothing: these tests write nothing."""

    calls = failures = 0


def resource(uid: str, version: int, name: str = "m") -> dict[str, Any]:
    metadata = {
        "namespace": "team", "name": name, "uid": uid, "resourceVersion": str(version),
        "generation": 1,
    }  # fmt: skip
    return {"metadata": metadata, "spec": SIM}


def pod(uid: str, **metadata: Any) -> dict[str, Any]:
    made = {
        "namespace": "team", "name": f"pod-{uid}", "uid": uid,
        **owned("m", "m"), **metadata,
    }  # fmt: skip
    state = {"name": "engine", "restartCount": 0, "state": {"running": {}}}
    return {"metadata": made, "status": {"podIP": "127.0.0.1", "containerStatuses": [state]}}


@pytest.fixture
def billing() -> Billing:
    return Billing()


@pytest.fixture
def fleet(billing: Billing) -> Fleet:
    refuses = httpx.MockTransport(lambda _: httpx.Response(503))
    site = Site(Api(), billing, SETTINGS, b"key", "")  # type: ignore[arg-type]
    return Fleet(site, httpx.AsyncClient(transport=refuses), set())


async def test_a_fault_in_one_decision_leaves_the_others(fleet: Fleet) -> None:
    for name in ("m", "n"):
        fleet.state.resource(resource(name, 1, name), deleted=False)
    fleet.leading = fleet.synced = True
    decided: list[str] = []

    def broken(*_: Any) -> None:
        raise ArithmeticError("as the test wants it")

    fleet.models["team/m"].evaluate = broken  # type: ignore[assignment, method-assign]
    good = fleet.models["team/n"]
    evaluate = good.evaluate
    good.evaluate = lambda *given: (decided.append("n"), evaluate(*given))[1]  # type: ignore[method-assign]
    held = [ModelDemand(deployment=f"team/{name}", held=1, held_since=1.0) for name in "mn"]
    fleet.heard("r", DemandLine(router="r", at=1.0, models=held))
    assert decided == ["n"]
    assert fleet.faults == 1
    assert "tidegate_operator_faults_total 1" in fleet.metrics()


async def test_another_of_the_same_name_has_no_past(fleet: Fleet) -> None:
    fleet.state.resource(resource("old", 1), deleted=False)
    first = fleet.models["team/m"]
    fleet.state.resource(resource("old", 2), deleted=False)
    assert fleet.models["team/m"] is first
    fleet.state.resource(resource("new", 3), deleted=False)
    assert fleet.models["team/m"] is not first
    fleet.state.resource(resource("old", 4), deleted=True)
    assert "team/m" in fleet.models


async def test_an_engine_is_told_of_once_though_its_resource_went_first(
    fleet: Fleet, billing: Billing
) -> None:
    fleet.leading = True
    fleet.state.resource(resource("u", 1), deleted=False)
    fleet.pod(pod("a"), deleted=False)
    fleet.state.resource(resource("u", 2), deleted=True)
    fleet.pod(pod("a", deletionTimestamp="2026-01-01T00:00:00Z"), deleted=False)
    fleet.pod(pod("a"), deleted=True)
    await asyncio.wait_for(billing.news.wait(), 10)
    assert [(one.epoch, one.state, one.model) for one in billing.counted] == [("a.0", "lost", "m")]
    assert not fleet._lives


async def test_a_follower_tells_nothing_and_keeps_nothing(fleet: Fleet, billing: Billing) -> None:
    fleet.state.resource(resource("u", 1), deleted=False)
    fleet.pod(pod("a"), deleted=False)
    fleet.pod(pod("a"), deleted=True)
    fleet.state.resource(resource("u", 2), deleted=True)
    await asyncio.sleep(0)
    assert not billing.counted
    assert not fleet._lives
    assert not fleet.models


async def test_a_link_whose_line_could_not_be_acted_on_is_made_anew() -> None:
    line = b'{"router":"r","at":1.0}\n'
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        await writer.drain()
        await reader.read()  # until the other end hangs up
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    heard: list[DemandLine] = []
    twice = asyncio.Event()

    def hear(told: DemandLine) -> None:
        heard.append(told)
        if len(heard) == 1:
            raise KeyError("a fault of ours")
        twice.set()

    task = asyncio.ensure_future(demand.follow(f"http://127.0.0.1:{port}", "t", hear))
    await asyncio.wait_for(twice.wait(), 10)
    assert asked == 2
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    server.close()
    await server.wait_closed()


async def test_a_link_that_breaks_for_good_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    again = asyncio.Event()

    async def follow(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ValueError("as the test wants it")
        again.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(demand, "follow", follow)
    routers = Routers(demand.Picture(), "t", lambda *_: None)
    endpoint = {"addresses": ["10.0.0.1"], "targetRef": {"name": "router-0"}}
    routers.slice({"metadata": {"name": "s"}, "endpoints": [endpoint]}, deleted=False)
    await asyncio.wait_for(again.wait(), 10)
    routers.close()
