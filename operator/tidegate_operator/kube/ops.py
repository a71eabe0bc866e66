"""The operator's operations port in a cluster: probes, metrics, and what billing and tests ask."""

from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tidegate_operator.local.ops import Told, basics, guarded, models


class Source(Told, Protocol):
    """What the port tells."""

    synced: bool

    def starts(self) -> dict[str, Any]:
        """Scale writes and finished cold starts."""


def application(source: Source, *, internal: str) -> Starlette:
    """The port's routes; `/internal/*` wants the internal token."""

    async def starts(_: Request) -> Response:
        return JSONResponse(source.starts())

    def missing() -> str:
        return "" if source.synced else "waiting for the API server"

    return Starlette(
        routes=[
            *basics(source, missing, internal=internal),
            Route("/internal/models", guarded(internal, models(source))),
            Route("/internal/cold-starts", guarded(internal, starts)),
        ]
    )
