"""All models of the platform: who hears which line, what is decided when, and what is told.

A line from a router goes to the models it names as having somebody waiting, at once, and to the
replicas it reports on. Everything else is decided once a second. Nothing here waits.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterable

import msgspec

from tidegate_billing.links import EngineCounters
from tidegate_operator.local import counters, resources, stopping
from tidegate_operator.local.billing import Billing, BillingError
from tidegate_operator.local.model import Model, Plan
from tidegate_operator.local.options import Event
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

    def hear(self, router: str, line: DemandLine) -> None:
        """Takes in a router's line and acts on what cannot wait."""
        now = time.time()
        self.site.picture.hear(router, line, now)
        for demand in line.models:
            if demand.held and (model := self.models.get(demand.deployment)) is not None:
                model.evaluate(now)
        if line.replicas:
            owners = {run: model for model in self.models.values() for run in model.runs}
            for said in line.replicas:
                if (model := owners.get(said.id)) is not None:
                    model.told(said)

    async def tick(self) -> None:
        """Decides for every model, once a second, until cancelled."""
        while True:
            now = time.time()
            for model in self.models.values():
                model.evaluate(now)
            await asyncio.sleep(TICK_SECONDS)

    async def price(self, billing: Billing) -> None:
        """Tells billing every model's price, and people what came of it."""
        wanted = [model.plan.pricing for model in self.models.values()]
        if not wanted:
            return
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
        lost = resources.conflicts(model.plan.view for model in self.models.values())
        for model in self.models.values():
            model.conflict = lost.get(model.deployment, "")
            model.view = msgspec.structs.replace(model.view, valid=not model.conflict)


def _row(model: Model) -> dict[str, object]:
    failure = model.view.failure
    seconds, phases = model.last_cold
    conditions: dict[str, object] = {"Valid": not model.conflict, "Priced": model.priced}
    return {
        "name": model.view.name,
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
        "warning": model.warning or model.conflict,
        "cold_start": {
            "start_id": model.view.start_id,
            "last_seconds": seconds,
            "phases": phases,
        },
        "failure": None if failure is None else msgspec.to_builtins(failure),
    }
