"""The operations port: liveness, readiness, metrics, and the operator's demand link."""

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator, Iterator
from typing import Final

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tidegate_runtime.contract.links import ModelView
from tidegate_runtime.gate import Gate

_BEAT: Final = 1.0
_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"


class Server(uvicorn.Server):
    """uvicorn inside our loop: signals are the process's own business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signal handlers alone."""
        yield


class Ops:
    """Routes of the operations port. `token` guards the demand link."""

    def __init__(self, gate: Gate, token: str) -> None:
        self._gate = gate
        self._token = token
        self._listeners: set[asyncio.Event] = set()
        self._closing = False

    def close(self) -> None:
        """End the demand links: a stream that ends by itself leaves no error behind."""
        self._closing = True
        for event in self._listeners:
            event.set()

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/livez", self._live),
                Route("/readyz", self._ready),
                Route("/metrics", self._metrics),
                Route("/internal/demand", self._demand),
            ]
        )

    async def spread(self) -> None:
        """Pass the gate's news on to every listener at once."""
        while True:
            await self._gate.news.wait()
            self._gate.news.clear()
            for event in self._listeners:
                event.set()

    async def _live(self, _: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _ready(self, _: Request) -> Response:
        gate = self._gate
        if gate.ending or gate.stopping:
            return PlainTextResponse("stopping\n", 503)
        if gate.meter.scarce or gate.meter.refusal:
            return PlainTextResponse("usage cannot be recorded\n", 503)
        if not gate.tenants.fresh(gate.loop.time()):
            return PlainTextResponse("no snapshot of tenants yet\n", 503)
        if not gate.pictured:
            return PlainTextResponse("no picture of the models yet\n", 503)
        return PlainTextResponse("ok\n")

    async def _metrics(self, _: Request) -> Response:
        return Response(metrics(self._gate), media_type=_TEXT)

    async def _demand(self, request: Request) -> Response:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not self._token or not hmac.compare_digest(given.encode(), self._token.encode()):
            return PlainTextResponse("the internal token is missing or wrong\n", 401)
        return StreamingResponse(self._lines(), media_type="application/x-ndjson")

    async def _lines(self) -> AsyncIterator[bytes]:
        event = asyncio.Event()
        self._listeners.add(event)
        try:
            while not self._closing:
                yield msgspec.json.encode(self._gate.demand()) + b"\n"
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_BEAT):
                        await event.wait()
                event.clear()
        finally:
            self._listeners.discard(event)


def _of(view: ModelView) -> str:
    """Labels of one deployment: two tenants' models may have one name."""
    return f'{{deployment="{view.deployment}",model="{view.name}"}}'


def metrics(gate: Gate) -> str:
    """Prometheus text of the gate's plain counters."""
    out = ["# TYPE tidegate_requests_total counter"]
    for (model, status), n in sorted(gate.requests.items()):
        out.append(f'tidegate_requests_total{{model="{model}",status="{status}"}} {n}')
    out.append("# TYPE tidegate_tokens_total counter")
    for (model, kind), n in sorted(gate.tokens.items()):
        out.append(f'tidegate_tokens_total{{model="{model}",kind="{kind}"}} {n}')
    out.append("# TYPE tidegate_in_flight gauge")
    states = list(gate.models.values())
    out += [f"tidegate_in_flight{_of(s.view)} {s.in_flight}" for s in states]
    out.append("# TYPE tidegate_held gauge")
    out += [f"tidegate_held{_of(s.view)} {len(s.queue)}" for s in states]
    out.append("# TYPE tidegate_journal_unacked gauge")
    out.append(f"tidegate_journal_unacked {gate.meter.journal.unacked}")
    out.append("# TYPE tidegate_connections gauge")
    out.append(f"tidegate_connections {len(gate.fronts)}")
    if gate.till is not None:
        out.append("# TYPE tidegate_lease_waiting gauge")
        out.append(f"tidegate_lease_waiting {gate.till.waiting}")
        out.append("# TYPE tidegate_lease_questions_total counter")
        out.append(f"tidegate_lease_questions_total {gate.till.questions}")
        out.append("# TYPE tidegate_lease_sessions_total counter")
        out.append(f"tidegate_lease_sessions_total {gate.till.session.begun}")
    return "\n".join(out) + "\n"
