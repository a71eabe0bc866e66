"""Stand-ins for router and billing, run as `python fake_part.py router|billing ...`.

They speak the links that `up` speaks and nothing else: the router holds what `PUT /test/demand`
tells it to hold, probes starting replicas and lets go of what it holds when one is ready.
"""

import argparse
import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tidegate_billing.links import ModelPricing, PricedModel
from tidegate_runtime.contract.links import (
    DemandLine,
    ModelDemand,
    ReplicaDemand,
    WorldLine,
)


async def ok(_: Request) -> Response:
    return PlainTextResponse("ok\n")


class Router:
    def __init__(self, name: str, world_url: str, token: str) -> None:
        self.name, self.world_url = name, world_url
        self.auth = {"authorization": f"Bearer {token}"}
        self.demand: dict[str, ModelDemand] = {}
        self.replicas: dict[str, ReplicaDemand] = {}
        self.world = WorldLine(type="world", version=0)
        self.failures: list[dict[str, Any]] = []
        self.stubborn = False
        self.moved = asyncio.Event()
        self.probes: dict[str, asyncio.Task[None]] = {}
        self.http = httpx.AsyncClient(timeout=5.0, trust_env=False)

    def move(self) -> None:
        self.moved.set()
        self.moved = asyncio.Event()

    async def follow(self) -> None:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                url = f"{self.world_url}/internal/world"
                async with self.http.stream("GET", url, headers=self.auth, timeout=8) as answer:
                    async for line in answer.aiter_lines():
                        self.take(msgspec.json.decode(line, type=WorldLine))
            await asyncio.sleep(0.05)

    def take(self, line: WorldLine) -> None:
        if line.type == "beat":
            return
        self.world = line
        known = {one.id: one for one in line.replicas}
        self.replicas = {key: one for key, one in self.replicas.items() if key in known}
        for one in line.replicas:
            said = self.replicas.get(one.id, ReplicaDemand(id=one.id))
            said = msgspec.structs.replace(
                said, excluded=one.state == "draining" and not self.stubborn, mark=one.mark
            )
            self.replicas[one.id] = said
            if one.state == "starting" and one.id not in self.probes:
                self.probes[one.id] = asyncio.create_task(self.probe(one.id, one.url, one.guard))
            if one.state == "ready":
                self.release(one.deployment, one.id)
        for model in line.models:
            held = self.demand.get(model.deployment)
            if model.failure is not None and model.failure.final and held and held.held:
                self.failures.append(msgspec.to_builtins(model.failure))
                self.demand[model.deployment] = msgspec.structs.replace(
                    held, held=0, held_since=0.0
                )
        self.move()

    def release(self, deployment: str, replica: str) -> None:
        held = self.demand.get(deployment)
        if held is not None and held.held:
            self.demand[deployment] = msgspec.structs.replace(held, held=0, held_since=0.0)
            self.replicas[replica] = msgspec.structs.replace(
                self.replicas[replica], first_forward=time.time()
            )

    async def probe(self, replica: str, url: str, guard: str) -> None:
        while replica in self.replicas:
            with contextlib.suppress(httpx.HTTPError):
                answer = await self.http.get(
                    f"{url}/metrics", headers={"authorization": f"Bearer {guard}"}
                )
                if answer.status_code == 200 and replica in self.replicas:
                    self.replicas[replica] = msgspec.structs.replace(
                        self.replicas[replica], answered_at=time.time()
                    )
                    self.move()
                    return
            await asyncio.sleep(0.05)

    async def lines(self) -> AsyncIterator[bytes]:
        while True:
            moved = self.moved
            line = DemandLine(
                router=self.name,
                at=time.time(),
                models=list(self.demand.values()),
                replicas=list(self.replicas.values()),
            )
            yield msgspec.json.encode(line) + b"\n"
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(moved.wait(), 1.0)

    def app(self) -> Starlette:
        async def demand(_: Request) -> Response:
            return StreamingResponse(self.lines(), media_type="application/x-ndjson")

        async def tell(request: Request) -> Response:
            said = msgspec.json.decode(await request.body(), type=ModelDemand)
            self.demand[said.deployment] = said
            self.move()
            return PlainTextResponse("ok\n")

        async def stubborn(request: Request) -> Response:
            self.stubborn = await request.json()
            self.take(self.world)
            return PlainTextResponse("ok\n")

        async def state(_: Request) -> Response:
            return JSONResponse(
                {
                    "failures": self.failures,
                    "world": msgspec.to_builtins(self.world),
                    "demand": msgspec.to_builtins(list(self.demand.values())),
                }
            )

        return Starlette(
            routes=[
                Route("/readyz", ok),
                Route("/internal/demand", demand),
                Route("/test/demand", tell, methods=["PUT"]),
                Route("/test/stubborn", stubborn, methods=["PUT"]),
                Route("/test/state", state),
            ]
        )


class Billing:
    def __init__(self) -> None:
        self.counters: list[Any] = []
        self.models: list[Any] = []
        self.stretches: list[Any] = []

    def app(self) -> Starlette:
        async def key(_: Request) -> Response:
            return JSONResponse({"id": "k1", "key": "sk-test"}, 201)

        async def price(request: Request) -> Response:
            models = msgspec.json.decode(await request.body(), type=list[ModelPricing])
            self.models = [msgspec.to_builtins(one) for one in models]
            answer = [
                PricedModel(
                    deployment=one.deployment, priced=one.pricing is not None, price_version=1
                )
                for one in models
            ]
            return Response(msgspec.json.encode(answer), media_type="application/json")

        async def count(request: Request) -> Response:
            self.counters += await request.json()
            return JSONResponse({})

        async def live(request: Request) -> Response:
            told = await request.json()
            self.stretches += told
            counted = [
                {"deployment": one["deployment"], "epoch": one["epoch"], "until": one["end"]}
                for one in told
            ]
            return JSONResponse(counted)

        async def state(_: Request) -> Response:
            seen = {"counters": self.counters, "models": self.models}
            return JSONResponse(seen | {"stretches": self.stretches})

        return Starlette(
            routes=[
                Route("/readyz", ok),
                Route("/api/v1/keys", key, methods=["POST"]),
                Route("/internal/models", price, methods=["PUT"]),
                Route("/internal/counters", count, methods=["POST"]),
                Route("/internal/replicas", live, methods=["POST"]),
                Route("/test/state", state),
            ]
        )


async def serve(apps: list[tuple[Starlette, int]], *beside: Any) -> None:
    servers = []
    for app, fd in apps:
        config = uvicorn.Config(
            app, lifespan="off", log_level="warning", timeout_graceful_shutdown=1
        )
        servers.append((uvicorn.Server(config), socket.socket(fileno=fd)))
    tasks = [asyncio.create_task(one) for one in beside]
    await asyncio.gather(*(server.serve(sockets=[bound]) for server, bound in servers))
    for task in tasks:
        task.cancel()


def main() -> None:
    import os

    parser = argparse.ArgumentParser()
    parser.add_argument("kind")
    parser.add_argument("--name", default="")
    parser.add_argument("--world-url", default="")
    parser.add_argument("--listen-fd", type=int, required=True)
    parser.add_argument("--ops-fd", type=int, required=True)
    options, _ = parser.parse_known_args()

    async def run() -> None:
        if options.kind == "billing":
            app = Billing().app()
            await serve([(app, options.listen_fd), (app, options.ops_fd)])
        else:
            router = Router(options.name, options.world_url, os.environ["TIDEGATE_INTERNAL_TOKEN"])
            app = router.app()
            await serve([(app, options.listen_fd), (app, options.ops_fd)], router.follow())

    asyncio.run(run())


if __name__ == "__main__":
    main()
