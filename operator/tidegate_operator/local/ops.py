"""The operator's operations port: the world for routers, live counters for billing, and what the
command line asks of the control plane.

`/internal/*` wants the internal token and `/api/*` the admin token, both compared in constant
time. Nothing here decides anything.
"""

import contextlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Protocol

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tidegate_billing.links import EngineCounters
from tidegate_billing.process import KEEP_ALIVE_SECONDS
from tidegate_operator.local import live
from tidegate_operator.local.world import World


class Told(Protocol):
    """What an operator tells wherever it runs."""

    async def counters(self) -> list[EngineCounters]:
        """Counters of running engines, read now."""

    def rows(self) -> list[dict[str, Any]]:
        """One row per model."""

    def metrics(self) -> str:
        """Prometheus text."""


class Source(Told, live.Watched, Protocol):
    """What the port tells."""

    @property
    def world(self) -> World:
        """What routers see."""

    @property
    def ready(self) -> bool:
        """Whether the platform serves."""

    def cold_starts(self) -> list[dict[str, object]]:
        """One row per finished cold start, oldest first."""


Handler = Callable[[Request], Awaitable[Response]]


def basics(told: Told, missing: Callable[[], str], *, internal: str) -> list[Route]:
    """The routes of any operator: probes, metrics, live counters. `missing`: what it still waits
    for, in a few words; empty once it is ready."""

    async def livez(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        waiting = missing()
        return PlainTextResponse(f"{waiting or 'ok'}\n", 503 if waiting else 200)

    async def metrics(_: Request) -> Response:
        return PlainTextResponse(told.metrics(), media_type="text/plain; version=0.0.4")

    async def counters(_: Request) -> Response:
        content = msgspec.json.encode(await told.counters())
        return Response(content, media_type="application/json")

    return [
        Route("/livez", livez),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
        Route("/internal/counters", guarded(internal, counters)),
    ]


def models(told: Told) -> Handler:
    """One row per model."""

    async def rows(_: Request) -> Response:
        return JSONResponse({"data": told.rows()})

    return rows


def application(source: Source, *, internal: str, admin: str) -> Starlette:
    """The port's routes."""

    async def world(_: Request) -> Response:
        lines: AsyncIterator[bytes] = source.world.lines()
        return StreamingResponse(lines, media_type="application/x-ndjson")

    async def cold_starts(_: Request) -> Response:
        return JSONResponse({"data": source.cold_starts()})

    return Starlette(
        routes=[
            *basics(source, lambda: "" if source.ready else "starting", internal=internal),
            Route("/internal/world", guarded(internal, world)),
            Route("/api/v1/models", guarded(admin, models(source))),
            Route("/api/v1/cold-starts", guarded(admin, cold_starts)),
            *live.routes(source, lambda handler: guarded(admin, handler)),
        ]
    )


def guarded(token: str, handler: Handler) -> Handler:
    """`handler` for who carries the token; 401 for everybody else."""
    wanted = f"Bearer {token}".encode()

    async def checked(request: Request) -> Response:
        given = request.headers.get("authorization", "").encode("utf-8", "replace")
        if not hmac.compare_digest(given, wanted):
            return JSONResponse({"error": {"message": "wrong or missing token"}}, 401)
        return await handler(request)

    return checked


class Server(uvicorn.Server):
    """uvicorn inside a loop that is not its own: signals are `up`'s business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signal handlers alone."""
        yield


def server(app: Starlette) -> Server:
    """A server for `serve(sockets=[...])`; ended by setting `should_exit`."""
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=2,
    )
    return Server(config)
