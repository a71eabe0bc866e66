"""The operator's operations port in a cluster: probes, metrics, and what billing and tests ask."""

from typing import Any, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tidegate_billing.links import EngineCounters
from tidegate_operator.local.ops import guarded


class Source(Protocol):
    """What the port tells."""

    synced: bool

    async def counters(self) -> list[EngineCounters]:
        """Counters of running engines, read now."""

    def rows(self) -> list[dict[str, Any]]:
        """One row per model."""

    def starts(self) -> dict[str, Any]:
        """Scale writes and finished cold starts."""

    def metrics(self) -> str:
        """Prometheus text."""


def application(source: Source, *, internal: str) -> Starlette:
    """The port's routes; `/internal/*` wants the internal token."""

    async def livez(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        return PlainTextResponse(
            "ok\n" if source.synced else "waiting for the API server\n",
            200 if source.synced else 503,
        )

    async def metrics(_: Request) -> Response:
        return PlainTextResponse(source.metrics(), media_type="text/plain; version=0.0.4")

    async def counters(_: Request) -> Response:
        content = msgspec.json.encode(await source.counters())
        return Response(content, media_type="application/json")

    async def models(_: Request) -> Response:
        return JSONResponse({"data": source.rows()})

    async def starts(_: Request) -> Response:
        return JSONResponse(source.starts())

    return Starlette(
        routes=[
            Route("/livez", livez),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            Route("/internal/counters", guarded(internal, counters)),
            Route("/internal/models", guarded(internal, models)),
            Route("/internal/cold-starts", guarded(internal, starts)),
        ]
    )
