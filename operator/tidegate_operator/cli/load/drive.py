"""Sends a load and notes what comes back.

One event loop and one HTTP client. The generator watches itself: how late its own timer fires is
part of the result, for a loaded generator measures itself.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import NamedTuple

import httpx

from tidegate_operator.cli import sse
from tidegate_operator.cli.load.figures import Sample
from tidegate_operator.cli.load.plan import Item, Load, body, items

CHAT = "/v1/chat/completions"
MOST_IN_FLIGHT = 2048
"""Requests of an open loop at once; those beyond wait, and their wait counts."""
LAG_PERIOD = 0.05


class Target(NamedTuple):
    """Where the load goes; `key` may be empty."""

    url: str
    key: str = ""


class Run:
    """A load under way. `samples`: what is over; `flying`: how many are not; `lags`: seconds that
    the generator's own timer was late."""

    def __init__(self, load: Load, target: Target) -> None:
        self.load = load
        self.samples: list[Sample] = []
        self.flying = 0
        self.lags: list[float] = []
        self.seconds = 0.0
        self._began = 0.0
        self._http = httpx.AsyncClient(
            base_url=target.url.rstrip("/").removesuffix("/v1"),
            headers={"authorization": f"Bearer {target.key}"} if target.key else {},
            timeout=httpx.Timeout(load.timeout),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            trust_env=False,
        )

    @property
    def clock(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._began

    async def models(self) -> list[str]:
        """Names of the models there. Raises httpx.HTTPError, ValueError and KeyError."""
        answer = await self._http.get("/v1/models")
        answer.raise_for_status()
        return [str(one["id"]) for one in answer.json()["data"]]

    async def warm(self) -> str:
        """Sends the warm-up, one request after another; the first error, if any."""
        for number in range(self.load.warmup):
            warmed = Sample(0.0, 0.0, 8, stream=True)
            await self._exchange(Item(-1 - number, None, 8, stream=True), warmed)
            if warmed.error:
                return warmed.error
        return ""

    async def go(self) -> None:
        """Sends all of it and returns when the last answer is over. Cancelled: what is over stays
        counted."""
        self._began = time.perf_counter()
        watch = asyncio.create_task(self._watch())
        try:
            await (self._closed() if self.load.rate is None else self._open())
        finally:
            self.seconds = self.clock
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch

    async def close(self) -> None:
        """Gives back the connections."""
        await self._http.aclose()

    async def _closed(self) -> None:
        queue = items(self.load)
        async with asyncio.TaskGroup() as group:
            for _ in range(self.load.concurrency):
                group.create_task(self._caller(queue))

    async def _caller(self, queue: Iterator[Item]) -> None:
        for item in queue:
            if self.load.seconds is not None and self.clock >= self.load.seconds:
                return
            await self._send(item, self.clock)

    async def _open(self) -> None:
        places = asyncio.Semaphore(MOST_IN_FLIGHT)

        async def send(item: Item, due: float) -> None:
            async with places:
                await self._send(item, due)

        async with asyncio.TaskGroup() as group:
            for item in items(self.load):
                due = item.at or 0.0
                await asyncio.sleep(max(0.0, due - self.clock))
                group.create_task(send(item, due))

    async def _send(self, item: Item, due: float) -> None:
        sample = Sample(due, self.clock, item.words, item.stream)
        self.flying += 1
        try:
            await self._exchange(item, sample)
        finally:
            self.flying -= 1
        sample.ended = self.clock
        self.samples.append(sample)

    async def _exchange(self, item: Item, sample: Sample) -> None:
        content = body(self.load, item)
        try:
            async with asyncio.timeout(self.load.timeout):
                if item.stream:
                    await self._stream(content, sample)
                else:
                    await self._whole(content, sample)
        except TimeoutError:
            sample.error = f"no end within {self.load.timeout:.0f} s"
        except httpx.HTTPError as error:
            sample.error = type(error).__name__

    async def _whole(self, content: dict[str, object], sample: Sample) -> None:
        answer = await self._http.post(CHAT, json=content)
        if answer.status_code != 200:
            sample.error = f"status {answer.status_code}"
            return
        try:
            said = sse.read(answer.json())
        except ValueError:
            sample.error = "not JSON"
            return
        sample.error = "error in the answer" if said.error else ""
        _count(sample, said.tokens, 1)

    async def _stream(self, content: dict[str, object], sample: Sample) -> None:
        async with self._http.stream("POST", CHAT, json=content) as answer:
            if answer.status_code != 200:
                sample.error = f"status {answer.status_code}"
                await answer.aread()
                return
            await self._listen(answer.aiter_lines(), sample)

    async def _listen(self, lines: AsyncIterator[str], sample: Sample) -> None:
        last, chunks, tokens, done = 0.0, 0, None, False
        async for line in lines:
            said = sse.chunk(line)
            if said is None:
                continue
            done = done or said.done
            tokens = said.tokens or tokens
            if said.error:
                sample.error = "error in the stream"
            if said.text or said.thought:
                now, chunks = self.clock, chunks + 1
                if last:
                    sample.gaps.append(now - last)
                sample.first, last = sample.first or now, now
        _count(sample, tokens, chunks)
        if not done and not sample.error:
            sample.error = "the stream broke off"

    async def _watch(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(LAG_PERIOD)
            self.lags.append(max(0.0, time.perf_counter() - began - LAG_PERIOD))


def _count(sample: Sample, tokens: sse.Tokens | None, chunks: int) -> None:
    sample.counted = tokens is not None
    sample.completion_tokens = tokens.completion if tokens is not None else chunks
    sample.prompt_tokens = tokens.prompt if tokens is not None else 0


Show = Callable[[Run], None]
"""Shows how far a load is."""
