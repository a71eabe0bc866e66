"""The engine: all running answers, advanced by one timer.

A tick takes every answer that is due, counts what it generated, appends the truth of all of them
in one write, and only then hands bytes to sockets. There is no task, future or timer per stream;
with nothing running there is no timer at all.
"""

import asyncio
import heapq
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn, Protocol

from tidegate_runtime.engines.sim import fault, render, truth
from tidegate_runtime.engines.sim.answer import BROKEN, COMPLETED, RUNNING, Answer
from tidegate_runtime.engines.sim.prefix import PrefixCache
from tidegate_runtime.engines.sim.request import Ask, RefusedError
from tidegate_runtime.engines.sim.settings import Options

TICK = 0.004
"""Seconds between ticks at least: streams that fall due within it share one."""

TICK_TOKENS = 4096
"""Tokens per tick at most, so that new requests are heard in between."""

KV_TOKENS = 1_000_000
SLOWNESS = 10


class Outlet(Protocol):
    """Where an answer's bytes go."""

    paused: bool

    def write(self, data: bytes) -> None:
        """Queue bytes for the client."""

    def done(self) -> None:
        """The answer ended properly: the connection may take its next request."""

    def close(self) -> None:
        """End the connection after what was written."""

    def reset(self) -> None:
        """End the connection with a reset and nothing more."""


class Engine:
    """Generation, counters and faults of one process."""

    def __init__(
        self,
        options: Options,
        record: truth.Truth,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options
        self.draining = False
        self.drained = asyncio.Event()
        self.created = int(time.time())
        self._truth = record
        self._loop = loop
        self._clock = clock
        self._cache = PrefixCache()
        self._faults: tuple[fault.Fault, ...] = options.fail
        self._requests = 0
        self._started = time.time_ns()
        self._named = 0
        self._live: dict[Answer, Outlet] = {}
        self._queue: list[tuple[float, int, Answer]] = []
        self._pushed = 0
        self._timer: asyncio.TimerHandle | None = None
        self._alarm = 0.0
        self._ticked = 0.0
        self._prompt_tokens = 0
        self._generated = 0
        self._steps = 0

    def begin(self, ask: Ask, attempt: str, outlet: Outlet) -> Answer | None:
        """Take a request; its answer goes to `outlet`. None: a fault reset the connection.

        Raises RefusedError where a fault or the drain answers with an error status.
        """
        self._requests += 1
        struck = fault.struck(self._faults, self._requests)
        if self.draining or "http500" in struck:
            message = "EngineCore is shutting down" if self.draining else "EngineCore failed"
            raise RefusedError(500, "InternalServerError", message)
        name = attempt or self._name()
        if "refuse" in struck:
            self.refused(name)
            outlet.reset()
            return None
        answer = self._answer(ask, name, struck)
        self._prompt_tokens += ask.prompt_tokens
        self._live[answer] = outlet
        self._tell([(answer, truth.RUNNING)])
        breaker = fault.breaking(self._faults)
        answer.break_at(breaker)
        if breaker == ("crash", None):
            self._crash()
        if breaker == ("hang", None):
            return answer
        self._open(answer, outlet)
        self._push(answer, answer.first)
        self._arm()
        return answer

    def refused(self, attempt: str) -> None:
        """Put on record that an attempt came and was not taken."""
        if attempt:
            self._record([truth.line_format(attempt, 0) % (0, 0, truth.ERROR)])

    def abort(self, answer: Answer) -> None:
        """The client left: stop generating at once."""
        if not answer.over:
            self._end([(answer, truth.ABORTED)])

    def abort_all(self) -> None:
        """Give up every running answer and reset its connection."""
        left = list(self._live.items())
        self._end([(answer, truth.ABORTED) for answer, _ in left])
        for _, outlet in left:
            outlet.reset()

    def wake(self, answer: Answer) -> None:
        """The client reads again: send what was made meanwhile."""
        if not answer.over and not answer.queued:
            self._push(answer, self._clock())
            self._arm()

    def drain(self) -> None:
        """Refuse new requests; `drained` is set when the running ones have ended."""
        self.draining = True
        if not self._live:
            self.drained.set()

    def set_faults(self, faults: Sequence[fault.Fault]) -> None:
        """Replace the faults, for running answers too; requests are counted anew."""
        self._faults = tuple(faults)
        self._requests = 0
        breaker = fault.breaking(self._faults)
        now = self._clock()
        for answer, outlet in self._live.items():
            answer.break_at(breaker)
            self._open(answer, outlet)
            if not answer.queued:
                answer.resume(now)
            self._push(answer, max(now, answer.due))
        self._arm()

    def metrics(self) -> bytes:
        """vLLM's counters that routers and autoscalers read; generated, not sent, tokens."""
        running = sum(answer.generating for answer in self._live)
        # A prompt takes its place in the cache when it is worked on, not when it comes.
        held = sum(one.ask.prompt_tokens + one.made for one in self._live if one.made)
        values = {
            "vllm:num_requests_running": ("gauge", running),
            "vllm:num_requests_waiting": ("gauge", 0),
            "vllm:kv_cache_usage_perc": ("gauge", min(1.0, held / KV_TOKENS)),
            "vllm:prompt_tokens_total": ("counter", self._prompt_tokens),
            "vllm:generation_tokens_total": ("counter", self._generated),
            "vllm:iteration_tokens_total_count": ("counter", self._steps),
        }
        return render.metrics(self.options.model, values)

    def _answer(self, ask: Ask, name: str, struck: frozenset[str]) -> Answer:
        cached = 0
        if ask.generates:
            cached = sum(self._cache.lookup(words, ask.cache_salt) for words in ask.prompts)
        script = render.Script(
            ask,
            name,
            ask.model or self.options.model,
            int(time.time()),
            cached,
            counts="no-usage" not in struck,
            scale=2 if "wrong-usage" in struck else 1,
        )
        factor = SLOWNESS if "slow" in struck else 1
        rate = self.options.tokens_per_second
        first = self._clock() + factor * self.options.ttft_ms / 1000
        line = truth.line_format(name, ask.prompt_tokens)
        return Answer(ask, script, line, first=first, gap=factor / rate if rate else 0.0)

    def _name(self) -> str:
        """A name unlike those of earlier processes that wrote to the same truth file."""
        self._named += 1
        return f"sim-{self._started:x}-{self._named}"

    @staticmethod
    def _open(answer: Answer, outlet: Outlet) -> None:
        """Send a stream's head at once, as vLLM does; its first event waits for the first token."""
        if answer.ask.stream and not answer.opened:
            answer.opened = True
            outlet.write(render.STREAM_HEAD)

    def _push(self, answer: Answer, due: float) -> None:
        if answer.queued:
            return
        self._pushed += 1
        answer.queued = True
        heapq.heappush(self._queue, (due, self._pushed, answer))

    def _arm(self) -> None:
        """Set the timer for the earliest due answer, no sooner than a tick after the last one."""
        if not self._queue:
            return
        alarm = max(self._queue[0][0], self._ticked + TICK)
        if self._timer is not None:
            if self._alarm <= alarm:
                return
            self._timer.cancel()
        self._alarm = alarm
        self._timer = self._loop.call_later(max(0.0, alarm - self._clock()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._ticked = self._clock()
        moved = self._advance(now)
        if any(state == BROKEN and answer.fault_kind == "crash" for answer, state in moved):
            self._crash()
        self._tell([(answer, _OUTCOMES[state]) for answer, state in moved])
        for answer, state in moved:
            outlet = self._live[answer]
            if state == BROKEN:
                self._break(answer, outlet)
                continue
            self._write(answer, outlet, last=state == COMPLETED)
            if state == COMPLETED:
                self._forget(answer)
                outlet.done()
            elif answer.again(paused=outlet.paused):
                # Without a rate all are due at any time: take turns, in the order of this tick.
                rated = answer.gap > 0 and answer.made < answer.total
                self._push(answer, answer.due if rated else now)
        self._arm()

    def _advance(self, now: float) -> list[tuple[Answer, int]]:
        """Advance what is due; each with its new state."""
        queue, live = self._queue, self._live
        moved = []
        budget = TICK_TOKENS
        while queue and queue[0][0] <= now and budget > 0:
            answer = heapq.heappop(queue)[2]
            answer.queued = False
            if answer.over:
                continue
            before = answer.made
            moved.append((answer, answer.step(now, paused=live[answer].paused)))
            gained = answer.made - before
            self._generated += gained
            self._steps += bool(gained)
            budget -= gained + 1
        return moved

    def _write(self, answer: Answer, outlet: Outlet, *, last: bool) -> None:
        if not answer.ask.stream:
            if last:
                outlet.write(render.response(200, answer.script.whole(self.options.seed)))
            return
        data = b""
        if answer.written < answer.sent:
            if not answer.written:
                data = answer.script.opening()
            data += answer.script.events(answer.written, answer.sent)
            answer.written = answer.sent
        if last:
            outlet.write(render.chunk(data + answer.script.closing()) + render.LAST_CHUNK)
        elif data:
            outlet.write(render.chunk(data))

    def _break(self, answer: Answer, outlet: Outlet) -> None:
        """hang: leave it lying. malformed: send what no parser takes, and go."""
        if answer.fault_kind != "malformed":
            return
        self._end([(answer, truth.ERROR)])
        if answer.ask.stream:
            outlet.write(render.chunk(render.BROKEN_EVENT) + render.LAST_CHUNK)
        else:
            outlet.write(render.response(200, render.BROKEN_JSON, close=True))
        outlet.close()

    def _crash(self) -> NoReturn:
        """Die as a killed process does, but with the truth told to the last token."""
        self._tell([(answer, truth.CRASHED) for answer in self._live])
        os._exit(1)

    def _end(self, ended: Sequence[tuple[Answer, bytes]]) -> None:
        self._tell(ended)
        for answer, _ in ended:
            self._forget(answer)

    def _forget(self, answer: Answer) -> None:
        answer.over = True
        del self._live[answer]
        if self.draining and not self._live:
            self.drained.set()

    def _tell(self, states: Sequence[tuple[Answer, bytes]]) -> None:
        if self._truth.kept:
            self._record(
                [answer.line % (answer.made, answer.sent, outcome) for answer, outcome in states]
            )

    def _record(self, lines: list[bytes]) -> None:
        try:
            self._truth.write(lines)
        except OSError as error:
            # Nothing may reach a client that the truth does not know: rather no engine.
            sys.stderr.write(f"sim: --truth {self._truth.path}: {error.strerror}\n")
            sys.stderr.flush()
            os._exit(1)


_OUTCOMES = {RUNNING: truth.RUNNING, COMPLETED: truth.COMPLETED, BROKEN: truth.RUNNING}
