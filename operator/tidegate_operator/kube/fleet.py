"""All deployments: what the watches tell, what the routers report, who decides and when.

Followers do everything but write: they watch, keep the demand links, judge. So a new leader acts on
what it has known all along. Three things lead to a decision: a router's line (at once), a change of
the world (through the queue), and the clock (once a second).
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import httpx
import structlog

from tidegate_billing.links import EngineCounters, ModelPricing
from tidegate_operator import plan as planning
from tidegate_operator import spec as specs
from tidegate_operator.capacity import GiveWay
from tidegate_operator.capacity import shape as shapes
from tidegate_operator.demand import Picture
from tidegate_operator.kube import events, nodes, override, report, telling
from tidegate_operator.kube.api import Api, ApiError, path_of
from tidegate_operator.kube.capacity import Capacity
from tidegate_operator.kube.children import Children
from tidegate_operator.kube.events import Events
from tidegate_operator.kube.leaving import Leaving
from tidegate_operator.kube.living import Living
from tidegate_operator.kube.model import Model
from tidegate_operator.kube.prices import Prices
from tidegate_operator.kube.queue import Queue
from tidegate_operator.kube.rounds import Rounds
from tidegate_operator.kube.scale import Scaler
from tidegate_operator.kube.state import State
from tidegate_operator.kube.verdict import Verdict, Verdicts
from tidegate_operator.local.billing import Billing
from tidegate_operator.platform import Platform
from tidegate_runtime.contract import cluster
from tidegate_runtime.contract.links import DemandLine
from tidegate_runtime.contract.spec import ModelDeployment

log = structlog.get_logger()

Object = Mapping[str, Any]
TICK_SECONDS: Final = 1.0
LATER_SECONDS: Final = 0.3
"""How much later a model that wakes is reconciled. Its events come in bursts then."""
KEPT_STARTS: Final = 10_000


class Life(NamedTuple):
    """Whose an epoch is, kept until its pod is gone: its resource may go before it, and another one
    of the same name has another guard."""

    deployment: str
    model: str
    guard: str


@dataclass(frozen=True)
class Site:
    """What the fleet works with."""

    api: Api
    billing: Billing
    platform: Platform
    guard_key: bytes
    base_url: str


class Fleet:
    """The models and their reconciliation."""

    def __init__(self, site: Site, http: httpx.AsyncClient, tasks: set[asyncio.Task[None]]) -> None:
        self.site, self._tasks = site, tasks
        self._leaving = Leaving(http, site.billing, self.spawn)
        self.picture = Picture()
        self.state = State(self._changed)
        self.verdicts = Verdicts(self.state, site.platform)
        self.models: dict[str, Model] = {}
        self.queue = Queue(self._reconcile)
        self.scaler = Scaler(site.api, self.spawn)
        self.leading = False
        self.synced = False
        self._children = Children(site.api, self.state, site.platform, site.guard_key)
        self._events = Events(site.api)
        self.capacity = Capacity(
            site.platform, self.models, self.state.owner, self._act_soon, self._gives_way
        )
        self._prices = Prices(site.billing, self._to_price, self.queue.add, self.spawn)
        self._lives: dict[str, Life] = {}
        self.living = Living(site.billing, self.models, self._lives, self.state.owner)
        self._uids: dict[str, str] = {}
        self.routers: Callable[[], Iterable[Object]] = tuple
        self._hearing = nodes.Hearing()
        self.faults = 0
        self._named = False
        self._naming = asyncio.Lock()
        self.finished: telling.Finished = deque(maxlen=KEPT_STARTS)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs `work` beside everything else."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self.faults += 1
            log.error("task_failed", exc_info=fault)

    # What comes in

    def lead(self, leading: bool) -> None:
        """Begin or stop to act."""
        self.leading = leading
        self.capacity.begin()
        if leading:
            self._prices.begin()
            for model in self.models.values():
                model.adopt()
            for key in self.state.resources:
                self.queue.add(key)
                for pod in self.state.pods_of(key):
                    self._leaves(pod)

    def heard(self, router: str, line: DemandLine) -> None:
        """A router's line; wakes what it names as having somebody waiting, at once."""
        now = time.time()
        self.picture.hear(router, line, now)
        for demand in line.models:
            if demand.held and (model := self.models.get(demand.deployment)) is not None:
                self.act(model, now)
        for said in line.replicas:
            life = self._lives.get(said.id)
            model = None if life is None else self.models.get(life.deployment)
            if model is None:
                continue
            finished = model.last_cold
            uid = model.told(said)
            if model.last_cold is not finished and model.last_cold is not None:
                self.finished.append((model.deployment, model.last_cold))
            if uid and self.leading:
                self.scaler.gate(model, uid, answered=True)

    def pod(self, obj: Object, *, deleted: bool) -> None:
        """A pod of some model."""
        known = self.state.known_pod(obj)
        self.state.pod(obj, deleted=deleted)
        if not deleted:
            self._leaves(obj)
        if known is not None and (deleted or cluster.epoch(known) != cluster.epoch(obj)):
            self._ended(cluster.epoch(known))

    def act(self, model: Model, now: float) -> None:
        """Decide for one model and begin what follows. A fault of ours in one hurts no other."""
        if not self.leading or not self.synced:
            return
        before = report.told(model)
        try:
            if any(cluster.lost(pod) for pod in model.pods.values()):
                model.failing.lost.deaf = self._hearing.deaf(self.models, self.routers, now)
            self.scaler.carry_out(model, model.evaluate(self.picture, now))
        except Exception:  # the decision's boundary: one model stops no other, nor the clock
            self.faults += 1
            log.exception("decision_failed", deployment=model.deployment)
        if before != report.told(model):
            self._look_at(model.deployment)

    def _look_around(self, now: float) -> None:
        if not self.synced:
            return
        try:
            if self.leading:
                self.capacity.look(now)
            self.living.look(self.picture, now)
        except Exception:  # the decision's boundary, as in `act`
            self.faults += 1
            log.exception("look_failed")

    def _act_soon(self, deployment: str) -> None:
        model = self.models.get(deployment)
        if model is not None:
            self.act(model, time.time())

    def _gives_way(self, give: GiveWay) -> None:
        """Begin its drain, and say so on both: as soon as what is being decided is decided."""
        asyncio.get_running_loop().call_soon(self._act_soon, give.victim)
        for deployment, told in events.of_giving_way(give):
            if (obj := self.state.resources.get(deployment)) is not None:
                self.spawn(self._events.tell(obj, told))

    def _changed(self, deployment: str) -> None:
        self._named = self._named and not self.verdicts.stale(deployment)
        self._observe(deployment)
        self._look_at(deployment)

    def _look_at(self, deployment: str) -> None:
        """Reconcile soon; while a model wakes a little later, so that no write of a status is in
        the way of the wake's own."""
        model = self.models.get(deployment)
        if model is not None and model.wakes(time.time()):
            self.queue.within(deployment, LATER_SECONDS)
        else:
            self.queue.add(deployment)

    def _observe(self, deployment: str) -> None:
        obj = self.state.resources.get(deployment)
        if obj is None or obj["metadata"]["uid"] != self._uids.get(deployment):
            # Another one of the same name begins anew, with nothing of the first one's past.
            self.models.pop(deployment, None)
            self._uids.pop(deployment, None)
            self._prices.forget(deployment, tell=self.leading)
        if obj is None:
            return
        model = self.models.get(deployment)
        if model is None:
            self._uids[deployment] = obj["metadata"]["uid"]
            model = self.models[deployment] = Model(deployment)
            model.room = self.capacity.room
            told = (obj.get("status") or {}).get("lastRequestTime")
            model.last_request = cluster.seconds(told)
        model.observe(self.state.child_of(deployment, "Deployment"), self.state.pods_of(deployment))
        for pod in model.pods.values():
            if (key := cluster.epoch(pod)) not in self._lives:
                guard = cluster.guard(self.site.guard_key, obj["metadata"]["uid"])
                self._lives[key] = Life(deployment, _called(obj), guard)

    def _leaves(self, pod: Object) -> None:
        life = self._lives.get(cluster.epoch(pod))
        if life is not None and self.leading and "deletionTimestamp" in pod["metadata"]:
            self._leaving.leaves(pod, *life)

    def _ended(self, key: str) -> None:
        life = self._lives.pop(key, None)
        if life is not None:
            self._leaving.gone(key, life.deployment, life.model, tell=self.leading)

    def served_name(self, deployment: str) -> str:
        """What a model is called by its tenants."""
        verdict = self.verdicts.of(deployment)
        if verdict is None or verdict.resource is None:
            return deployment.partition("/")[2]
        return verdict.resource.served_name

    # The clock

    async def tick(self) -> None:
        """Decides for every model once a second; looks at resources again now and then."""
        rounds = Rounds(time.monotonic())
        while True:
            now = time.time()
            self._look_around(now)
            for model in list(self.models.values()):
                self.act(model, now)
            for key in rounds.due(time.monotonic(), self.state.resources, self._reads_a_secret):
                self.queue.add(key)
            if self.leading:
                self._prices.remind()
            await asyncio.sleep(TICK_SECONDS)

    def _reads_a_secret(self, deployment: str) -> bool:
        model = self.models.get(deployment)
        if model is None or not model.pods:
            return False
        verdict = self.verdicts.of(deployment)
        return bool(verdict and verdict.resource and planning.secrets(verdict.resource))

    # Reconciliation

    async def _reconcile(self, deployment: str) -> None:
        """Bring one deployment's children and status to what they should be."""
        if not self.synced:
            self.queue.later(deployment, 0.1)
            return
        async with self._naming:
            await self._name()
        obj, verdict = self.state.resources.get(deployment), self.verdicts.of(deployment)
        model = self.models.get(deployment)
        if obj is None or verdict is None or model is None:
            return
        self._instruct(model, verdict, obj)
        if not self.leading:
            return
        error: ApiError | None = None
        if verdict.valid and verdict.resource and "deletionTimestamp" not in obj["metadata"]:
            error = await self._settle_children(verdict.resource, obj)
            self._prices.tell(self._pricing(verdict.resource))
        model.child_refused = "" if error is None or error.passing else error.message
        self.act(model, time.time())
        # Whatever the trouble with a child: what is known is told first, or nobody would learn.
        await self._report(model, verdict, deployment)
        if error is not None:
            raise error

    async def _name(self) -> None:
        """Know whose every name is, before anything is said of one."""
        if self._named:
            return
        await self.verdicts.judge()
        self._named = True
        for other in self.verdicts.settle():
            self.queue.add(other)

    def _instruct(self, model: Model, verdict: Verdict, obj: Object) -> None:
        deleting = "deletionTimestamp" in obj["metadata"]
        model.off = not verdict.valid or deleting
        if verdict.resource is None:
            return
        spec = verdict.resource.spec
        model.off = model.off or spec.suspend
        model.policy = specs.policy(verdict.resource)
        model.failing.grace_seconds = float(spec.cold_start.fail_grace_seconds)
        model.failing.timeout_seconds = float(spec.cold_start.start_timeout_seconds)
        if verdict.valid:
            model.shape = shapes.shape(verdict.resource, self.site.platform)
        model.drain_seconds = float(spec.drain.timeout_seconds)
        model.override = override.read(obj["metadata"].get("annotations") or {}, time.time())

    async def _settle_children(self, resource: ModelDeployment, obj: Object) -> ApiError | None:
        """What the API server has against a child; None where all is well."""
        try:
            await self._children.settle(resource, obj["metadata"]["uid"])
        except ApiError as error:
            return error
        return None

    def _to_price(self) -> Iterator[ModelPricing]:
        """Every model that may serve, as billing should know it."""
        for deployment in list(self.state.resources):
            verdict = self.verdicts.of(deployment)
            if verdict is not None and verdict.valid and verdict.resource is not None:
                yield self._pricing(verdict.resource)

    def _pricing(self, resource: ModelDeployment) -> ModelPricing:
        return ModelPricing(
            deployment=resource.deployment,
            model=resource.served_name,
            owner=self.state.owner(resource.deployment),
            pricing=resource.spec.pricing,
            adapters=[adapter.name for adapter in resource.spec.adapters],
        )

    async def _report(self, model: Model, verdict: Verdict, deployment: str) -> None:
        obj = self.state.resources.get(deployment)
        if obj is None:
            return
        before = obj.get("status") or {}
        priced = self._prices.of(deployment)
        if verdict.valid and priced == report.Priced() and report.tells_price(before):
            return  # what was told of it stands until billing answers, or cannot, which comes here
        after = report.written(model, verdict, priced, obj, self.site.base_url, time.time())
        if after == before:
            return
        gone = {name: None for name in before if name not in after}
        path = path_of({"kind": "ModelDeployment", "metadata": obj["metadata"]})
        try:
            answer = await self.site.api.patch(f"{path}/status", {"status": {**after, **gone}})
        except ApiError as error:
            if error.status == 404:
                self.state.resource(obj, deleted=True)
                return
            raise
        self.state.answered(deployment, answer)
        found = report.transition(before, after)
        if found is not None:
            await self._events.tell(answer, found)

    # What the operations port tells

    async def counters(self) -> list[EngineCounters]:
        """Counters of running engines, read now."""
        asked = [
            (pod, *self._lives[cluster.epoch(pod)])
            for model in self.models.values()
            for pod in model.pods.values()
        ]
        return await self._leaving.live(asked)

    def rows(self) -> list[dict[str, Any]]:
        """One row per model, as `tidegate models --json` has it."""
        return [telling.row(self, model) for model in self.models.values()]

    def starts(self) -> dict[str, Any]:
        """Scale writes (held since, acknowledged at) and finished cold starts, oldest first."""
        return telling.starts(self.scaler.writes, self.finished)

    def metrics(self) -> str:
        """Prometheus text."""
        return telling.metrics(self)


def _called(obj: Object) -> str:
    """What a resource is called by its tenants, without judging it: that takes milliseconds."""
    model = (obj.get("spec") or {}).get("model") or {}
    return str(model.get("name") or obj["metadata"]["name"])
