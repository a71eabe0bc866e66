"""All models of the platform: who hears which line, what is decided when, and what is told.

A line from a router goes to the models it names as having somebody waiting, at once, and to the
replicas it reports on. Everything else is decided once a second. Nothing here waits.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec

from tidegate_billing.links import EngineCounters
from tidegate_operator.local import beside, counters, replacing, resources, stopping
from tidegate_operator.local.billing import Billing, BillingError
from tidegate_operator.local.following import Step
from tidegate_operator.local.model import Model
from tidegate_operator.local.options import Event
from tidegate_operator.local.plan import Plan
from tidegate_operator.local.replica import ColdStart
from tidegate_operator.local.site import Site
from tidegate_operator.local.world import World
from tidegate_runtime.contract.links import DemandLine

TICK_SECONDS = 1.0
KEPT_COLD_STARTS = 10_000


class Fleet:
    """The models; also what the operations port tells."""

    def __init__(self, plans: Iterable[Plan], site: Site) -> None:
        self.site = site
        self.ready = False
        self.started: deque[ColdStart] = deque(maxlen=KEPT_COLD_STARTS)
        self.models = {
            plan.view.deployment: Model(plan, site, self.started.append) for plan in plans
        }
        site.room.models = self.models
        self._faults: dict[str, str] = {}
        self._unpriced = asyncio.Event()
        self._unpriced.set()
        self._judge()

    @property
    def world(self) -> World:
        """What routers see."""
        return self.site.world

    def begin(self) -> None:
        """Shows all models to the routers and starts preparing them."""
        for model in self.models.values():
            self.world.models[model.deployment] = model.view
        self.world.publish()
        for model in self.models.values():
            model.begin()

    def names(self, deployment: str) -> list[str]:
        """All names under which requests for it may be waiting now."""
        model = self.models.get(deployment)
        views = [] if model is None else [model.view, model.plan.view]
        return [name for view in views for name in (view.name, *view.aliases)]

    def change(self, steps: Sequence[Step], plans: Sequence[Plan]) -> None:
        """Goes after what the files say now. `plans`: of each deployment that is not removed. The
        routers see all of it at once, so that a name that moves is never nobody's."""
        if self.site.closing:
            return
        wanted = {plan.view.deployment: plan for plan in plans}
        new: list[Model] = []
        for step in steps:
            deployment = step.resource.deployment
            model = self.models.get(deployment)
            if step.kind == "remove":
                if model is not None:
                    replacing.remove(model)
            elif model is not None:
                replacing.take(model, wanted[deployment])
            else:
                model = Model(wanted[deployment], self.site, self.started.append)
                self.models[deployment] = model
                new.append(model)
        self._judge()
        for model in self.models.values():
            model.put()
        for model in new:
            model.begin()
        self.world.publish()
        self.site.changed()
        self._unpriced.set()
        for step in steps:
            self.models[step.resource.deployment].changed(step.kind, step.changed)
        self._evaluate(time.time())

    def _evaluate(self, now: float) -> None:
        for model in list(self.models.values()):
            self._decide(model, partial(model.evaluate, now))
            if model.removed and not model.runs:
                self._forget(model)
        self.site.binding.settle(self.models.values(), self.site.picture.lines(now), now)

    def _forget(self, model: Model) -> None:
        """The last of a model that was removed: its engines are gone and counted."""
        del self.models[model.deployment]
        self.world.models.pop(model.deployment, None)
        self.world.publish()
        self.site.changed()
        self._unpriced.set()
        model.gone()

    def hear(self, router: str, line: DemandLine) -> None:
        """Takes in a router's line and acts on what cannot wait."""
        now = time.time()
        self.site.picture.hear(router, line, now)
        for demand in line.models:
            if demand.held and (model := self.models.get(demand.deployment)) is not None:
                self._decide(model, partial(model.evaluate, now))
        if line.replicas:
            owners = {run: model for model in self.models.values() for run in model.runs}
            for said in line.replicas:
                if (model := owners.get(said.id)) is not None:
                    self._decide(model, partial(model.told, said))

    def _decide(self, model: Model, decision: Callable[[], None]) -> None:
        """A fault of ours in one model stops no other, nor the clock. It is told once."""
        try:
            decision()
        except Exception as fault:  # noqa: BLE001 - the decision's boundary
            words = beside.told(fault)
            if self._faults.get(model.deployment) != words:
                self._faults[model.deployment] = words
                model.report_error(words)

    async def tick(self) -> None:
        """Decides for every model, once a second, until cancelled."""
        while True:
            self._evaluate(time.time())
            await asyncio.sleep(TICK_SECONDS)

    async def keep_priced(self, billing: Billing) -> None:
        """Tells billing every model's price, now and after each change, until cancelled. One call
        at a time: billing takes each as the whole list."""
        while True:
            await self._unpriced.wait()
            self._unpriced.clear()
            await self._price(billing)

    async def _price(self, billing: Billing) -> None:
        wanted = [model.plan.pricing for model in self.models.values()]
        try:
            answers = await billing.price(wanted)
        except BillingError as error:
            self.site.report(Event(ts=time.time(), event="error", message=f"prices: {error}"))
            return
        for priced in answers:
            model = self.models.get(priced.deployment)
            if model is None:
                continue
            model.priced = priced.priced
            unnamed = model.plan.pricing.pricing is None
            because = "spec.pricing is missing" if unnamed else priced.reason
            model.warning = "" if priced.priced else f"not priced: {because}"
            model.show()

    async def close(self, grace: float) -> None:
        """Counts and ends every engine. The routers are gone, so nothing more comes."""
        self.site.closing = True
        for model in self.models.values():
            if model.preparation is not None:
                model.preparation.cancel()
        runs = [run for model in self.models.values() for run in model.runs.values()]
        for run in runs:
            if run.drain is not None and not run.stopping:
                run.drain.cancel()
        ending = [run for run in runs if not run.stopping]
        for run in ending:
            run.stopping = True
            run.move("draining")
        await asyncio.gather(*(stopping.end(run, self.site, grace) for run in ending))
        await asyncio.gather(*(run.child.wait(grace + 15) for run in runs))

    def kill(self) -> None:
        """Ends every engine now."""
        self.site.closing = True
        for model in self.models.values():
            for run in model.runs.values():
                run.child.signal_group(9)

    # What the operations port tells

    async def counters(self) -> list[EngineCounters]:
        """Counters of running engines, read now."""
        runs = [
            run
            for model in self.models.values()
            for run in model.runs.values()
            if run.able_at or run.answered_at
        ]
        reads = [
            counters.measured(
                self.site.http, run.base_counters("live"), run.view.url, run.view.guard, run.truth
            )
            for run in runs
        ]
        found = await asyncio.gather(*reads)
        for run, read in zip(runs, found, strict=True):
            if read.verified:
                run.read = read
        return list(found)

    def rows(self) -> list[dict[str, object]]:
        """One row per model."""
        return [_row(model) for model in self.models.values()]

    def cold_starts(self) -> list[dict[str, object]]:
        """One row per finished cold start, oldest first."""
        return [cold.row() for cold in self.started]

    def engines(self) -> list[dict[str, object]]:
        """`engines` of run.json."""
        return [
            {
                "model": run.model,
                "replica": run.id,
                "pid": run.child.pid,
                "url": run.view.url,
                "state": run.state,
                "guard": run.view.guard,
                "cores": self.site.binding.of(run.id),
            }
            for model in self.models.values()
            for run in model.runs.values()
        ]

    def metrics(self) -> str:
        """Prometheus text."""
        lines = []
        for name, kind in (("desired", "gauge"), ("ready", "gauge")):
            lines.append(f"# TYPE tidegate_replicas_{name} {kind}")
            for model in self.models.values():
                value = model.desired if name == "desired" else model.ready()
                lines.append(f'tidegate_replicas_{name}{{model="{model.view.name}"}} {value}')
        return "\n".join([*lines, ""])

    def _judge(self) -> None:
        """Gives each name to one deployment; those that lost one are not valid."""
        staying = [model for model in self.models.values() if not model.removed]
        lost = resources.conflicts(model.plan.view for model in staying)
        for model in self.models.values():
            model.conflict = lost.get(model.deployment, "")
            replacing.see(model)


def _row(model: Model) -> dict[str, object]:
    failure = model.view.failure
    seconds, phases = model.last_cold
    conditions: dict[str, object] = {
        "Valid": not model.conflict,
        "Priced": model.priced,
        "Current": not model.old(),
    }
    return {
        "name": model.view.name,
        "task": model.view.task,
        "phase": model.phase(),
        "ready": model.ready(),
        "desired": model.desired,
        "in_flight": model.total.in_flight or 0,
        "held": model.total.held or 0,
        "deployment": model.deployment,
        "phase_detail": model.detail(),
        "since": model.since,
        "reason": model.reason,
        "conditions": conditions,
        "warning": model.warned() or model.conflict,
        "cold_start": {
            "start_id": model.view.start_id,
            "last_seconds": seconds,
            "phases": phases,
        },
        "failure": None if failure is None else msgspec.to_builtins(failure),
    }
