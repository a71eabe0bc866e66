"""Carries out what a model's steps say: scale writes, marks, gates, pods let go.

A wake comes here straight from the socket of a router's demand link: one PATCH, past every queue.
Everything is asked for again until the world shows it, so a call that fails needs no memory; a
call that is under way is not made twice.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

import structlog

from tidegate_operator.kube.api import STRATEGIC, Api, ApiError, collection
from tidegate_operator.kube.model import Model, Steps
from tidegate_operator.kube.pods import CHEAPEST, DELETION_COST, cheapest
from tidegate_operator.kube.report import stamp
from tidegate_operator.plan.pod import GRACE_BEYOND_DRAIN
from tidegate_runtime.contract import cluster

log = structlog.get_logger()

Object = Mapping[str, Any]
Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
PAUSE: Final = 0.2
"""Seconds between a write that failed and the next try: a router's line asks for one at once."""

AHEAD_SECONDS: Final = 5.0
"""How long a watch may lag behind a write of ours before it is made again."""


class Scaler:
    """Writes for all models. `writes`: (deployment, held since, acknowledged at) of scale writes."""

    def __init__(self, api: Api, spawn: Spawn) -> None:
        self._api, self._spawn = api, spawn
        self._under_way: set[tuple[str, ...]] = set()
        self._ahead: dict[str, int] = {}  # versions of pods that the watch has yet to show
        self.failures = 0
        self.writes: list[tuple[str, float, float]] = []

    def carry_out(self, model: Model, steps: Steps) -> None:
        """Begin what is to be done now. Never waits."""
        # One write of a count at a time, whatever it is for: two could overtake each other.
        if steps.replicas is not None:
            self._once(("scale", model.deployment), self._scale(model, steps.replicas))
        elif steps.release:
            self._once(("scale", model.deployment), self._release(model, steps.release))
        if model.failing.nudge:
            self._once(("nudge", model.deployment), self._nudged(model))
        marks = model.marks()
        for uid in marks.set:
            self._annotate(model, uid, {cluster.DRAINING: model.mark(uid)})
        for uid in marks.clear:
            self._annotate(model, uid, {cluster.DRAINING: None, DELETION_COST: None})
        for uid, pod in model.pods.items():
            gate = cluster.condition(pod, cluster.ANSWERED)
            if gate is not None and gate.get("status") == "True" and not cluster.answered(pod):
                self.gate(model, uid, answered=False)  # of a former life
        for uid in model.discard(time.time()):
            path = self._pod_path(model.pods[uid])
            # One that never served anybody has nothing to see out, though it may look busy: an
            # engine that hangs would keep its devices from its successor for the whole drain.
            grace = None if model.has_served(uid) else GRACE_BEYOND_DRAIN
            self._once(("delete", uid), self._api.delete(path, grace))

    def gate(self, model: Model, uid: str, *, answered: bool) -> None:
        """Set the readiness gate of a pod for this life of its engine."""
        pod = model.pods[uid]
        if self._ahead.get(uid, 0) > _version(pod):
            return  # the last write is not seen yet, and may be this one
        condition = {
            "type": cluster.ANSWERED,
            "status": str(answered),
            "reason": "Answered" if answered else "Restarted",
            "message": cluster.epoch(pod),
            "lastTransitionTime": stamp(time.time()),
        }
        self._once(("gate", cluster.epoch(pod)), self._gated(pod, condition))

    async def _gated(self, pod: Object, condition: Object) -> None:
        path, change = f"{self._pod_path(pod)}/status", {"status": {"conditions": [condition]}}
        answer = await self._api.patch(path, change, STRATEGIC)
        uid = pod["metadata"]["uid"]
        self._ahead[uid] = _version(answer)
        asyncio.get_running_loop().call_later(AHEAD_SECONDS, self._ahead.pop, uid, None)

    def _annotate(self, model: Model, uid: str, annotations: Mapping[str, str | None]) -> None:
        change = {"metadata": {"annotations": annotations}}
        path = self._pod_path(model.pods[uid])
        self._once(("mark", uid), self._patched(path, change, STRATEGIC))

    async def _patched(self, path: str, change: Object, kind: str) -> None:
        await self._api.patch(path, change, kind)

    async def _nudged(self, model: Model) -> None:
        # A ReplicaSet whose pods are refused tries again ever later; one that changes, at once. Its
        # Deployment hands its annotations down.
        namespace, name = model.deployment.split("/")
        path = f"{collection('Deployment', namespace)}/{cluster.child_name(name)}"
        annotations = {cluster.TRIED: stamp(time.time())}
        await self._patched(path, {"metadata": {"annotations": annotations}}, STRATEGIC)

    async def _scale(self, model: Model, replicas: int) -> None:
        namespace, name = model.deployment.split("/")
        path = f"{collection('Deployment', namespace)}/{cluster.child_name(name)}/scale"
        began = model.total.held_since
        try:
            answer = await self._api.patch(path, {"spec": {"replicas": replicas}})
        except ApiError as error:
            model.not_written = "" if error.passing else error.message
            raise
        model.not_written, now = "", time.time()
        log.info("scaled", deployment=model.deployment, replicas=replicas, reason=model.reason)
        model.scaled(replicas, now, int(answer["metadata"].get("resourceVersion") or 0))
        self.writes.append((model.deployment, began, now))
        del self.writes[:-10_000]

    async def _release(self, model: Model, pods: tuple[str, ...]) -> None:
        cheap = {"metadata": {"annotations": {DELETION_COST: CHEAPEST}}}
        for uid in pods:
            pod = model.pods.get(uid)
            if pod is not None and not cheapest(pod):
                await self._api.patch(self._pod_path(pod), cheap, STRATEGIC)
        seen = [uid for uid in pods if uid in model.pods and cheapest(model.pods[uid])]
        since = {uid: model.draining[uid] for uid in seen if uid in model.draining}
        if not since or len(seen) < len([uid for uid in pods if uid in model.pods]):
            return  # taken back meanwhile, or the marks have yet to come back from the server
        try:
            await self._scale(model, model.let_go(tuple(since), time.time()))
        finally:
            model.keep(tuple(since), since)

    @staticmethod
    def _pod_path(pod: Object) -> str:
        metadata = pod["metadata"]
        return f"{collection('Pod', metadata['namespace'])}/{metadata['name']}"

    def _once(self, key: tuple[str, ...], work: Coroutine[Any, Any, None]) -> None:
        if key in self._under_way:
            work.close()
            return
        self._under_way.add(key)
        self._spawn(self._do(key, work))

    async def _do(self, key: tuple[str, ...], work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except ApiError as error:
            if error.status != 404:  # what is gone needs nothing
                self.failures += 1
                log.warning("write_failed", what=key[0], on=key[1], error=error.message[:300])
            await asyncio.sleep(PAUSE)
        finally:
            self._under_way.discard(key)


def _version(obj: Object) -> int:
    return int(obj.get("metadata", {}).get("resourceVersion") or 0)
