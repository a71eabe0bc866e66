"""Engines that hang: found out, told of, and left.

A replica that has requests and gives no byte to any of them is silent, which alone proves nothing: it may
work on a long prompt, or on an answer that is not streamed. So the engine is asked for its counters. Where
they move, it works; where they stand still, or it does not answer, for `engine.stallSeconds` of silence, it
hangs. Its requests are then tried elsewhere or told so, the operator hears of it and replaces it. Counted are
only seconds in which somebody waits there: clients that give up early leave the count as it is.

`Silence` decides; `Stalls` reads.
"""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from tidegate_runtime.ask import BROKEN, ask, get
from tidegate_runtime.contract.exposition import samples

if TYPE_CHECKING:
    from tidegate_runtime.endpoints import ReplicaState
    from tidegate_runtime.exchange import Exchange
    from tidegate_runtime.gate import Gate

log = structlog.get_logger()

Mark = tuple[float, ...]
PROGRESS: Final = (
    "vllm:iteration_tokens_total_count",
    "vllm:generation_tokens_total",
    "vllm:kv_cache_usage_perc",
)
"""Of vLLM's metrics those that move with the engine's steps and with nothing else: also a long prompt that is
read in pieces moves the last one. How many requests run or wait is none of them: a new one changes that."""
ANSWER_SECONDS: Final = 5.0
LEFT_SECONDS: Final = 60.0
"""A replica that nobody has replaced for so long is tried again."""
LONGEST_STEP: Final = 5.0
"""A sweep that is late by more was not a time of listening: this process itself stood still."""
SILENT_SECONDS: Final = 600.0
"""For one attempt, where its engine tells no counters."""
UNHEARD_SECONDS: Final = 3600.0
"""For one attempt without a first byte at an engine that is seen to work for others."""


class Silence(NamedTuple):
    """What is known of a replica that owes answers: for how many seconds it was waited for since it last did
    anything, its counters when it was asked first, and when (in those seconds) it is to be asked next."""

    waited: float = 0.0
    mark: Mark | None = None
    next_ask: float = 0.0

    def wait(self, seconds: float) -> "Silence":
        """Somebody has waited `seconds` more."""
        return self._replace(waited=self.waited + min(seconds, LONGEST_STEP))

    def due(self, stall: float) -> bool:
        """Whether it is to be asked now: first after a quarter of `stall` seconds."""
        return self.waited >= max(self.next_ask, stall / 4)

    def read(self, mark: Mark | None, stall: float) -> tuple["Silence", str]:
        """After it was asked. `mark`: its counters, None where it did not answer, empty where it has none.
        The silence from now on, and what is wrong with the engine where it hangs."""
        again = self._replace(next_ask=self.waited + stall / 8)
        if mark is None:
            return again, "it does not answer /metrics either" if self.waited >= stall else ""
        if not mark or (self.mark is not None and mark != self.mark):
            return Silence(mark=mark or None), ""
        if self.mark is None:
            return again._replace(mark=mark), ""
        return again, "its counters stand still" if self.waited >= stall else ""


def parse(text: str) -> Mark:
    """The counters of progress in Prometheus text, summed over labels; empty where there are none."""
    sums: dict[str, float] = {}
    for name, value in samples(text):
        if name in PROGRESS:
            sums[name] = sums.get(name, 0.0) + float(*value[:1])  # float() of nothing is 0
    return tuple(sums[name] for name in PROGRESS if name in sums)


class Stalls:
    """Listens to the replicas of one router."""

    def __init__(self, gate: "Gate") -> None:
        self._gate = gate
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._swept = gate.loop.time()

    def sweep(self, live: Iterable["Exchange"], now: float) -> None:
        """Once a second: who owes answers, and since when."""
        passed, self._swept = now - self._swept, now
        owing: set[ReplicaState] = set()
        for exchange in live:
            replica = exchange.replica
            if replica is None:
                continue
            if exchange.front.paused or passed > LONGEST_STEP:  # we did not listen
                exchange.heard_at = now
                continue
            replica.heard(exchange.fed_at)
            owing.add(replica)
            if overdue(exchange, now):
                exchange.give_up(
                    "the engine fell silent" if exchange.fed_at else "the engine did not answer"
                )
        for replica in owing:
            self._listen(replica, min(passed, now - replica.heard_at))

    def readmit(self, replicas: Iterable["ReplicaState"], now: float) -> None:
        """Those that were said to hang, and are still there long after, are tried again."""
        for replica in replicas:
            if replica.hung and now - replica.hung_at > LEFT_SECONDS:
                replica.hung = ""
                replica.heard(now)

    def _listen(self, replica: "ReplicaState", passed: float) -> None:
        replica.silence = replica.silence.wait(passed)
        stall = replica.model.view.stall_seconds
        if replica.hung or replica.id in self._asking or not replica.silence.due(stall):
            return
        task = self._gate.loop.create_task(self._ask(replica, stall))
        self._asking[replica.id] = task
        task.add_done_callback(lambda _: self._asking.pop(replica.id, None))

    async def _ask(self, replica: "ReplicaState", stall: float) -> None:
        heard_at = replica.heard_at
        mark: Mark | None = None
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                status, body = await ask(replica, get(replica, "/metrics"))
            mark = parse(body.decode(errors="replace")) if status == 200 else ()
        except BROKEN:
            mark = None
        if replica.heard_at != heard_at or replica.gone:
            return
        replica.silence, wrong = replica.silence.read(mark, stall)
        replica.tells = replica.tells or bool(mark)
        if wrong:
            self._hangs(
                replica,
                f"no answer got any further for {stall:g} s (engine.stallSeconds), and {wrong}",
            )

    def _hangs(self, replica: "ReplicaState", message: str) -> None:
        log.warning("engine_hangs", replica=replica.id, message=message)
        replica.hung, replica.hung_at = message, self._gate.loop.time()
        replica.silence = Silence()
        self._gate.news.set()
        for exchange in [one for one in self._gate.live if one.replica is replica]:
            exchange.hung()


def overdue(exchange: "Exchange", now: float) -> bool:
    """Whether one attempt is given up though its engine may work for others. A stream that had begun may
    wait its turn again (vLLM calls it preemption), but not for much more than twice `stallSeconds`."""
    silent = now - exchange.heard_at
    if exchange.fed_at and exchange.request.stream:
        return silent > 2 * exchange.model.view.stall_seconds + ANSWER_SECONDS
    replica = exchange.replica
    return silent > (UNHEARD_SECONDS if replica is not None and replica.tells else SILENT_SECONDS)
