"""Memory for a replica that is to start: measured, promised, and made where idle models hold it.

`room` decides. Here is what it decides on (what is free, what starting engines will still take,
what everybody holds) and what comes of it: a model that gives way goes to zero by its own next
decision and the usual drain, so that a request which comes meanwhile keeps it. Whoever waits asks
again once a second and whenever an engine has gone; nothing is kept of an ask that is not repeated.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from tidegate_operator.local import machine, room
from tidegate_operator.local.room import Ask, Holder, Wait

if TYPE_CHECKING:
    from tidegate_operator.local.model import Model
    from tidegate_operator.local.replica import Running

MINIMUM_IDLE_SECONDS: Final = 10.0
FRESH_SECONDS: Final = 2.5
"""How long an ask counts that is not repeated."""
ENDING_SECONDS: Final = 30.0
"""How long memory of an engine that has ended is waited for: its workers end after it."""
GIB: Final = 2**30


class _Asked(NamedTuple):
    ask: Ask
    at: float


class _Known(NamedTuple):
    """An engine's session. `ended`: since when its first process is seen to be gone, 0 before."""

    deployment: str
    ended: float = 0.0


class _Here(NamedTuple):
    """What there is: bytes in all, bytes that nobody has or was promised, and who has the rest."""

    total: int
    free: int
    holders: tuple[Holder, ...]


class Room:
    """The memory that engines may take. `limit`: in bytes, all of them together; 0: what the machine
    has. `minimum_idle`: seconds that a model is left alone after its last use."""

    def __init__(self, limit: int = 0, minimum_idle: float = MINIMUM_IDLE_SECONDS) -> None:
        self.models: Mapping[str, Model] = {}
        self._limit, self._minimum_idle = limit, minimum_idle
        self._asked: dict[str, _Asked] = {}
        self._known: dict[int, _Known] = {}

    def may_start(self, model: "Model", count: int, now: float) -> int:
        """How many of `count` replicas may be started now. Where that is not all, the model waits
        and says for what, or its start has failed."""
        need = model.plan.engine.needs()
        if not need:
            return count
        here = self._look(now)
        deployment = model.deployment
        self._asked = {k: one for k, one in self._asked.items() if now - one.at <= FRESH_SECONDS}
        before = self._asked.get(deployment)
        since = now if before is None else before.ask.since
        ask = Ask(deployment, need, count, since, len(model.active()))
        self._asked[deployment] = _Asked(ask, now)
        asks = [one.ask for one in self._asked.values()]
        outcome = room.decide(asks, here.holders, here.free, self._minimum_idle, now)
        for give in outcome.gives:
            self._put_to_sleep(give.victim, for_=give.waiter, now=now)
        granted = outcome.granted.get(deployment, 0)
        if granted and before is not None:
            model.room_at = now
        wait = outcome.waits.get(deployment)
        if wait is None:
            del self._asked[deployment]
            return granted
        left = ask._replace(wanted=count - granted, has=ask.has + granted)
        self._asked[deployment] = _Asked(left, now)
        if granted:
            return granted  # what comes of the rest is said when it is asked for again
        if wait.kind == "never" or now - since > model.plan.grace_seconds:
            self._refuse(model, here)
        else:
            model.waits = f"waiting for memory: {self._words(wait)}"
        return 0

    def freed(self, now: float) -> None:
        """An engine has gone: whoever waits is looked at, first come, first served."""
        waiting = sorted(self._asked.values(), key=lambda one: one.ask.since)
        for one in waiting:
            if (model := self.models.get(one.ask.deployment)) is not None:
                model.evaluate(now)

    def _put_to_sleep(self, victim: str, *, for_: str, now: float) -> None:
        model = self.models[victim]
        model.gives_way_to = self._name(for_)
        model.evaluate(now)
        if not model.desired:
            model.note(f"put to sleep: {self._name(for_)} needs its memory")

    def _refuse(self, model: "Model", here: _Here) -> None:
        self._asked.pop(model.deployment, None)
        engine = model.plan.engine
        whose = "is free now"
        free = max(0, here.free)
        if engine.needs() > here.total:
            whose = "is all that up may use (--memory)" if self._limit else "is all there is"
            free = here.total
        words = engine.lacking(free, whose) or (
            f"it needs about {_gib(engine.needs())} of memory, and what is free ({_gib(free)}) is "
            "kept for who waited longer"
        )
        words += self._considered(model, here)
        model.start_failed(f"{time.time_ns():016x}", "OutOfMemory", words)

    def _considered(self, asker: "Model", here: _Here) -> str:
        """Who holds memory, and why it was not enough or not to be had. Tenants read this: of models
        that are not the asker's owner's only the sum is told."""
        why = {"idle": "idle", "used": "in use", "kept": "kept warm by minReplicas"}
        found, others = [], 0
        for one in here.holders:
            held = one.size + one.leaving
            if one.deployment == asker.deployment or not held:
                continue
            model = self.models.get(one.deployment)
            if model is None or model.plan.pricing.owner != asker.plan.pricing.owner:
                others += held
            else:
                state = why[one.use] if one.size else "ending"
                found.append(f"{model.view.name} holds {_gib(held)} ({state})")
        if others:
            found.append(f"models of others hold {_gib(others)}")
        return f"; looked at what could sleep: {', '.join(found)}" if found else ""

    def _words(self, wait: Wait) -> str:
        whole = [one for one in wait.who if one not in self.models or not self.models[one].desired]
        if wait.kind == "used":
            return f"in use: {self._names(wait.who)}"
        if whole:
            return f"putting to sleep: {self._names(whole)}"
        return f"replicas are ending: {self._names(wait.who)}"

    def _names(self, deployments: Iterable[str]) -> str:
        return ", ".join(self._name(one) for one in deployments)

    def _name(self, deployment: str) -> str:
        model = self.models.get(deployment)
        return deployment if model is None else model.view.name

    # What there is

    def _look(self, now: float) -> _Here:
        runs = {run.child.pid: run for model in self.models.values() for run in model.runs.values()}
        self._known |= {pid: _Known(run.view.deployment) for pid, run in runs.items()}
        held = machine.taken(self._known)
        for pid, one in list(self._known.items()):
            if pid in runs:
                continue
            ended = one.ended or now
            if held[pid] and now - ended <= ENDING_SECONDS:
                self._known[pid] = one._replace(ended=ended)
            else:
                del self._known[pid]
        here = machine.memory()
        total, free = here
        if self._limit:
            total, free = min(total, self._limit), min(free, self._limit - sum(held.values()))
        free -= sum(_coming(run, held[pid]) for pid, run in runs.items())
        return _Here(total, free, tuple(self._holders(runs, held, now)))

    def _holders(
        self, runs: Mapping[int, "Running"], held: Mapping[int, int], now: float
    ) -> Iterator[Holder]:
        sizes: dict[str, int] = {}
        leaving: dict[str, int] = {}
        for pid, one in self._known.items():
            run = runs.get(pid)
            if run is None or run.state == "draining":
                leaving[one.deployment] = leaving.get(one.deployment, 0) + held[pid]
            else:
                size = held[pid] + _coming(run, held[pid])
                sizes[one.deployment] = sizes.get(one.deployment, 0) + size
        for deployment in sizes.keys() | leaving.keys():
            use, last = self._use(self.models.get(deployment), now)
            yield Holder(
                deployment, sizes.get(deployment, 0), leaving.get(deployment, 0), last, use
            )

    def _use(self, model: "Model | None", now: float) -> tuple[room.Use, float]:
        """Whether a model could sleep, and when it was used last, by what was heard last."""
        if model is None:
            return "used", now
        total = model.site.picture.total(model.deployment, now)
        last = max(model.scaling.last_demand_at, total.last_request)
        if model.plan.policy.min_replicas:
            return "kept", last
        known = total.in_flight is not None and total.held is not None
        if not known or total.in_flight or total.held or model.wish.awake:
            return "used", now
        return "idle", last


def _coming(run: "Running", held: int) -> int:
    """What a starting engine will still take, by its estimate."""
    return max(0, run.need - held) if run.state == "starting" else 0


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
