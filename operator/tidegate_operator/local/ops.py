"""The operator's operations port: the world for routers, live counters for billing, and what the
command line asks of the control plane.

`/internal/*` wants the internal token and `/api/*` the admin token, both compared in constant
time. Nothing here decides anything.
"""

import contextlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Protocol

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tidegate_billing.links import EngineCounters
from tidegate_operator.local.world import World


class Source(Protocol):
    """What the port tells."""

    @property
    def world(self) -> World:
        """What routers see."""

    @property
    def ready(self) -> bool:
        """Whether the platform serves."""

    async def counters(self) -> list[EngineCounters]:
        """Counters of running engines, read now."""

    def rows(self) -> list[dict[str, object]]:
        """One row per model."""

    def cold_starts(self) -> list[dict[str, object]]:
        """One row per finished cold start, oldest first."""

    def metrics(self) -> str:
        """Prometheus text."""


Handler = Callable[[Request], Awaitable[Response]]


def application(source: Source, *, internal: str, admin: str) -> Starlette:
    """The port's routes."""

    async def livez(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        return PlainTextResponse(
            "ok\n" if source.ready else "starting\n", 200 if source.ready else 503
        )

    async def metrics(_: Request) -> Response:
        return PlainTextResponse(source.metrics(), media_type="text/plain; version=0.0.4")

    async def world(_: Request) -> Response:
        lines: AsyncIterator[bytes] = source.world.lines()
        return StreamingResponse(lines, media_type="application/x-ndjson")

    async def counters(_: Request) -> Response:
        content = msgspec.json.encode(await source.counters())
        return Response(content, media_type="application/json")

    async def models(_: Request) -> Response:
        return JSONResponse({"data": source.rows()})

    async def cold_starts(_: Request) -> Response:
        return JSONResponse({"data": source.cold_starts()})

    return Starlette(
        routes=[
            Route("/livez", livez),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            Route("/internal/world", guarded(internal, world)),
            Route("/internal/counters", guarded(internal, counters)),
            Route("/api/v1/models", guarded(admin, models)),
            Route("/api/v1/cold-starts", guarded(admin, cold_starts)),
        ]
    )


def guarded(token: str, handler: Handler) -> Handler:
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
        timeout_graceful_shutdown=2,
    )
    return Server(config)
