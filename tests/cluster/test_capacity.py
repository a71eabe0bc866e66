"""Devices and quotas run short: who waits, what is said, who gives way, whose turn it is.

The GPUs are invented, and counted by the real scheduler. The engines need none.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from harness.installed import SYSTEM, Platform, model
from harness.kubectl import apply, get, items, wait_for
from harness.layout import BOX_IMAGE, Cluster
from harness.spaces import change, fresh

GPU = "nvidia.com/gpu"
EACH = 4
"""Devices of each of the two nodes."""
SLOW = ["--start-seconds", "0.1", "--ttft-ms", "5", "--tokens-per-second", "10"]


class Asked(threading.Thread):
    """A request of a tenant, in a thread of its own. `at`: when its answer was whole."""

    def __init__(self, tidegate: Platform, tenant: str, name: str, tokens: int = 2) -> None:
        super().__init__(daemon=True)
        self._ask: Callable[[], httpx.Response] = lambda: tidegate.ask(tenant, name, tokens)
        tidegate.key(tenant)
        self.answer: httpx.Response | None = None
        self.at = 0.0
        self.start()

    def run(self) -> None:
        self.answer, self.at = self._ask(), time.monotonic()

    def answered(self, seconds: float = 90) -> "Asked":
        """Wait for its end, which must be a good one."""
        self.join(seconds)
        assert self.answer is not None, "no answer yet"
        assert self.answer.status_code == 200, self.answer.text
        return self


class Stream(threading.Thread):
    """A request that is served until the test ends it."""

    def __init__(self, tidegate: Platform, tenant: str, name: str) -> None:
        super().__init__(daemon=True)
        self._url = f"{tidegate.gateway}/v1/chat/completions"
        self._headers = {"authorization": f"Bearer {tidegate.key(tenant)}"}
        self._body = {
            "model": name, "max_tokens": 100_000, "stream": True,
            "messages": [{"role": "user", "content": "a b c"}],
        }  # fmt: skip
        self._end = threading.Event()
        self.flows = threading.Event()
        self.start()

    def run(self) -> None:
        with httpx.stream(
            "POST", self._url, json=self._body, headers=self._headers, timeout=60, trust_env=False
        ) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    self.flows.set()
                if self._end.is_set():
                    return

    def end(self) -> None:
        """Its client leaves, having been served until now."""
        assert self.is_alive(), "the stream broke"
        self._end.set()
        self.join(20)


class Crowd:
    """Pods of somebody else that take devices, in a namespace of their own."""

    def __init__(self, cluster: Cluster, space: str) -> None:
        self._cluster, self._space = cluster, space

    def takes(self, node: str, gpus: int) -> str:
        """A pod on a node; its name."""
        name = f"takes-{gpus}-{node}"
        security = {
            "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"},
        }  # fmt: skip
        container = {
            "name": "box", "image": BOX_IMAGE, "command": ["sleep", "3600"],
            "resources": {"limits": {GPU: str(gpus)}}, "securityContext": security,
        }  # fmt: skip
        spec = {
            "containers": [container],
            "nodeSelector": {"kubernetes.io/hostname": node},
            "terminationGracePeriodSeconds": 0,
        }
        metadata = {"name": name, "namespace": self._space}
        apply(
            self._cluster, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        )
        wait_for(lambda: (self._pod(name).get("spec") or {}).get("nodeName"), f"{name} on its node")
        return name

    def leaves(self, name: str) -> None:
        """It ends."""
        kubectl = ("delete", "pod", name, "-n", self._space, "--force", "--grace-period=0")
        Platform(self._cluster, "", "").kubectl(*kubectl)

    def _pod(self, name: str) -> dict[str, Any]:
        return get(self._cluster, "pod", name, self._space) or {}


@pytest.fixture
def spaces(tidegate: Platform, own_cluster: Cluster) -> Iterator[tuple[str, str]]:
    """Namespaces of two tenants that have never asked for anything."""
    with ExitStack() as stack:
        made = [stack.enter_context(fresh(tidegate, f"capacity-{one}")) for one in "ab"]
        yield made[0], made[1]
        for space in made:
            tidegate.kubectl("-n", space, "delete", "mdep", "--all", "--wait=true")
        for space in made:
            wait_for(lambda space=space: not items(own_cluster, "pods", space), f"{space} empty")


@pytest.fixture
def crowd(own_cluster: Cluster, tidegate: Platform) -> Iterator[Crowd]:
    """Somebody else."""
    with fresh(tidegate, "crowd") as space:
        yield Crowd(own_cluster, space)
        words = ("delete", "pods", "--all", "-n", space, "--force", "--grace-period=0")
        tidegate.kubectl(*words)


def on_gpus(name: str, space: str, count: int, **spec: Any) -> dict[str, Any]:
    """A model whose replica takes so many devices."""
    return model(name, space, resources={"profile": f"any-gpu:{count}"}, **spec)


def put(tidegate: Platform, *models: dict[str, Any]) -> None:
    """Apply models and wait until each could be asked."""
    apply(tidegate.cluster, *models)
    for one in models:
        tidegate.phase(one["metadata"]["name"], one["metadata"]["namespace"], "Idle")


def waits(tidegate: Platform, name: str, space: str, reason: str, *words: str) -> str:
    """Wait until a model says why it waits, in these words; the message."""

    def look() -> str:
        told = tidegate.condition(name, space, "Scaled")
        said = str(told.get("message"))
        good = (told.get("status"), told.get("reason")) == ("False", reason)
        return said if good and all(word in said for word in words) else ""

    return wait_for(look, f"{space}/{name} waits: {reason} {words}", 20)


def replicas(tidegate: Platform, name: str, space: str) -> int:
    """What its Deployment asks for."""
    found = get(tidegate.cluster, "deployment", f"mdep-{name}", space) or {}
    return int(found["spec"]["replicas"])


def metrics(cluster: Cluster) -> dict[str, float]:
    """The operator's metrics, by name and labels."""
    (pod,) = items(cluster, "pods", SYSTEM, "app.kubernetes.io/component=operator")
    text = httpx.get(f"http://{pod['status']['podIP']}:9090/metrics", trust_env=False).text
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def events(cluster: Cluster, space: str, name: str, reason: str) -> list[str]:
    """Messages of a model's Events with this reason."""
    return [
        str(one["message"])
        for one in items(cluster, "events", space)
        if (one["involvedObject"]["name"], one["reason"]) == (name, reason)
    ]


def test_four_scattered_gpus_wake_no_model_of_four(
    tidegate: Platform, spaces: tuple[str, str], crowd: Crowd, own_cluster: Cluster
) -> None:
    """Others' pods are counted; who waits is answered when one of them goes."""
    space = spaces[0]
    a, b = (node.name for node in own_cluster.nodes)
    first = crowd.takes(a, 2)
    crowd.takes(b, 2)
    put(tidegate, on_gpus("big", space, 4))
    asked = Asked(tidegate, space, "big")
    said = waits(tidegate, "big", space, "Unschedulable", "place 1 of 1")
    assert f"needs 4 {GPU} on one node" in said
    for node in (a, b):
        assert f"{node} has 2 of {EACH} {GPU} free" in said
        free = f'tidegate_devices_free{{node="{node}",resource="{GPU}"}}'
        assert metrics(own_cluster)[free] == 2
    assert metrics(own_cluster)["tidegate_capacity_waiting"] == 1
    assert replicas(tidegate, "big", space) == 0
    assert asked.answer is None
    crowd.leaves(first)
    asked.answered()
    assert tidegate.pods("big", space)[0]["spec"]["nodeName"] == a
    assert metrics(own_cluster)["tidegate_capacity_waiting"] == 0
    assert tidegate.condition("big", space, "Scaled")["status"] == "True"


def test_who_waited_too_long_is_told_and_room_heals_it(
    tidegate: Platform, spaces: tuple[str, str], crowd: Crowd, own_cluster: Cluster
) -> None:
    space = spaces[0]
    names = [crowd.takes(node.name, EACH - 1) for node in own_cluster.nodes]
    put(tidegate, on_gpus("soon", space, 2, coldStart={"failGraceSeconds": 1}))
    answer = tidegate.ask(space, "soon")
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert error["code"] == "model_start_failed"
    assert "Unschedulable" in error["message"]
    assert f"needs 2 {GPU}" in error["message"]
    assert replicas(tidegate, "soon", space) == 0
    crowd.leaves(names[0])
    assert tidegate.ask(space, "soon").status_code == 200


def quota(space: str, gpus: int) -> dict[str, Any]:
    """A ResourceQuota of devices."""
    return {
        "apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": {"name": "gpus", "namespace": space},
        "spec": {"hard": {f"requests.{GPU}": str(gpus)}},
    }  # fmt: skip


def test_a_quota_is_looked_at_before_a_wake(
    tidegate: Platform, spaces: tuple[str, str], own_cluster: Cluster
) -> None:
    """And holds back who exceeds it, nobody else, and only until it is raised."""
    space, other = spaces
    apply(own_cluster, quota(space, 1))
    put(
        tidegate,
        on_gpus("two", space, 2), on_gpus("one", space, 1), on_gpus("two", other, 2),
    )  # fmt: skip
    asked = Asked(tidegate, space, "two")
    said = waits(tidegate, "two", space, "QuotaExceeded")
    assert f"ResourceQuota {space}/gpus: 0 of 1 are taken" in said
    assert tidegate.ask(space, "one").status_code == 200
    assert tidegate.ask(other, "two").status_code == 200
    assert replicas(tidegate, "two", space) == 0
    assert asked.answer is None
    apply(own_cluster, quota(space, 3))
    asked.answered()


def test_an_idle_model_gives_way_and_one_in_use_never(
    tidegate: Platform, spaces: tuple[str, str], own_cluster: Cluster
) -> None:
    space, other = spaces
    put(
        tidegate,
        on_gpus("busy", space, EACH, args=SLOW), on_gpus("idle", space, EACH),
        on_gpus("warm", other, 1), on_gpus("wants", other, EACH),
    )  # fmt: skip
    before = metrics(own_cluster)["tidegate_gave_way_total"]
    busy = Stream(tidegate, space, "busy")  # began before the other's last request
    assert busy.flows.wait(60)
    assert tidegate.ask(space, "idle").status_code == 200
    (engine,) = tidegate.pods("busy", space)
    Asked(tidegate, other, "wants").answered(90)
    assert busy.is_alive()
    assert [pod["metadata"]["uid"] for pod in tidegate.pods("busy", space)] == [
        engine["metadata"]["uid"]
    ]
    assert metrics(own_cluster)["tidegate_gave_way_total"] == before + 1
    wants, idle = f"{other}/wants", f"{space}/idle"
    wait_for(
        lambda: any(wants in one for one in events(own_cluster, space, "idle", "GaveWay")),
        "the victim's Event",
        10,
    )
    wait_for(
        lambda: any(idle in one for one in events(own_cluster, other, "wants", "MadeRoom")),
        "the other's Event",
        10,
    )
    assert not events(own_cluster, space, "busy", "GaveWay")
    # One that is kept warm gives way to nobody, however idle.
    change(tidegate, other, "wants", scaling={"minReplicas": 1})
    generation = tidegate.mdep("wants", other)["metadata"]["generation"]
    wait_for(
        lambda: tidegate.condition("wants", other, "Valid")["observedGeneration"] == generation,
        "it seen",
    )
    late = Asked(tidegate, other, "warm")
    said = waits(tidegate, "warm", other, "Unschedulable")
    assert "to leave" not in said
    busy.end()
    late.answered(90)
    assert events(own_cluster, space, "busy", "GaveWay"), "after its last request"
    assert not events(own_cluster, other, "wants", "GaveWay")
    tidegate.closes()


def test_tenants_take_turns(
    tidegate: Platform, spaces: tuple[str, str], crowd: Crowd, own_cluster: Cluster
) -> None:
    """The second tenant's first request comes before the first tenant's second."""
    mine, theirs = spaces
    taken = [crowd.takes(node.name, EACH) for node in own_cluster.nodes]
    put(
        tidegate,
        *(on_gpus(name, space, EACH) for name, space in
          (("first", mine), ("second", mine), ("other", theirs))),
    )  # fmt: skip
    asked = []
    for name, space, place in (
        ("first", mine, "place 1 of 1"), ("second", mine, "place 2 of 2"),
        ("other", theirs, "place 2 of 3"),
    ):  # fmt: skip
        asked.append(Asked(tidegate, space, name))
        waits(tidegate, name, space, "Unschedulable", place)
    waits(tidegate, "second", mine, "Unschedulable", "place 3 of 3")
    for name in taken:
        crowd.leaves(name)
    first, second, other = (one.answered(90) for one in asked)
    assert max(first.at, other.at) < second.at
