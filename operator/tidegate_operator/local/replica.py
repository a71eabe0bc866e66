"""One engine process, from its exec to its end, and what is known of it on the way."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from tidegate_billing.links import EngineCounters
from tidegate_operator.local.enginelog import EngineLog
from tidegate_operator.local.engines import Engine, Start
from tidegate_operator.local.process import Child
from tidegate_operator.local.sockets import LOOPBACK
from tidegate_runtime.contract.links import Replica

KEPT_LINES = 40


class ColdStart(NamedTuple):
    """A start that a waiting request caused. Times are seconds since the epoch."""

    start_id: str
    deployment: str
    held_at: float
    exec_at: float
    able_at: float
    forwarded_at: float

    @property
    def own_share_ms(self) -> float:
        """What we added to the engine's own start: before its exec, and after it could answer."""
        before = max(0.0, self.exec_at - self.held_at)
        after = max(0.0, self.forwarded_at - self.able_at)
        return round((before + after) * 1000, 3)

    def row(self) -> dict[str, object]:
        """As the operations port tells it."""
        return {**self._asdict(), "own_share_ms": self.own_share_ms}


class Running:
    """A started engine. `view` is what routers see of it; its `state` only moves forward, but for
    a drain that demand takes back. `build`: what its process is made of."""

    def __init__(
        self,
        engine: Engine,
        start: Start,
        *,
        deployment: str,
        model: str,
        start_id: str,
        build: str = "",
        held_at: float,
        mark: Mapping[str, str],
        said: Callable[["Running"], None],
        exited: Callable[["Running", int], None],
    ) -> None:
        """Starts the process. Raises OSError where it cannot be."""
        self._engine, self._said, self._on_exit = engine, said, exited
        self.model, self.build = model, build
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.phase = engine.first_phase
        self.held_at, self.able_at, self.answered_at = held_at, 0.0, 0.0
        self.forwarded_at = 0.0
        self.stopping = False
        self.read: EngineCounters | None = None
        self.changed = asyncio.Event()
        self.drain: asyncio.Task[None] | None = None
        self.truth: Path | None = start.truth if engine.tells_truth else None
        self._log = EngineLog(start.log)
        command = engine.command(start)
        self.child = Child(
            command.args,
            env={**command.env, **mark},
            on_exit=self._exited,
            on_line=self._line,
        )
        self.exec_at = time.time()
        self.phases = {self.phase: self.exec_at}
        self.view = Replica(
            id=start.replica,
            deployment=deployment,
            url=f"http://{LOOPBACK}:{start.port}",
            state="starting",
            guard=start.guard,
            start_id=start_id,
        )

    @property
    def id(self) -> str:
        """The replica's id, which is its epoch."""
        return self.view.id

    @property
    def need(self) -> int:
        """Memory that it was estimated to take, in bytes; 0: not known."""
        return self._engine.needs()

    @property
    def state(self) -> str:
        """starting, ready or draining."""
        return self.view.state

    def move(self, state: str, mark: str = "") -> None:
        """Changes the state that routers see (from the next publication on), with a drain's mark."""
        self.view = msgspec.structs.replace(self.view, state=state, mark=mark)

    def base_counters(self, state: str) -> EngineCounters:
        """This epoch without numbers."""
        return msgspec.convert(
            {
                "model": self.model,
                "deployment": self.view.deployment,
                "epoch": self.id,
                "prompt": 0,
                "generated": 0,
                "state": state,
                "verified": False,
            },
            EngineCounters,
        )

    def last_counters(self) -> EngineCounters:
        """What was last read of it, as the counters of an engine that died."""
        if self.read is None:
            return self.base_counters("lost")
        return msgspec.structs.replace(self.read, state="lost", verified=False, in_flight=0)

    def cold_start(self) -> ColdStart | None:
        """Its cold start, where somebody waited for it and was served."""
        if not self.held_at or not self.forwarded_at:
            return None
        able = self.able_at or self.answered_at
        return ColdStart(
            self.view.start_id,
            self.view.deployment,
            self.held_at,
            self.exec_at,
            able,
            self.forwarded_at,
        )

    def phase_seconds(self) -> dict[str, float]:
        """How long each phase of the start lasted, the last one until an answer came."""
        names = list(self.phases)
        times = [*self.phases.values(), self.answered_at or time.time()]
        return {name: round(times[i + 1] - times[i], 3) for i, name in enumerate(names)}

    def last_words(self, lines: int = 5) -> str:
        """The end of what it said in words, on one line and after a `; `; else nothing."""
        said = " | ".join(list(self.lines)[-lines:])
        return f"; {said}" if said else ""

    def _exited(self, code: int) -> None:
        self._log.close()
        self._on_exit(self, code)

    def _line(self, line: str) -> None:
        self._log.write(line)
        now = time.time()
        seen = self._engine.seen(line, now)
        if seen is None:
            self.lines.append(line)  # tenants read these: words, not our own protocol
            return
        if seen.able_at and not self.able_at:
            self.able_at = seen.able_at
        if seen.phase and seen.phase not in self.phases:  # a start goes forward only
            self.phase = seen.phase
            self.phases[seen.phase] = now
        self._said(self)
