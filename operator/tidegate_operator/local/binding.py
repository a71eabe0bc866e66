"""Engines' threads are kept on the cores that `cores` gives them.

How many threads an engine has is settled when it starts, by the cores it is given then; where they
run is changed as engines come into use and go out of it. An idle engine has no cores of its own: it
may use all, and is in nobody's way. Within its share a thread runs where the kernel puts it, which
also moves it away from what else the machine does.

Only processes that vLLM has bound are touched (its workers): they carry the list in their own
environment. Everything else of an engine runs anywhere.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from tidegate_operator.drain import busy
from tidegate_operator.local import cores, machine
from tidegate_runtime.contract.links import DemandLine

if TYPE_CHECKING:
    from tidegate_operator.local.model import Model

IN_USE_SECONDS: Final = 10.0
"""How long after its last request an engine counts as in use."""
_BOUND: Final = (b"GOMP_CPU_AFFINITY=", b"KMP_AFFINITY=", b"OMP_PLACES=")


class Binding:
    """Which engine computes where."""

    def __init__(self, processor: cores.Processor | None = None) -> None:
        self._processor = cores.processor() if processor is None else processor
        self._owner: dict[str, str] = {}
        self._shares: dict[str, tuple[int, ...]] = {}
        self._used: dict[str, float] = {}
        self._placed: dict[str, tuple[int, ...]] = {}

    def begin(self, replica: str, model: "Model", now: float) -> tuple[int, ...]:
        """The cores that a replica starts with; empty: it sees to that itself."""
        usable = self._processor.usable
        if not usable or not model.plan.engine.computes:
            return ()
        before = [one for one in self._owner if self._in_use(one, now)]
        others = [one for one in before if self._owner[one] != model.deployment]
        engines = max(len(before) + 1, len(others) + model.desired)
        self._owner[replica], self._used[replica] = model.deployment, now
        share = cores.split(usable, engines)[len(before)]
        # More than there are cores: one thread, free to run anywhere once it is there.
        self._shares[replica] = share or (usable[len(before) % len(usable)],)
        return self._shares[replica]

    def of(self, replica: str) -> list[int]:
        """The cores that it computes on; none: those of everybody, or not known."""
        return list(self._shares.get(replica, ()))

    def forget(self, replica: str) -> None:
        """It is gone; what it had is anybody's."""
        self._owner.pop(replica, None)
        for kept in (self._shares, self._used, self._placed):
            kept.pop(replica, None)

    def settle(
        self, models: Iterable["Model"], lines: Mapping[str, DemandLine | None], now: float
    ) -> None:
        """Puts the threads of engines where they belong now. `lines`: what routers said last."""
        if not self._owner:
            return
        runs = {run.id: run for model in models for run in model.runs.values()}
        for gone in [one for one in self._owner if one not in runs]:
            self.forget(gone)
        for one in busy(self._owner, lines):
            # Where a router is silent nobody knows: then it may be in use.
            if one.in_flight != 0 or runs[one.id].state == "starting":
                self._used[one.id] = now
        # One that starts computes nothing yet: those that serve have its cores until it is ready.
        able = [one for one in self._owner if runs[one].state != "starting"]
        using = [one for one in able if self._in_use(one, now)]
        parts = cores.split(self._processor.usable, len(using))
        shares = dict(zip(using, parts, strict=True))
        for replica in able:
            share = shares.get(replica, self._processor.usable)
            if share != self._placed.get(replica):
                self._shares[replica] = self._placed[replica] = share
                _move(runs[replica].child.pid, share or self._processor.allowed)

    def _in_use(self, replica: str, now: float) -> bool:
        return now - self._used[replica] <= IN_USE_SECONDS


def _move(session: int, share: tuple[int, ...]) -> None:
    for thread in _computing(session):
        with contextlib.suppress(OSError):  # it has ended
            os.sched_setaffinity(thread, share)


def _computing(session: int) -> Iterator[int]:
    """The threads of the session's processes that were told to bind theirs."""
    for _, folder in machine.processes({session}):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            threads = [int(one.name) for one in (folder / "task").iterdir()]
        except OSError:
            continue
        if any(one.startswith(_BOUND) for one in variables):
            yield from threads
