"""A router process on a (fake) API server: when it is ready, what it forgets, what it needs."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from fake_kube import FakeKube
from owned import owned
from tidegate_billing.links import SnapshotLine
from tidegate_runtime.kube import world
from tidegate_runtime.ops import Server
from tidegate_runtime.picture import Picture

ALL = (world.NAMESPACES, world.MODELS, world.PODS)


@contextlib.asynccontextmanager
async def billing() -> AsyncIterator[str]:
    """Nobody has a key; its URL."""
    over = asyncio.Event()

    async def lines() -> AsyncIterator[bytes]:
        yield msgspec.json.encode(SnapshotLine(type="snapshot", version=1)) + b"\n"
        await over.wait()

    async def snapshot(_: Request) -> Response:
        return StreamingResponse(lines())

    async def ack(_: Request) -> Response:
        return Response()

    routes = [
        Route("/internal/snapshot", snapshot),
        Route("/internal/snapshot/ack", ack, methods=["POST"]),
    ]
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        Starlette(routes=routes), log_config=None, lifespan="off", timeout_graceful_shutdown=1
    )
    server = Server(config)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        over.set()
        server.should_exit = True
        await task


class Router:
    """A router process."""

    def __init__(self, folder: Path, kubeconfig: str, billing_url: str) -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as free,
            socket.create_server(("127.0.0.1", 0)) as other,
        ):
            ports = free.getsockname()[1], other.getsockname()[1]
        self.port = ports[0]
        self.ops = f"http://127.0.0.1:{ports[1]}"
        self.data = folder / "router"
        self.environ = {
            "PATH": os.environ["PATH"],
            "KUBECONFIG": kubeconfig,
            "TIDEGATE_NAME": "router-0",
            "TIDEGATE_PORT": str(ports[0]),
            "TIDEGATE_OPS_PORT": str(ports[1]),
            "TIDEGATE_WORLD_URL": "kubernetes:",
            "TIDEGATE_BILLING_URL": billing_url,
            "TIDEGATE_DATA": str(self.data),
            "TIDEGATE_INTERNAL_TOKEN": "internal",
            "TIDEGATE_KEY_PEPPER": "1:a-pepper-that-is-long-enough-for-all",
            "TIDEGATE_GUARD_KEY": "platform-guard-key",
        }

    async def start(self) -> asyncio.subprocess.Process:
        """Start it."""
        return await asyncio.create_subprocess_exec(
            sys.executable, "-Im", "tidegate_runtime", env=self.environ,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    @contextlib.asynccontextmanager
    async def running(self, how: signal.Signals) -> AsyncIterator[httpx.AsyncClient]:
        """A life of it, ended by `how`; a client of its operations port."""
        process = await self.start()
        try:
            async with httpx.AsyncClient(base_url=self.ops, trust_env=False, timeout=5) as client:
                yield client
        finally:
            process.send_signal(how)
            _, said = await process.communicate()
        assert process.returncode == (0 if how == signal.SIGTERM else -how), said.decode()
        assert b"Traceback" not in said, said.decode()

    def picture(self) -> Picture | None:
        """What is on disk."""
        path = self.data / "picture-router-0.json"
        return msgspec.json.decode(path.read_bytes(), type=Picture) if path.exists() else None


async def until(look: Any, what: str) -> None:
    try:
        async with asyncio.timeout(60):
            while not (await look() if asyncio.iscoroutinefunction(look) else look()):
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"never came: {what}") from None


async def ready(client: httpx.AsyncClient) -> tuple[int, str]:
    with contextlib.suppress(httpx.TransportError):
        answer = await client.get("/readyz")
        return answer.status_code, answer.text.strip()
    return 0, ""


async def says(client: httpx.AsyncClient, status: int, text: str) -> None:
    async def look() -> bool:
        return await ready(client) == (status, text)

    await until(look, text)


def fill(kube: FakeKube) -> None:
    kube.store(world.NAMESPACES.path, {"metadata": {"name": "team"}})
    metadata = {"name": "m", "namespace": "team", "uid": "u-m"}
    kube.store(world.MODELS.path, {"metadata": metadata, "spec": {"model": {"uri": "sim://x"}}})
    metadata = {"name": "p", "namespace": "team", "uid": "u-p", **owned("m", "u-m")}
    kube.store(world.PODS.path, {"metadata": metadata, "status": {"podIP": "127.0.0.9"}})


async def test_ready_with_a_picture_and_a_restart_forgets_nothing(tmp_path: Path) -> None:
    async with billing() as url:
        async with FakeKube(tmp_path).running() as kube:
            router = Router(tmp_path, kube.kubeconfig, url)
            async with router.running(signal.SIGKILL) as client:
                await says(client, 503, "no picture of the models yet")
                fill(kube)
                await says(client, 200, "ok")

                def kept() -> bool:
                    known = router.picture()
                    return known is not None and known.world is not None

                await until(kept, "the picture on disk")
            known = router.picture()
            assert known is not None
            assert known.world is not None
            assert [r.url for r in known.world.replicas] == ["http://127.0.0.9:8000"]
            assert (router.data / "picture-router-0.json").stat().st_mode & 0o777 == 0o600

        async with router.running(signal.SIGTERM) as client:  # no API server at all
            await says(client, 200, "ok")
            assert (
                'tidegate_in_flight{deployment="team/m",model="m"}'
                in (await client.get("/metrics")).text
            )
        assert router.picture() is not None


async def test_one_that_leaves_answers_what_was_sent_before_it_knew(tmp_path: Path) -> None:
    """It stands still, gets a request, then the signal: as on a machine that is short of time."""
    async with billing() as url, FakeKube(tmp_path).running() as kube:
        fill(kube)
        router = Router(tmp_path, kube.kubeconfig, url)
        process = await router.start()
        try:
            async with httpx.AsyncClient(base_url=router.ops, trust_env=False) as client:
                await says(client, 200, "ok")
            process.send_signal(signal.SIGSTOP)
            reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
            writer.write(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n")
            await writer.drain()
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)
            assert (await reader.readline()).startswith(b"HTTP/1.1 401")
            writer.close()
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{router.port}", trust_env=False
            ) as late:
                assert (await late.get("/v1/models")).status_code == 401, "nodes hear late"
        finally:
            _, said = await process.communicate()
        assert process.returncode == 0, said.decode()


async def test_the_last_change_is_on_disk_after_an_orderly_end(tmp_path: Path) -> None:
    async with billing() as url, FakeKube(tmp_path).running() as kube:
        for source in ALL:
            kube.serve(source.path)
        router = Router(tmp_path, kube.kubeconfig, url)
        async with router.running(signal.SIGTERM) as client:
            await says(client, 200, "ok")
            fill(kube)

            async def knows() -> bool:
                return 'model="m"' in (await client.get("/metrics")).text

            await until(knows, "the model")
        known = router.picture()
        assert known is not None
        assert known.world is not None
        assert [m.deployment for m in known.world.models] == ["team/m"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"TIDEGATE_GUARD_KEY": ""}, "TIDEGATE_GUARD_KEY is not set; set it (or TIDEGATE_GUARD_KEY_FILE)"),
        ({"TIDEGATE_WORLD_URL": "k8s"}, "TIDEGATE_WORLD_URL='k8s' is not known; allowed: an http(s) URL, or `kubernetes:`"),
    ],
)  # fmt: skip
async def test_what_it_needs(tmp_path: Path, changed: dict[str, str], said: str) -> None:
    router = Router(tmp_path, "", "http://127.0.0.1:9")
    router.environ |= changed
    process = await router.start()
    _, stderr = await process.communicate()
    assert process.returncode == 1
    assert said in stderr.decode()
