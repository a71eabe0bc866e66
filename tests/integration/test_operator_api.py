"""The operator's process against a small API server: faults that a real one has only rarely."""

import asyncio
import contextlib
import datetime as dt
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import uvicorn
from kubernetes import aio as kubernetes
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fake_api import DEPLOYMENTS, LEASES, MODELS, SLICES, FakeApi
from owned import owned
from planning import PLATFORM, SIM
from tidegate_billing import replicas
from tidegate_billing.links import ReplicaCounted, ReplicaTime
from tidegate_operator.kube.api import Api
from tidegate_operator.kube.lease import Election
from tidegate_runtime.ops import Server

DEADLINE = 30.0


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


class Operator:
    """One operator process."""

    def __init__(
        self, kube: FakeApi, folder: Path, name: str = "op-0", billing: str = "http://127.0.0.1:9"
    ) -> None:
        self._kube, self._folder, self._name, self._billing = kube, folder, name, billing
        self.port = free_port()
        self._process: asyncio.subprocess.Process | None = None
        self.log = folder / f"{name}.log"

    async def start(self) -> "Operator":
        """Start it, without waiting for anything."""
        (self._folder / "platform.yaml").write_text(PLATFORM)
        environ = {
            "PATH": os.environ["PATH"], "KUBECONFIG": self._kube.kubeconfig,
            "TIDEGATE_NAME": self._name, "TIDEGATE_NAMESPACE": "system",
            "TIDEGATE_OPS_PORT": str(self.port), "TIDEGATE_BILLING_URL": self._billing,
            "TIDEGATE_INTERNAL_TOKEN": "internal", "TIDEGATE_GUARD_KEY": "guard",
            "TIDEGATE_PLATFORM": str(self._folder / "platform.yaml"),
        }  # fmt: skip
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tidegate_operator.kube", env=environ, stderr=log
            )
        return self

    async def kill(self) -> None:
        """kill -9."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def stop(self) -> int:
        """SIGTERM; its exit code."""
        assert self._process
        self._process.terminate()
        return await asyncio.wait_for(self._process.wait(), 15)

    async def metric(self, name: str) -> float:
        """A number of its metrics; -1 where it does not answer."""
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
                text = (await client.get(f"http://127.0.0.1:{self.port}/metrics")).text
        except httpx.HTTPError:
            return -1.0
        found = [line.split()[-1] for line in text.splitlines() if line.startswith(f"{name} ")]
        return float(found[0]) if found else -1.0

    async def leads(self) -> None:
        """Wait until it leads."""
        for _ in range(int(DEADLINE / 0.05)):
            if await self.metric("tidegate_operator_leading") == 1:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"never led: {self.log.read_text()[-3000:]}")

    async def knows(self, resources: int) -> None:
        """Wait until it knows so many resources."""
        for _ in range(int(DEADLINE / 0.05)):
            if await self.metric("tidegate_operator_resources") == resources:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"never knew {resources}: {self.log.read_text()[-3000:]}")


@pytest.fixture
async def kube(tmp_path: Path) -> AsyncIterator[FakeApi]:
    async with FakeApi(tmp_path).running() as running:
        yield running  # type: ignore[misc]


@pytest.fixture
async def operator(kube: FakeApi, tmp_path: Path) -> AsyncIterator[Operator]:
    made = Operator(kube, tmp_path)
    yield made
    await made.kill()


def resource(name: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "team", "uid": f"uid-{name}", "generation": 1}
    return {
        "apiVersion": "tidegate.dev/v1alpha1", "kind": "ModelDeployment",
        "metadata": metadata, "spec": {**SIM, **spec},
    }  # fmt: skip


async def until(look: Callable[[], Any], what: str, log: Path | None = None) -> Any:
    for _ in range(int(DEADLINE / 0.02)):
        if found := look():
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"never came: {what}\n{log.read_text()[-3000:] if log else ''}")


def phase(kube: FakeApi, name: str) -> str:
    return ((kube.find(MODELS, name) or {}).get("status") or {}).get("phase", "")


async def idle(kube: FakeApi, operator: Operator, name: str) -> None:
    await until(lambda: phase(kube, name) == "Idle", f"{name} idle", operator.log)


async def test_it_waits_for_the_definition(kube: FakeApi, operator: Operator) -> None:
    await operator.start()
    await operator.leads()
    assert await operator.metric("tidegate_operator_resources") == 0
    kube.define()
    kube.store(MODELS, resource("m"))
    await idle(kube, operator, "m")
    assert kube.find(DEPLOYMENTS, "mdep-m")
    assert await operator.stop() == 0


@pytest.mark.parametrize("code", [410, 500])
async def test_an_error_in_every_watch(kube: FakeApi, operator: Operator, code: int) -> None:
    """What went while the watch was broken is forgotten, what came is known; no restart."""
    kube.define()
    kube.store(MODELS, resource("goes"))
    kube.store(MODELS, resource("stays"))
    await operator.start()
    await idle(kube, operator, "goes")
    await idle(kube, operator, "stays")
    kube.tokens.clear()
    kube.remove(MODELS, "goes", "team")
    kube.store(MODELS, resource("comes"))
    kube.forget_history()
    said = {"type": "ERROR", "object": {"kind": "Status", "code": code, "message": "expired"}}
    kube.tokens.add("first")
    kube.say(json.dumps(said).encode() + b"\n")
    await idle(kube, operator, "comes")
    await operator.knows(2)
    await operator.leads()
    assert await operator.stop() == 0


async def test_conflicts_are_tried_again(kube: FakeApi, operator: Operator) -> None:
    kube.define()
    kube.store(MODELS, resource("m"))
    kube.conflicts = 6
    await operator.start()
    await idle(kube, operator, "m")
    assert kube.conflicts == 0


async def test_another_takes_over_after_a_kill_and_only_one_writes(
    kube: FakeApi, operator: Operator, tmp_path: Path
) -> None:
    kube.define()
    kube.store(MODELS, resource("first"))
    await operator.start()
    await idle(kube, operator, "first")
    other = await Operator(kube, tmp_path, "op-1").start()
    try:
        await other.knows(1)
        assert await other.metric("tidegate_operator_leading") == 0
        assert await other.metric("tidegate_operator_api_calls_total") > 0
        await operator.kill()
        killed = asyncio.get_running_loop().time()
        kube.store(MODELS, resource("second"))
        await idle(kube, other, "second")
        assert asyncio.get_running_loop().time() - killed < 6
        lease = kube.find(LEASES, "tidegate-operator", "system")
        assert lease
        assert lease["spec"]["holderIdentity"] == "op-1"
        assert lease["spec"]["leaseTransitions"] == 2
        await other.stop()
        lease = kube.find(LEASES, "tidegate-operator", "system")
        assert lease
        assert not lease["spec"]["holderIdentity"], "given back"
    finally:
        await other.kill()


async def test_an_unchanged_world_costs_no_write(kube: FakeApi, operator: Operator) -> None:
    kube.define()
    kube.store(MODELS, resource("m"))
    await operator.start()
    await idle(kube, operator, "m")
    # Another event of the resource, and a list after an outage, are looked at and change nothing.
    await until(lambda: kube.watches > 5, "watches")
    before = [write for write in kube.writes if "leases" not in write[1]]
    kube.cut()
    kube.store(MODELS, {**resource("n"), "spec": {**SIM, "suspend": True}})
    await until(lambda: phase(kube, "n") == "Suspended", "the other one", operator.log)
    after = [write for write in kube.writes if "leases" not in write[1]]
    new = after[len(before) :]
    assert not [path for _, path in new if path.endswith(("/m", "/m/status", "mdep-m"))], new


async def test_a_running_model_is_adopted_after_a_kill(
    kube: FakeApi, operator: Operator, tmp_path: Path
) -> None:
    """Nothing is scaled down for not being known yet: neither the demand nor the tenant's rights."""
    kube.define()
    kube.store(MODELS, resource("m", scaling={"idleSeconds": 600}))
    await operator.start()
    await idle(kube, operator, "m")
    await operator.kill()
    running = kube.find(DEPLOYMENTS, "mdep-m")
    assert running
    kube.store(DEPLOYMENTS, {**running, "spec": {**running["spec"], "replicas": 1}})
    kube.store("/api/v1/pods", engine("m"))
    kube.store(SLICES, {"metadata": {"name": "r", "namespace": "system"}, "endpoints": []})
    again = await Operator(kube, tmp_path, "op-2").start()
    try:
        await until(lambda: phase(kube, "m") == "Ready", "ready", again.log)
        writes = [path for _, path in kube.writes if path.endswith("/scale")]
        assert not writes
        pod = kube.find("/api/v1/pods", "engine-m")
        assert pod
        assert "tidegate.dev/draining" not in pod["metadata"].get("annotations", {})
    finally:
        await again.kill()


def engine(name: str) -> dict[str, Any]:
    """A pod whose engine has answered."""
    metadata = {
        "name": f"engine-{name}", "namespace": "team", "uid": f"pod-{name}",
        **owned(name, f"uid-{name}"), "creationTimestamp": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    condition = {"type": "tidegate.dev/answered", "status": "True", "message": f"pod-{name}.0"}
    state = {"name": "engine", "restartCount": 0, "state": {"running": {}}}
    status = {"podIP": "127.0.0.1", "conditions": [condition], "containerStatuses": [state]}
    return {"kind": "Pod", "metadata": metadata, "status": status}


class Ledger:
    """Billing, as far as it counts replicas: a life's time is taken once, from its mark on."""

    def __init__(self) -> None:
        self.taken: list[ReplicaTime] = []
        self.reports = 0

    def until(self) -> int:
        """The mark."""
        return max((one.end for one in self.taken), default=0)

    async def answer(self, request: Request) -> Response:
        """A report."""
        told = msgspec.json.decode(await request.body(), type=list[ReplicaTime])
        self.reports += 1
        for one in told:
            assert replicas.problem(one) is None
            if one.begin >= self.until():
                self.taken.append(one)
        counted = ReplicaCounted(
            deployment=told[0].deployment, epoch=told[0].epoch, until=self.until()
        )
        return Response(msgspec.json.encode([counted]), media_type="application/json")

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Serve; the URL."""
        bound = socket.create_server(("127.0.0.1", 0))
        routes = [Route("/internal/replicas", self.answer, methods=["POST"])]
        server = Server(uvicorn.Config(Starlette(routes=routes), log_config=None, lifespan="off"))
        task = asyncio.create_task(server.serve(sockets=[bound]))
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


def lived(ago: float, answer: float) -> dict[str, Any]:
    """A pod that was placed and has answered so many seconds ago."""
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    placed, answered = ((now - dt.timedelta(seconds=x)).isoformat() for x in (ago, answer))
    pod = engine("m")
    (condition,) = pod["status"]["conditions"]
    pod["status"]["conditions"] = [
        condition | {"lastTransitionTime": answered},
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": placed},
    ]
    return pod


async def test_a_pods_life_is_told_once_by_whoever_leads(kube: FakeApi, tmp_path: Path) -> None:
    kube.define()
    kube.store(MODELS, resource("m", scaling={"idleSeconds": 600}))
    ledger = Ledger()
    async with ledger.serving() as url:
        first = await Operator(kube, tmp_path, "op-0", url).start()
        await idle(kube, first, "m")
        running = kube.find(DEPLOYMENTS, "mdep-m")
        assert running
        kube.store(DEPLOYMENTS, {**running, "spec": {**running["spec"], "replicas": 1}})
        kube.store("/api/v1/pods", lived(200, 170))
        kube.store(SLICES, {"metadata": {"name": "r", "namespace": "system"}, "endpoints": []})
        await until(lambda: len(ledger.taken) >= 3, "told by the first", first.log)
        await first.kill()
        second = await Operator(kube, tmp_path, "op-1", url).start()
        try:
            reports = ledger.reports
            await until(lambda: ledger.reports > reports, "told by the second", second.log)
            kube.remove("/api/v1/pods", "engine-m", "team")
            gone = time.time()
            await until(lambda: ledger.until() >= gone * 1000, "the end", second.log)
        finally:
            await second.kill()
    told = ledger.taken
    assert [one.begin for one in told[1:]] == [one.end for one in told[:-1]]
    assert sum(one.cold_start for one in told) == 30_000
    assert sum(one.idle_tail for one in told) == told[-1].end - told[0].begin - 30_000
    assert {(one.epoch, one.model, one.owner) for one in told} == {("pod-m.0", "m", "team")}


async def test_two_that_take_the_same_lease(kube: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write on an old version is refused with 409, so that one of the two follows."""
    leading: dict[str, bool] = {}
    apis = [Api(await kubernetes.config.new_client_from_config(kube.kubeconfig)) for _ in range(2)]
    tasks = [
        asyncio.create_task(
            Election(api, "system", name, lambda on, name=name: leading.__setitem__(name, on)).run()
        )
        for api, name in zip(apis, "ab", strict=True)
    ]
    await until(lambda: any(leading.values()), "a leader")
    for _ in range(20):
        assert sum(leading.values()) == 1
        await asyncio.sleep(0.05)
    (first,) = [name for name, on in leading.items() if on]
    tasks["ab".index(first)].cancel()
    other = "ba"["ab".index(first)]
    await until(lambda: leading.get(other), "the other one")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for api in apis:
        await api.close()
