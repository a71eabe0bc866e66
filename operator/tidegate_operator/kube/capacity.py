"""What the pure decision on capacity needs to know, kept at hand; and what comes of it.

Nodes and everybody's pods are followed where a profile has devices, quotas always. A model that
wants more than it has asks here before its count is written, in the same call that decided so: for
one without devices and without a quota that is a look into two dictionaries. What was granted stays
granted until the world shows it, so that two wakes never count the same device.

Whoever waits is looked at again when anything changes, and once a second for what changes by
itself: the age of idle models.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import structlog

from tidegate_operator.capacity import (
    Ask,
    GiveWay,
    Idle,
    NodeView,
    Placed,
    QuotaView,
    Rules,
    Wait,
    decide,
    free,
    refused,
)
from tidegate_operator.capacity import shape as shapes
from tidegate_operator.kube.model import Model
from tidegate_operator.platform import Platform
from tidegate_runtime.contract.cluster import LABEL_MODEL, condition, label_value, seconds

log = structlog.get_logger()

Object = Mapping[str, Any]
FRESH_SECONDS: Final = 0.5
"""How long a decision holds for whoever asks again, while nothing was told."""
SOON_SECONDS: Final = 0.1
"""One look for all the events of a moment: every pod of the cluster may be one."""
SAID_SECONDS: Final = 5.0
"""How often a wait is told anew, while its reason is the same."""
OVERDUE_SECONDS: Final = 60.0
"""How long after its time a pod that ends may take, and its room still be counted on."""
UNENDED: Final = "status.phase!=Succeeded,status.phase!=Failed"


class Followed(NamedTuple):
    """What a watch is to tell whom; `fields` is a selector."""

    path: str
    shape: Any
    fields: str
    tell: Callable[[Object, bool], None]


class Asked(NamedTuple):
    """How many replicas a model wants, and how many of them are written or granted."""

    desired: int
    committed: int


class Capacity:
    """The views, the grants and the waits of all models.

    `owner`: the tenant of a deployment; `act`: decide for a deployment now; `told`: of a model
    that is to give way."""

    def __init__(
        self,
        platform: Platform,
        models: Mapping[str, Model],
        owner: Callable[[str], str],
        act: Callable[[str], None],
        told: Callable[[GiveWay], None],
    ) -> None:
        profiles = platform.profiles.values()
        self.devices = {one.gpu_resource for one in profiles if one.gpus}
        rules = platform.capacity
        self._rules = Rules(rules.give_way, float(rules.minimum_idle_seconds))
        self._models, self._owner, self._act, self._told = models, owner, act, told
        self._nodes: dict[str, NodeView] = {}
        self._pods: dict[str, Placed] = {}
        self._labelled: dict[tuple[str, str], set[str]] = {}
        self._quotas: dict[str, dict[str, QuotaView]] = {}
        self._granted: dict[str, int] = {}
        self._since: dict[str, float] = {}
        self._served: dict[str, float] = {}
        self._asked: dict[str, Asked] = {}
        self._said: dict[str, tuple[Wait, float]] = {}
        self._refusals: dict[str, refused.Refusal] = {}
        self.waits: dict[str, Wait] = {}
        self.gave_way = 0
        self._stale, self._at = True, 0.0
        self._timer: asyncio.TimerHandle | None = None

    # What the watches tell

    def follows(self) -> list[Followed]:
        """What is to be followed."""
        found = [Followed("/api/v1/resourcequotas", shapes.SlimQuota, "", self.quota)]
        if self.devices:
            found.append(Followed("/api/v1/nodes", shapes.SlimNode, "", self.node))
            found.append(Followed("/api/v1/pods", shapes.SlimPod, UNENDED, self.pod))
        return found

    def node(self, obj: Object, deleted: bool) -> None:
        """A node; only those that have devices count."""
        view = shapes.node(obj)
        known = self._nodes.get(view.name)
        if deleted or not self.devices & view.allocatable.keys():
            self._nodes.pop(view.name, None)
        else:
            self._nodes[view.name] = view
        if known != self._nodes.get(view.name):
            self._changed()

    def pod(self, obj: Object, deleted: bool) -> None:
        """Anybody's pod."""
        view = shapes.pod(obj)
        label = (obj["metadata"].get("labels") or {}).get(LABEL_MODEL)
        if label and _of_a_deployment(obj):
            place = obj["metadata"]["namespace"], label
            mine = self._labelled.setdefault(place, set())
            (mine.discard if deleted else mine.add)(view.uid)
            if not mine:
                del self._labelled[place]
        if deleted:
            self._pods.pop(view.uid, None)
        elif self._pods.get(view.uid) == view:
            return
        else:
            self._pods[view.uid] = view
        self._changed()

    def quota(self, obj: Object, deleted: bool) -> None:
        """A ResourceQuota."""
        namespace, name = obj["metadata"]["namespace"], obj["metadata"]["name"]
        view = None if deleted else shapes.quota(obj)
        known = self._quotas.setdefault(namespace, {})
        if view is None:
            known.pop(name, None)
        else:
            known[name] = view
        if not known:
            del self._quotas[namespace]
        self._changed()

    def _changed(self) -> None:
        self._stale = True
        if self.waits and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(SOON_SECONDS, self._again)

    def _again(self) -> None:
        self._timer = None
        for deployment in list(self.waits):
            self._act(deployment)

    # What models ask

    def room(self, model: Model, now: float) -> int:
        """For how many replicas there is room, those that it has among them; sets its `wait`."""
        name = model.deployment
        committed = self._committed(model)
        if model.desired <= committed or not self._counts(model):
            return max(model.desired, committed)
        asked = Asked(model.desired, committed)
        if self._stale or now - self._at > FRESH_SECONDS or self._asked.get(name) != asked:
            self._decide(list(self._asks(now)), now)
            committed = self._committed(model)
        if model.desired > committed and (wait := self.waits.get(name)) is not None:
            model.wait = self._steady(name, wait, now)
        return committed

    def _steady(self, name: str, wait: Wait, now: float) -> Wait:
        """The same words for a while: what is free changes with every pod, and each word of a
        status is a write, for each one that waits."""
        said, at = self._said.get(name, (wait, 0.0))
        if said.reason != wait.reason or now - at > SAID_SECONDS:
            self._said[name] = wait, now
            return wait
        return said

    def begin(self) -> None:
        """This operator leads from now on, or no longer: another one grants meanwhile."""
        self._granted.clear()
        self.waits.clear()
        self._since.clear()
        self._refusals.clear()
        self._stale = True

    def look(self, now: float) -> None:
        """Once a second: whoever waits, also for what was asked for already."""
        for gone in self._granted.keys() - self._models.keys():
            del self._granted[gone]
        for done in self._said.keys() - self.waits.keys():
            del self._said[done]
        asks = list(self._asks(now))
        if asks or self.waits:
            self._decide(asks, now)

    def _counts(self, model: Model) -> bool:
        shape = model.shape
        space = model.deployment.partition("/")[0]
        return shape is not None and bool(shape.device or space in self._quotas)

    def _committed(self, model: Model) -> int:
        """What is written, or granted and about to be."""
        granted = min(self._granted.get(model.deployment, 0), model.desired)
        if granted <= (model.replicas or 0):
            self._granted.pop(model.deployment, None)
            return model.replicas or 0
        self._granted[model.deployment] = granted
        return granted

    def _decide(self, asks: list[Ask], now: float) -> None:
        outcome = decide(
            asks,
            list(self._nodes.values()),
            list(self._placed(now)),
            [quota for known in self._quotas.values() for quota in known.values()],
            list(self._idle(now)),
            self._rules,
            self._served,
            now,
        )
        self._stale, self._at = False, now
        for deployment, nodes in outcome.doubted.items():
            known = self._refusals[deployment]
            self._refusals[deployment] = refused.doubted(known, nodes, now)
        before, self.waits = self.waits, dict(outcome.waits)
        for deployment, more in outcome.granted.items():
            self._granted[deployment] = self._asked[deployment].committed + more
            self._served[self._owner(deployment)] = now
        for give in outcome.gives:
            self.gave_way += 1
            self._models[give.victim].gives_way_to = give.waiter
            log.info("gives_way", deployment=give.victim, to=give.waiter)
            self._told(give)
        # Others than who asked just now may have room, or other words for why they have none.
        for deployment in before.keys() | self.waits.keys():
            if before.get(deployment) != self.waits.get(deployment):
                asyncio.get_running_loop().call_soon(self._act, deployment)

    def _asks(self, now: float) -> Iterator[Ask]:
        """Every model that has fewer replicas on nodes than it shall have."""
        asking: dict[str, float] = {}
        refusals: dict[str, refused.Refusal] = {}
        self._asked.clear()
        for name, model in self._models.items():
            if model.shape is None or model.replicas is None or not self._counts(model):
                continue
            committed = self._committed(model)
            self._asked[name] = Asked(model.desired, committed)
            total = max(model.desired, committed)
            if not total:
                continue
            there = self._there(model)
            has = min(sum(there.values()), committed)  # a rollout's further pod is not one of them
            if total <= has:
                continue
            held = model.total.held_since or now
            asking[name] = min(self._since.get(name, now), held)
            written, unseen = max(0, committed - has), max(0, committed - len(there))
            shape, words = model.shape, ""
            if said := _refused(model, there, unseen):
                known = refusals[name] = refused.told(self._refusals.get(name), said)
                shape, words = shape._replace(barred=known.barred(now)), known.message
            yield Ask(
                name,
                self._owner(name),
                shape,
                total - has,
                asking[name],
                written,
                unseen,
                has,
                words,
            )
        self._since, self._refusals = asking, refusals

    def _there(self, model: Model) -> dict[str, bool]:
        """Its pods that are not ending, and whether they are on a node: the two watches of them
        tell at different moments, and what one has told is so."""
        namespace, _, name = model.deployment.partition("/")
        found = {
            uid: not pod.leaving and bool(pod.node)
            for uid in self._labelled.get((namespace, label_value(name)), ())
            if (pod := self._pods.get(uid)) is not None and not pod.leaving
        }
        for uid, obj in model.pods.items():
            if "deletionTimestamp" in obj["metadata"]:
                found.pop(uid, None)
            elif uid not in found or not found[uid]:
                found[uid] = bool((obj.get("spec") or {}).get("nodeName"))
        return found

    def _placed(self, now: float) -> Iterator[Placed]:
        """Pods on nodes with devices, and those of ours that leave, with whose they are."""
        ours: set[str] = set()
        for name, model in self._models.items():
            least = _least(model, now)
            for number, (uid, obj) in enumerate(sorted(model.pods.items())):
                ours.add(uid)
                view = self._pods.get(uid)
                if view is None or not view.node:
                    view = shapes.pod(obj)
                ends = view.ends or seconds(obj["metadata"].get("deletionTimestamp"))
                if _overdue(ends, now):
                    yield view._replace(leaving=False)  # nobody's to make leave
                    continue
                going = uid in model.draining or uid in model.released or bool(model.gives_way_to)
                leaving = going or bool(ends)
                if not leaving and view.node not in self._nodes:
                    continue
                pinned = number < least
                quota = {} if model.shape is None else model.shape.quota
                yield Placed(uid, view.node, view.requests, name, leaving, pinned, quota)
        for uid, view in self._pods.items():
            if uid not in ours and view.node in self._nodes:
                yield view._replace(leaving=False) if _overdue(view.ends, now) else view

    def _idle(self, now: float) -> Iterator[Idle]:
        """Models that nobody uses and nothing keeps; how long they are idle is judged later."""
        for name, model in self._models.items():
            if model.shape is None or not model.pods or not model.desired or model.off:
                continue
            state, total = model.scaling, model.total
            unused = (total.in_flight, total.held) == (0, 0)
            if state is None or not unused or _least(model, now) or model.gives_way_to:
                continue
            back = {key: one * (model.replicas or 0) for key, one in model.shape.quota.items()}
            yield Idle(name, state.last_demand_at, back)

    # What the operations port tells

    def free(self, now: float) -> Iterator[tuple[str, str, float]]:
        """(node, resource, devices free) of every node that has some."""
        left = free(self._nodes.values(), self._placed(now))
        for name, view in sorted(self._nodes.items()):
            for device in sorted(self.devices & view.allocatable.keys()):
                yield name, device, left[name][device] / 1000


def _overdue(ends: float, now: float) -> bool:
    """Whether a pod should have been gone long since: a finalizer keeps it, or a broken node."""
    return bool(ends) and now - ends > OVERDUE_SECONDS


def _of_a_deployment(pod: Object) -> bool:
    """Whether a ReplicaSet of a model's made it: the label alone is anybody's."""
    owners = pod["metadata"].get("ownerReferences") or []
    return any(
        one.get("kind") == "ReplicaSet" and one.get("name", "").startswith("mdep-")
        for one in owners
    )


def _refused(model: Model, there: Mapping[str, bool], unseen: int) -> dict[str, str]:
    """What keeps all its pods without a node from one, by pod; empty: it is not known of all.
    Where there are none, it is why the count may not be written, or why they cannot be made."""
    found = {}
    for uid in (uid for uid, placed in there.items() if not placed):
        said = condition(model.pods.get(uid) or {}, "PodScheduled") or {}
        if said.get("status") != "False":
            return {}
        found[uid] = said.get("message") or said.get("reason") or "no node was found for it"
    if not found and unseen:
        blocked = "" if model.blocked is None else model.blocked.message
        if message := model.not_written or blocked:
            return {"": message}
    return found


def _least(model: Model, now: float) -> int:
    """How many replicas a warm minimum or a person keeps."""
    if model.override is not None and now < model.override.until:
        return model.override.replicas
    return model.policy.min_replicas
