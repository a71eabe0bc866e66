"""The load: callers in a pod of the cluster, each as a tenant's program is, and what they saw.

It runs in the shipped image and needs nothing but what is in it. A *caller* asks, reads the answer to
its end, and asks again, on a connection that is kept alive as SDKs keep theirs; nothing is ever asked
twice (no retries), so whatever goes wrong is seen. How many callers there are is told from outside:

    PUT  /load        {"streams": 30, "plain": 10}: so many callers of each kind from now on
    GET  /state       {"flowing": n, "asked": n, "failed": n, "broken": n, "callers": n}
    GET  /transcript  every request as its caller saw it, one JSON object a line

A caller that is no longer wanted ends after its request. What it asks is drawn from the seed and the
caller's number. The sim engine answers ` t0 t1 t2 ...`, so an answer is compared word by word: a
token that is lost, doubled or out of order is a failure, whatever the status says.

A request *failed* where its caller sees an error or less than all of the answer; it *broke off* where
a stream that had begun was ended by an error event in it, which says so honestly.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

LONGEST_SECONDS = 900.0
EVENT = "data: "
DONE = "data: [DONE]"


def expected(tokens: int) -> str:
    """What the sim engine answers."""
    return "".join(f" t{number}" for number in range(tokens))


class Failed(Exception):
    """What a caller saw instead of an answer. `in_band`: told in a stream that had begun."""

    def __init__(self, error: str, *, in_band: bool = False) -> None:
        super().__init__(error)
        self.in_band = in_band


class Answer:
    """An answer as it comes in. Times are seconds since the epoch; `gap` is the longest silence
    between two pieces of it, heartbeats apart."""

    def __init__(self) -> None:
        self.status, self.request_id = 0, ""
        self.first = self.last = self.gap = 0.0
        self.words: list[str] = []

    def take(self, text: str) -> None:
        """A piece of the answer has come."""
        now = time.time()
        if self.first:
            self.gap = max(self.gap, now - self.last)
        else:
            self.first = now
        self.last = now
        self.words.append(text)

    @property
    def received(self) -> int:
        """Tokens that have come."""
        return len("".join(self.words).split())


class Callers:
    """All callers and what they saw."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.wanted = {"streams": 0, "plain": 0}
        self.records: list[dict[str, Any]] = []
        self.under_way: set[Answer] = set()
        self._running: dict[tuple[str, int], asyncio.Task[None]] = {}

    def want(self, wanted: dict[str, int]) -> None:
        """So many callers of each kind from now on."""
        self.wanted.update(wanted)
        for kind, count in self.wanted.items():
            for number in range(count):
                known = self._running.get((kind, number))
                if known is None or known.done():
                    task = asyncio.ensure_future(self._call(kind, number))
                    self._running[kind, number] = task

    @property
    def alive(self) -> int:
        """Callers at work."""
        return sum(not task.done() for task in self._running.values())

    async def _call(self, kind: str, number: int) -> None:
        chance = random.Random(f"{self.plan['seed']}/{kind}/{number}")
        tenant = sorted(self.plan["keys"])[number % len(self.plan["keys"])]
        headers = {"authorization": f"Bearer {self.plan['keys'][tenant]}"}
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        async with httpx.AsyncClient(
            base_url=self.plan["gateway"], headers=headers, timeout=LONGEST_SECONDS,
            trust_env=False, limits=limits,
        ) as client:  # fmt: skip
            while number < self.wanted[kind]:
                await self._once(client, kind, tenant, chance)
                await asyncio.sleep(chance.uniform(0.0, self.plan["think_seconds"][kind]))

    async def _once(
        self, client: httpx.AsyncClient, kind: str, tenant: str, chance: random.Random
    ) -> None:
        stream = kind == "streams"
        tokens = chance.randint(*self.plan["stream_tokens" if stream else "plain_tokens"])
        words = chance.randint(1, 12)
        body = {
            "model": chance.choice(self.plan["models"]), "max_tokens": tokens, "stream": stream,
            "messages": [{"role": "user", "content": " ".join(["word"] * words)}],
        }  # fmt: skip
        answer, sent = Answer(), time.time()
        self.under_way.add(answer)
        error, in_band = "", False
        try:
            await (self._streamed if stream else self._whole)(client, body, answer)
            if "".join(answer.words) != expected(tokens):
                error = f"the answer is not what was asked for: {answer.received} of {tokens}"
        except Failed as failed:
            error, in_band = str(failed), failed.in_band
        except (httpx.HTTPError, ValueError, KeyError, IndexError) as fault:
            error = f"{type(fault).__name__}: {fault}"
        finally:
            self.under_way.discard(answer)
        self.records.append(
            {
                "tenant": tenant, "model": body["model"], "stream": stream, "prompt": words,
                "tokens": tokens, "received": answer.received, "status": answer.status,
                "request_id": answer.request_id, "sent": sent, "first": answer.first,
                "last": answer.last, "done": time.time(), "gap": answer.gap, "error": error,
                "in_band": in_band,
            }
        )  # fmt: skip

    @staticmethod
    async def _whole(client: httpx.AsyncClient, body: dict[str, Any], answer: Answer) -> None:
        got = await client.post("/v1/chat/completions", json=body)
        answer.status = got.status_code
        answer.request_id = got.headers.get("x-request-id", "")
        if got.status_code != 200:
            raise Failed(f"{got.status_code} {got.text[:500]}")
        answer.take(got.json()["choices"][0]["message"]["content"])

    @staticmethod
    async def _streamed(client: httpx.AsyncClient, body: dict[str, Any], answer: Answer) -> None:
        async with client.stream("POST", "/v1/chat/completions", json=body) as got:
            answer.status = got.status_code
            answer.request_id = got.headers.get("x-request-id", "")
            if got.status_code != 200:
                raise Failed(f"{got.status_code} {(await got.aread()).decode()[:500]}")
            ended = False
            async for line in got.aiter_lines():
                ended = ended or line == DONE
                if line.startswith(EVENT) and line != DONE:
                    for text in _texts(json.loads(line.removeprefix(EVENT))):
                        answer.take(text)
            if not ended:
                raise Failed("the stream ended without [DONE]")


def _texts(event: dict[str, Any]) -> Iterator[str]:
    if "error" in event:
        raise Failed(json.dumps(event["error"])[:500], in_band=True)
    for choice in event["choices"]:
        text = choice["delta"].get("content")
        if text:
            yield text


def application(callers: Callers) -> Starlette:
    """What the load is told by, and tells."""

    async def load(request: Request) -> Response:
        callers.want(await request.json())
        return JSONResponse(callers.wanted)

    async def state(_: Request) -> Response:
        broken = sum(one["in_band"] for one in callers.records)
        failed = sum(bool(one["error"]) for one in callers.records) - broken
        return JSONResponse(
            {
                "flowing": sum(one.first > 0 for one in callers.under_way), "asked": len(callers.records), "failed": failed,
                "broken": broken, "callers": callers.alive,
            }
        )  # fmt: skip

    async def transcript(_: Request) -> Response:
        lines = [json.dumps(one) for one in callers.records]
        return PlainTextResponse("\n".join([*lines, ""]))

    return Starlette(
        routes=[
            Route("/load", load, methods=["PUT"]),
            Route("/state", state),
            Route("/transcript", transcript),
        ]
    )


def main(plan: str) -> None:
    """Serve until ended. `plan`: the path of the JSON file with gateway, keys, models, seed, ..."""
    with open(plan, encoding="utf-8") as file:  # noqa: PTH123 - a path from a flag, opened once
        callers = Callers(json.load(file))
    uvicorn.run(application(callers), host="0.0.0.0", port=8000, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1])
