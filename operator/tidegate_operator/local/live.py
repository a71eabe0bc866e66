"""What people watch of a running platform, and the two things they can ask of a model.

Rates are what engines' own counters grew by between two looks. Nobody looks, nothing is read: an
idle platform pays nothing for it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tidegate_operator.local import counters, wish
from tidegate_operator.local.model import Model
from tidegate_operator.local.site import Site

NEAREST, FARTHEST = 0.4, 5.0
"""Seconds between two readings that make a rate."""

Handler = Callable[[Request], Awaitable[Response]]
Guard = Callable[[Handler], Handler]


class Reading(NamedTuple):
    """One engine's counters at a moment, seconds since the epoch."""

    at: float
    prompt: int
    generated: int


class Rate(NamedTuple):
    """Tokens per second, in and out."""

    prompt: float
    generated: float


class Watched(Protocol):
    """What is watched."""

    @property
    def site(self) -> Site:
        """Its surroundings."""

    @property
    def models(self) -> Mapping[str, Model]:
        """The models, by deployment."""

    def rows(self) -> list[dict[str, Any]]:
        """One row per model."""


def rate(before: Reading | None, after: Reading) -> Rate:
    """What a counter grew by a second; nothing where it is new or went back."""
    if before is None or after.at <= before.at:
        return Rate(0.0, 0.0)
    seconds = after.at - before.at
    prompt = max(0, after.prompt - before.prompt)
    return Rate(prompt / seconds, max(0, after.generated - before.generated) / seconds)


def usable(readings: Mapping[str, Reading], now: float) -> bool:
    """Whether a rate can be made from these and one of now."""
    return bool(readings) and all(NEAREST <= now - one.at <= FARTHEST for one in readings.values())


class Live:
    """The view of one platform. Looks of several watchers share their readings."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._last: dict[str, Reading] = {}
        self._rates: dict[str, Rate] = {}

    async def status(self) -> list[dict[str, Any]]:
        """One row per model: as `models` tells it, with tokens per second and a start under way."""
        await self._look()
        models = self._watched.models
        return [row | self._more(models[row["deployment"]]) for row in self._watched.rows()]

    async def _look(self) -> None:
        now = time.time()
        if any(now - one.at < NEAREST for one in self._last.values()):
            return  # somebody else has just looked
        if not usable(self._last, now):
            self._last = await self._read()
            if self._last:
                await asyncio.sleep(NEAREST)
        before, after = self._last, await self._read()
        self._rates = {epoch: rate(before.get(epoch), one) for epoch, one in after.items()}
        self._last = after

    async def _read(self) -> dict[str, Reading]:
        site = self._watched.site
        runs = [
            run
            for model in self._watched.models.values()
            for run in model.runs.values()
            if run.answered_at
        ]
        found = await asyncio.gather(
            *(_reading(site.http, run.view.url, run.view.guard) for run in runs)
        )
        return {run.id: one for run, one in zip(runs, found, strict=True) if one is not None}

    def _more(self, model: Model) -> dict[str, Any]:
        rates = [self._rates[run] for run in model.runs if run in self._rates]
        starting = [run for run in model.runs.values() if run.state == "starting"]
        start = None
        if starting:
            run = starting[-1]
            seconds = round(time.time() - run.exec_at, 3)
            start = {"replica": run.id, "seconds": seconds, "phases": run.phase_seconds()}
        return {
            "input_per_second": round(sum(one.prompt for one in rates), 1),
            "output_per_second": round(sum(one.generated for one in rates), 1),
            "draining": len(model.runs) - len(model.active()),
            "start": start,
        }


async def _reading(http: httpx.AsyncClient, url: str, guard: str) -> Reading | None:
    tokens = await counters.read_metrics(http, url, guard)
    return None if tokens is None else Reading(time.time(), tokens.prompt, tokens.generated)


def find(models: Iterable[Model], name: str) -> Model:
    """The model of that name or deployment. Raises KeyError, its words name those there are."""
    known = list(models)
    for one in known:
        if name == one.deployment or (name == one.view.name and one.view.valid):
            return one
    names = ", ".join(sorted(one.view.name for one in known)) or "none"
    raise KeyError(f"no model {name[:100]!r}; known: {names}")


def routes(watched: Watched, guard: Guard) -> list[Route]:
    """The routes of the view; `guard` lets in who carries the admin token."""
    live = Live(watched)

    async def status(_: Request) -> Response:
        return JSONResponse({"data": await live.status()})

    def asked(act: Callable[[Model, float], None]) -> Handler:
        async def handler(request: Request) -> Response:
            try:
                model = find(watched.models.values(), request.path_params["name"])
                act(model, time.time())
            except KeyError as error:
                return _refused(404, "model_not_found", str(error.args[0]))
            except wish.WishError as error:
                return _refused(409, "not_possible_now", str(error))
            row = next(r for r in watched.rows() if r["deployment"] == model.deployment)
            return JSONResponse(row)

        return handler

    one = "/api/v1/models/{name:path}"
    return [
        Route("/api/v1/status", guard(status)),
        Route(f"{one}/wake", guard(asked(wish.wake)), methods=["POST"]),
        Route(f"{one}/sleep", guard(asked(wish.sleep)), methods=["POST"]),
    ]


def _refused(status: int, code: str, message: str) -> Response:
    return JSONResponse({"error": {"code": code, "message": message}}, status)
