"""Capacity as the operator keeps it: what watches tell, what models ask, what becomes of it."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import msgspec
import pytest

import planning
from owned import owned
from planning import PLATFORM, SIM
from tidegate_operator import platform
from tidegate_operator.autoscale import Override
from tidegate_operator.capacity import GiveWay, Wait, refused
from tidegate_operator.capacity import shape as shapes
from tidegate_operator.kube import events, report
from tidegate_operator.kube.api import ApiError
from tidegate_operator.kube.capacity import OVERDUE_SECONDS
from tidegate_operator.kube.fleet import Fleet, Site
from tidegate_operator.kube.model import Model
from tidegate_operator.kube.verdict import Verdict
from tidegate_runtime.contract import cluster
from tidegate_runtime.contract.links import DemandLine, ModelDemand, ReplicaDemand

GPU = "nvidia.com/gpu"
SETTINGS = platform.parse(PLATFORM + "capacity: {minimumIdleSeconds: 0}\n", "platform.yaml")
REQUESTS = {GPU: "4", "memory": "16Gi"}


class Api:
    """Takes every Event, and keeps scale writes unanswered until the test answers them."""

    def __init__(self) -> None:
        self.calls = self.failures = 0
        self.events: list[dict[str, Any]] = []
        self.scaled: dict[str, int] = {}
        self.answer = asyncio.Event()
        self.version = 100
        self.refuses: dict[str, ApiError] = {}

    async def create(self, path: str, obj: dict[str, Any]) -> dict[str, Any]:
        if path.endswith("/events"):
            self.events.append(obj)
        return obj

    async def patch(self, path: str, change: Any, kind: str = "") -> dict[str, Any]:
        if path.endswith("/scale"):
            if (error := self.refuses.get(path.split("/")[-2])) is not None:
                raise error
            self.scaled[path.split("/")[-2]] = change["spec"]["replicas"]
            await self.answer.wait()
        self.version += 1
        return {"metadata": {"resourceVersion": str(self.version)}}


def node(name: str = "node-a", gpus: str = "4", **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {"nvidia.com/gpu.product": "NVIDIA-L4"}},
        "spec": spec,
        "status": {
            "allocatable": {GPU: gpus, "memory": "64Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def pod(uid: str, name: str = "", where: str = "node-a", gpus: str = "4") -> dict[str, Any]:
    """A pod; of a model's where one is named."""
    asked = {**REQUESTS, GPU: gpus} if gpus != "0" else {"memory": "1Gi"}
    metadata: dict[str, Any] = {"uid": uid, "name": uid, "namespace": "team"}
    if name:
        metadata |= owned(name, name)
    status = {
        "podIP": "10.0.0.1",
        "containerStatuses": [{"name": "engine", "state": {"running": {}}}],
        "conditions": [{"type": cluster.ANSWERED, "status": "True", "message": f"{uid}.0"}],
    }
    spec = {"nodeName": where, "containers": [{"resources": {"requests": asked}}]}
    return {"metadata": metadata, "spec": spec, "status": status}


class World:
    """A fleet that leads, with a node of four devices."""

    def __init__(self) -> None:
        refuses = httpx.MockTransport(lambda _: httpx.Response(503))
        self.api = Api()
        site = Site(self.api, object(), SETTINGS, b"key", "")  # type: ignore[arg-type]
        self.fleet = Fleet(site, httpx.AsyncClient(transport=refuses), set())
        self.fleet.leading = self.fleet.synced = True
        self.now = time.time()
        self.fleet.capacity.node(node(), deleted=False)

    def model(
        self, name: str, *, replicas: int = 0, profile: str = "nvidia-l4:4", where: str = "node-a"
    ) -> Model:
        """A resource and its Deployment, with a pod for each replica."""
        spec = {**SIM, "resources": {"profile": profile}, "scaling": {"idleSeconds": 300}}
        metadata = {
            "namespace": "team", "name": name, "uid": name, "resourceVersion": "1", "generation": 1,
        }  # fmt: skip
        kind = {"apiVersion": "tidegate.dev/v1alpha1", "kind": "ModelDeployment"}
        obj = {**kind, "metadata": metadata, "spec": spec}
        self.fleet.state.resource(obj, deleted=False)
        model = self.fleet.models[f"team/{name}"]
        self.deployment(name, replicas)
        for number in range(replicas):
            self.pod(pod(f"{name}-{number}", name, where, profile.partition(":")[2] or "0"))
        verdict = self.fleet.verdicts.of(f"team/{name}")
        assert verdict is not None
        assert verdict.valid, verdict.message
        self.fleet._instruct(model, verdict, obj)
        return model

    def deployment(self, name: str, replicas: int) -> None:
        metadata = {
            "name": f"mdep-{name}", "namespace": "team", "resourceVersion": "2",
            "labels": {cluster.LABEL_MODEL: name},
        }  # fmt: skip
        obj = {"metadata": metadata, "spec": {"replicas": replicas}}
        self.fleet.state.child("Deployment", obj, deleted=False)

    def pod(self, obj: dict[str, Any], *, deleted: bool = False) -> None:
        """Both watches tell of it."""
        self.fleet.pod(obj, deleted=deleted)
        self.fleet.capacity.pod(obj, deleted)

    def heard(self, *, replicas: list[ReplicaDemand] | None = None, **held: int) -> None:
        """A router's line: how many wait for each model."""
        models = [
            ModelDemand(deployment=f"team/{name}", held=count, held_since=self.now if count else 0)
            for name, count in held.items()
        ]
        self.fleet.heard(
            "r", DemandLine(router="r", at=self.now, models=models, replicas=replicas or [])
        )

    async def settled(self) -> None:
        """Let what was begun go on."""
        for _ in range(10):
            await asyncio.sleep(0)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    made.api.answer.set()
    await made.settled()
    for task in list(made.fleet._tasks):  # pauses between writes
        task.cancel()
    await asyncio.gather(*made.fleet._tasks, return_exceptions=True)


async def test_a_wake_is_written_where_there_is_room(world: World) -> None:
    world.model("m")
    world.heard(m=1)
    await world.settled()
    assert world.api.scaled == {"mdep-m": 1}


async def test_two_wakes_of_one_moment_get_one_nodes_devices_once(world: World) -> None:
    """While the first one's write is under way, and while its pod is not seen."""
    first, second = world.model("first"), world.model("second")
    world.heard(first=1, second=1)
    await world.settled()
    assert world.api.scaled == {"mdep-first": 1}
    assert second.wait is not None
    world.api.answer.set()
    await world.settled()
    assert first.replicas == 1
    world.heard(second=1)
    await world.settled()
    assert world.api.scaled == {"mdep-first": 1}


async def test_who_waits_says_so_in_the_status_and_is_woken_by_what_a_watch_tells(
    world: World,
) -> None:
    stranger = pod("stranger", gpus="1")
    world.fleet.capacity.pod(stranger, deleted=False)
    model = world.model("m")
    world.heard(m=1)
    await world.settled()
    assert world.api.scaled == {}
    told = {one.type: one for one in report.conditions(model, *_said(world, model))}
    assert (told["Scaled"].status, told["Scaled"].reason) == (False, "Unschedulable")
    assert "node-a has 3 of 4 nvidia.com/gpu free" in told["Scaled"].message
    assert model.failure is not None
    assert (model.failure.reason, model.failure.final) == ("Unschedulable", False)
    assert "tidegate_capacity_waiting 1" in world.fleet.metrics()
    free = f'tidegate_devices_free{{node="node-a",resource="{GPU}"}} 3'
    assert free in world.fleet.metrics()
    world.fleet.capacity.pod(stranger, deleted=True)
    await asyncio.sleep(0.1)
    assert world.api.scaled == {"mdep-m": 1}
    assert model.wait is None
    assert model.failure is None


def _said(world: World, model: Model) -> tuple[Verdict, report.Priced, Any]:
    verdict = world.fleet.verdicts.of(model.deployment)
    assert verdict is not None
    facts = report.facts(model, verdict, deleting=False)
    return verdict, report.Priced(), report.status(facts)


async def test_an_idle_model_gives_way_and_both_are_told(world: World) -> None:
    idle = world.model("idle", replicas=1)
    wants = world.model("wants")
    world.heard()
    world.fleet.act(idle, world.now)
    world.heard(wants=1)
    assert idle.gives_way_to == "team/wants"
    await world.settled()
    assert idle.desired == 0
    assert idle.reason == "gives way to team/wants"
    assert list(idle.draining) == ["idle-0"]
    reasons = [(one["involvedObject"]["name"], one["reason"]) for one in world.api.events]
    assert reasons == [("idle", "GaveWay"), ("wants", "MadeRoom")]
    assert "tidegate_gave_way_total 1" in world.fleet.metrics()
    world.fleet.act(wants, world.now + 1)
    await world.settled()
    assert len(world.api.events) == 2, "one is leaving already"
    assert world.api.scaled == {}


async def test_demand_keeps_one_that_was_to_give_way(world: World) -> None:
    idle = world.model("idle", replicas=1)
    world.model("wants")
    world.heard()
    world.fleet.act(idle, world.now)
    world.heard(wants=1)
    await world.settled()
    assert idle.draining
    world.heard(wants=1, idle=1)
    await world.settled()
    assert not idle.draining
    assert idle.gives_way_to == ""
    assert idle.desired == 1
    assert idle.wait is None, "it has its devices still"


@pytest.mark.parametrize("held", ["minimum", "override", "demand", "silence"])
async def test_who_gives_way_to_nobody(world: World, held: str) -> None:
    idle = world.model("idle", replicas=1)
    world.model("wants")
    if held == "minimum":
        idle.policy = replace(idle.policy, min_replicas=1)
    if held == "override":
        idle.override = Override(1, world.now + 60)
    if held == "silence":
        world.fleet.picture.expect("silent", world.now)
    busy = {"idle": 1} if held == "demand" else {}
    world.heard(**busy)
    world.fleet.act(idle, world.now)
    world.heard(**busy, wants=1)
    await world.settled()
    assert idle.desired == 1
    assert not idle.draining
    assert not world.api.events


async def test_before_a_victim_drains_no_other_is_chosen(world: World) -> None:
    world.fleet.capacity.node(node("node-b"), deleted=False)
    first = world.model("first", replicas=1)
    second = world.model("second", replicas=1, where="node-b")
    world.model("wants")
    world.heard()
    for idle in (first, second):
        world.fleet.act(idle, world.now)
    world.heard(wants=1)
    world.fleet.capacity.look(world.now)
    assert sorted((first.gives_way_to, second.gives_way_to)) == ["", "team/wants"]


async def test_replicas_without_a_pod_yet_count_against_a_quota(world: World) -> None:
    world.fleet.capacity.quota(quota("2", "0"), deleted=False)
    written, _ = world.model("written", profile="cpu"), world.model("m", profile="cpu")
    world.model("n", profile="cpu")
    world.deployment("written", 1)
    written.desired = 1
    world.heard(written=1, m=1, n=1)
    await world.settled()
    assert world.api.scaled == {"mdep-m": 1}


def quota(hard: str, used: str) -> dict[str, Any]:
    status = {"hard": {"pods": hard}, "used": {"pods": used}}
    return {"metadata": {"name": "q", "namespace": "team"}, "spec": {}, "status": status}


UNBOUND = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."
FULL = f"0/1 nodes are available: 1 Insufficient {GPU}."
LATE = refused.SECONDS + 1


def pending(uid: str, name: str, message: str) -> dict[str, Any]:
    """A pod that the scheduler has refused."""
    obj = pod(uid, name, "")
    said = {"type": "PodScheduled", "status": "False", "message": message}
    return {**obj, "status": {"phase": "Pending", "conditions": [said]}}


def _at(world: World, *seconds: float) -> None:
    for second in seconds:
        world.fleet.capacity.look(world.now + second)


async def test_a_pod_that_no_node_can_help_keeps_no_device_from_others(world: World) -> None:
    """Kept warm, written, and its claim has no volume: Kubernetes reserves nothing for it."""
    broken = world.model("broken")
    broken.policy = replace(broken.policy, min_replicas=1)
    world.deployment("broken", 1)
    world.pod(pending("broken-0", "broken", UNBOUND))
    world.model("m")
    world.heard(m=1)
    _at(world, 0, 1, 2)
    await world.settled()
    assert world.api.scaled == {}, "a volume may take seconds to be made"
    _at(world, LATE)
    await world.settled()
    assert world.api.scaled == {"mdep-m": 1}
    assert broken.failure is not None
    assert broken.failure.reason == "VolumePending"


async def test_another_pod_in_its_place_is_judged_anew(world: World) -> None:
    world.model("broken")
    world.deployment("broken", 1)
    broken = pending("broken-0", "broken", UNBOUND)
    world.pod(broken)
    world.model("m")
    world.heard(broken=1, m=1)
    _at(world, 0, LATE - 2)
    world.fleet.leading = False  # nobody to settle the account of the first one with
    world.pod(broken, deleted=True)
    world.fleet.leading = True
    world.pod(pending("broken-1", "broken", UNBOUND))
    _at(world, LATE - 1, LATE, LATE + 10)
    await world.settled()
    assert world.api.scaled == {}
    _at(world, 2 * LATE)
    await world.settled()
    assert world.api.scaled == {"mdep-m": 1}


async def test_a_pod_that_waits_for_devices_alone_keeps_its_place(world: World) -> None:
    world.model("busy", replicas=1, profile="nvidia-l4:1")
    world.model("first")
    world.deployment("first", 1)
    world.pod(pending("first-0", "first", FULL))
    world.model("small", profile="nvidia-l4:1")
    world.heard(busy=1, first=1, small=1)
    _at(world, 0, LATE, 10 * LATE)
    await world.settled()
    assert world.api.scaled == {}
    world.fleet.capacity.node(node(gpus="5"), deleted=False)
    _at(world, 10 * LATE + 1, 10 * LATE + 2)
    await world.settled()
    assert world.api.scaled == {}, "there is room, and the scheduler looks again within seconds"


async def test_a_pod_that_cannot_even_be_made_keeps_no_device_from_others(world: World) -> None:
    """Somebody's pods have taken its namespace's quota since, or an admission webhook refuses it."""
    broken = world.model("broken")
    world.deployment("broken", 1)
    deployment = world.fleet.state.child_of("team/broken", "Deployment")
    assert deployment is not None
    failing = {"type": "ReplicaFailure", "status": "True", "message": "denied the request"}
    metadata = {**deployment["metadata"], "resourceVersion": "3"}
    world.fleet.state.child(
        "Deployment",
        {**deployment, "metadata": metadata, "status": {"conditions": [failing]}},
        deleted=False,
    )
    world.model("m")
    world.heard(broken=20, m=1)
    _at(world, 0, 1)
    await world.settled()
    assert world.api.scaled == {}
    _at(world, LATE)
    await world.settled()
    assert world.api.scaled == {"mdep-m": 1}
    assert broken.wait is not None, "no second one is asked for"
    assert broken.failure is not None
    assert broken.failure.reason == "PodsRefused", "which its Deployment is made to try again"


@pytest.mark.parametrize(("status", "granted"), [(403, {"mdep-m": 1}), (503, {})])
async def test_a_count_that_may_not_be_written_keeps_no_device_from_others(
    world: World, status: int, granted: dict[str, int]
) -> None:
    """An admission policy forbids it. While the API server is away, what is granted stays so."""
    world.api.refuses["mdep-first"] = ApiError(status, "", "denied the request")
    world.model("first")
    world.model("m")
    world.heard(first=1, m=1)
    await world.settled()
    _at(world, 1, 2)
    await world.settled()
    assert world.api.scaled == {}
    _at(world, LATE + 1)
    await world.settled()
    assert world.api.scaled == granted


@pytest.mark.parametrize("whose", ["", "old"])
async def test_a_pod_that_does_not_end_in_its_time_is_no_room_that_comes(
    world: World, whose: str
) -> None:
    """A finalizer that nobody takes off: who waits for its devices would keep the others for ever."""
    world.model("old")
    stuck = pod("stuck", whose, gpus="1")
    stuck["metadata"]["deletionTimestamp"] = report.stamp(world.now + 30)
    world.pod(stuck)
    world.model("big")
    world.model("small", profile="nvidia-l4:1")
    world.heard(big=1, small=1)
    _at(world, 1, 30, 60)
    await world.settled()
    assert world.api.scaled == {}
    assert "room comes free on node-a" in world.fleet.capacity.waits["team/big"].message
    _at(world, 30 + OVERDUE_SECONDS + 1)
    await world.settled()
    assert world.api.scaled == {"mdep-small": 1}


async def test_who_is_served_is_remembered_and_what_is_kept_warm_is_pinned(world: World) -> None:
    given = []
    world.fleet.capacity._told = given.append
    warm = world.model("warm", replicas=1, profile="nvidia-l4:1")
    warm.policy = replace(warm.policy, min_replicas=1)
    world.model("big")
    world.model("small", profile="nvidia-l4:1")
    world.heard(big=1)
    world.heard(big=1, small=1)
    await world.settled()
    assert world.api.scaled == {"mdep-small": 1}, "the large one can never have this node"
    assert world.fleet.capacity._served == {"team": pytest.approx(world.now, abs=60)}
    assert not given


async def test_a_quota_is_looked_at_and_a_model_without_either_is_not(world: World) -> None:
    plain, bound = world.model("plain", profile="cpu"), world.model("m")
    world.heard(plain=1)
    await world.settled()
    assert world.api.scaled == {"mdep-plain": 1}
    full = quota("1", "1")
    world.fleet.capacity.quota(full, deleted=False)
    world.heard(m=1)
    assert bound.wait is not None
    assert bound.wait.reason == "QuotaExceeded"
    assert plain.wait is None
    world.fleet.capacity.quota(full, deleted=True)
    await asyncio.sleep(0.1)
    assert world.api.scaled == {"mdep-plain": 1, "mdep-m": 1}


async def test_a_wait_whose_client_left_ends_with_the_window(world: World) -> None:
    world.fleet.capacity.pod(pod("stranger"), deleted=False)
    model = world.model("m")
    world.heard(m=1)
    assert model.wait is not None
    second = 0
    while model.wait is not None and second < 70:
        second += 1
        world.now += 1
        world.fleet.picture.hear("r", DemandLine(router="r", at=world.now), world.now)
        world.fleet.capacity.look(world.now)
        world.fleet.act(model, world.now)
    assert 50 < second < 65
    assert model.desired == 0
    assert model.failure is None
    world.fleet.capacity.look(world.now + 1)
    assert not world.fleet.capacity.waits


async def test_a_wait_is_not_told_anew_with_every_pod(world: World) -> None:
    world.fleet.capacity.pod(pod("stranger", gpus="1"), deleted=False)
    model = world.model("m")
    world.heard(m=1)
    first = model.wait
    for number in range(3):
        world.fleet.capacity.pod(pod(f"s{number}", gpus="1"), deleted=False)
        world.fleet.act(model, world.now + 1)
        assert model.wait == first
    world.fleet.act(model, world.now + 7)
    assert model.wait != first


async def test_a_follower_asks_for_nothing_and_begins_afresh(world: World) -> None:
    model = world.model("m")
    world.fleet.leading = False
    world.heard(m=1)
    assert model.wait is None
    assert world.api.scaled == {}
    model.gives_way_to = "team/other"
    world.fleet.capacity.waits["team/old"] = Wait("Unschedulable", "of an earlier time")
    world.fleet._prices.begin = lambda: None  # type: ignore[method-assign]
    world.fleet.lead(True)
    assert model.gives_way_to == ""
    assert not world.fleet.capacity.waits


async def test_a_rollouts_further_pod_is_no_replica_that_is_asked_for(world: World) -> None:
    """One serves, the next version's canary starts beside it: demand for two is written all the same."""
    world.api.answer.set()
    world.fleet.capacity.node(node("node-b"), deleted=False)
    world.model("m", replicas=1, profile="nvidia-l4:1")
    canary = pod("canary", "m", "node-b", "1")
    canary["status"]["conditions"] = []
    world.pod(canary)
    for _ in range(3):
        world.heard(m=20)
        await world.settled()
    assert world.api.scaled["mdep-m"] == 2


async def test_a_pod_with_our_label_that_nobody_of_ours_made_is_no_replica(world: World) -> None:
    world.api.answer.set()
    world.model("m", profile="nvidia-l4:1")
    stranger = pod("s", "m", "node-a", "1")
    del stranger["metadata"]["ownerReferences"]
    world.fleet.capacity.pod(stranger, deleted=False)
    world.heard(m=1)
    await world.settled()
    assert world.api.scaled["mdep-m"] == 1


async def test_one_that_leads_again_answers_nobody_with_what_it_knew(world: World) -> None:
    world.api.answer.set()
    model = world.model("m", replicas=1, profile="nvidia-l4:1")
    bad = pod("m-0", "m", "node-a", "1")
    bad["status"]["conditions"] = []
    wrong = {"waiting": {"reason": "InvalidImageName", "message": "x"}}
    bad["status"]["containerStatuses"] = [{"name": "engine", "restartCount": 0, "state": wrong}]
    world.pod(bad)
    world.heard(m=1)
    await world.settled()
    assert model.failure is not None
    assert model.failure.final
    world.fleet.lead(leading=False)
    world.pod(bad, deleted=True)
    sound = pod("m-1", "m", "node-a", "1")
    sound["status"]["conditions"] = []
    world.pod(sound)
    world.fleet.lead(leading=True)
    world.heard(m=1)
    await world.settled()
    assert model.failure is None


def test_the_events_name_the_other() -> None:
    told = dict(events.of_giving_way(GiveWay("a/idle", "b/wants")))
    assert "b/wants" in told["a/idle"].message
    assert "a/idle" in told["b/wants"].message


# What is read of Kubernetes' objects


@pytest.mark.parametrize(
    ("quantity", "amount"),
    [
        ("1", 1000), ("100m", 100), ("1.5", 1500), ("2Ki", 2_048_000), ("1k", 1_000_000),
        ("1e3", 1_000_000), ("3E", 3 * 10**21), ("16Gi", 16 * 2**30 * 1000), ("1u", 1), ("0", 0),
        ("none", 0), ("", 0), ("1Xi", 0), ("12E3", 12_000_000),
    ],
)  # fmt: skip
def test_quantities(quantity: str, amount: int) -> None:
    assert shapes.thousandths(quantity) == amount


def asks(cpu: str, **more: Any) -> dict[str, Any]:
    return {"resources": {"requests": {"cpu": cpu}}, **more}


@pytest.mark.parametrize(
    ("spec", "cpu"),
    [
        ({"containers": [asks("1"), asks("2")]}, 3000),
        ({"containers": [asks("1")], "initContainers": [asks("2")]}, 2000),
        ({"containers": [asks("1")], "initContainers": [asks("2", restartPolicy="Always")]}, 3000),
        (
            {
                "containers": [asks("1")],
                "initContainers": [asks("2", restartPolicy="Always"), asks("4")],
            },
            6000,
        ),
        ({"containers": [asks("1")], "overhead": {"cpu": "250m"}}, 1250),
        ({"containers": [asks("1")], "resources": {"requests": {"cpu": "5"}}}, 5000),
        ({"containers": [{}]}, 0),
    ],
)
def test_what_a_pod_takes(spec: dict[str, Any], cpu: int) -> None:
    assert shapes.requests(spec).get("cpu", 0) == cpu


def test_a_pod_decodes_to_what_is_counted() -> None:
    obj = pod("u", "m")
    obj["metadata"] |= {
        "deletionTimestamp": "1970-01-01T00:01:00Z",
        "managedFields": [{"manager": "m"}],
    }
    made = msgspec.json.decode(msgspec.json.encode(obj), type=shapes.SlimPod)
    assert "managedFields" not in made["metadata"]
    assert "status" not in made
    assert made["metadata"]["labels"] == {cluster.LABEL_MODEL: "m"}
    view = shapes.pod(made)
    assert (view.uid, view.node, view.leaving, view.ends) == ("u", "node-a", True, 60)
    assert view.requests[GPU] == 4000


def test_a_node_decodes_to_what_is_counted() -> None:
    taint = {"key": "k", "effect": "NoSchedule", "timeAdded": "x"}
    obj = node(taints=[taint], unschedulable=True)
    view = shapes.node(msgspec.json.decode(msgspec.json.encode(obj), type=shapes.SlimNode))
    assert view.allocatable[GPU] == 4000
    assert [tuple(one) for one in view.taints] == [("k", "", "NoSchedule")]
    assert not view.usable
    obj = node()
    obj["status"]["conditions"] = [{"type": "Ready", "status": "Unknown"}]
    assert not shapes.node(obj).usable


def test_a_quota_with_a_scope_is_not_looked_at() -> None:
    obj: dict[str, Any] = {
        "metadata": {"name": "q", "namespace": "n"}, "spec": {},
        "status": {"hard": {"requests.cpu": "2"}, "used": {"requests.cpu": "500m"}},
    }  # fmt: skip
    view = shapes.quota(obj)
    assert view is not None
    assert (view.hard["requests.cpu"], view.used["requests.cpu"]) == (2000, 500)
    assert shapes.quota({**obj, "spec": {"scopes": ["BestEffort"]}}) is None
    assert shapes.quota({**obj, "spec": {"scopeSelector": {}}}) is not None


def test_the_shape_of_a_replica_is_that_of_its_pod() -> None:
    """What is forecast is what the plan asks the scheduler for."""
    for profile in ("cpu", "nvidia-l4:2", "bare"):
        one = planning.resource(resources={"profile": profile})
        made = shapes.shape(one, planning.SETTINGS)
        spec = planning.pod(one)
        given = spec["containers"][0].get("resources", {})
        filled = {**given.get("limits", {}), **given.get("requests", {})}
        assert made.requests == shapes.amounts(filled)
        assert made.selector == spec.get("nodeSelector", {})
        assert len(made.tolerations) == len(spec.get("tolerations", []))
        assert made.device == (GPU if "gpu" in str(filled) else "")
        for name, amount in shapes.amounts(given.get("limits")).items():
            assert made.quota[f"limits.{name}"] == amount
