"""Starts that fail, each for a reason of its own: told to who waits and in the resource, and mended.

One table. Every model of it is applied and asked for at once, by a plain request and by a stream;
then once more; then its cause is taken away and it is asked until it answers. Nobody deletes a pod
or touches a resource but to take the cause away. The stories run beside each other, and a test
looks at what came of one.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

import httpx
import pytest
from harness import faults, installed, rest
from harness.command import run
from harness.installed import SYSTEM, Platform, model
from harness.kubectl import apply, get, is_true, items, wait_for
from harness.layout import Cluster, Node
from harness.spaces import change, fresh

from tidegate_runtime.contract import cluster as contract

GRACE = 4
"""failGraceSeconds of the models whose trouble may pass: longer than three heartbeats."""
LATE_IMAGE = "registry.invalid/tidegate-test/late:1"
LABEL = "tidegate.dev/test"
SOUND = ["--start-seconds", "0.1", "--ttft-ms", "5"]


class Place(NamedTuple):
    """Where the models are. `full`: a namespace whose quota allows no pod; `strict`: one whose limits
    allow no pod of ours, which nobody can know before it is made. `api`, `gateway`: clients of the API
    server and, with the tenant's key, of the routers."""

    tidegate: Platform
    cluster: Cluster
    space: str
    full: str
    strict: str
    api: httpx.Client
    gateway: httpx.Client

    def get(self, space: str, rest_of_path: str) -> Any:
        """A GET of the core API or, for a path that begins so, of ours."""
        ours = rest_of_path.startswith("modeldeployments")
        root = "/apis/tidegate.dev/v1alpha1" if ours else "/api/v1"
        answer = self.api.get(f"{root}/namespaces/{space}/{rest_of_path}")
        return answer.raise_for_status().json()

    def status(self, row: "Row") -> dict[str, Any]:
        """A model's status."""
        found = self.get(row.space(self), f"modeldeployments/{row.name}")
        return dict(found.get("status") or {})

    def pods(self, row: "Row") -> list[dict[str, Any]]:
        """A model's pods."""
        label = f"labelSelector=tidegate.dev/model={row.name}"
        return list(self.get(row.space(self), f"pods?{label}")["items"])


@dataclass(frozen=True)
class Row:
    """A way to fail. `spec`: what is wrong. `words`: of the cause, in every message. `passing`:
    waiting may cure it, so that it is handed out only after the grace. `then`: reasons that follow
    the first. `cure`: takes the cause away."""

    name: str
    reason: str
    words: str
    cure: Callable[["Place", "Row"], None]
    spec: Mapping[str, Any] = field(default_factory=dict)
    args: tuple[str, ...] = ()
    passing: bool = False
    grace: int = 120
    then: tuple[str, ...] = ()
    where: Literal["space", "full", "strict"] = "space"
    timeout: int = 1800

    @property
    def reasons(self) -> set[str]:
        """All that may be told."""
        return {self.reason, *self.then}

    def resource(self, place: "Place") -> dict[str, Any]:
        """The ModelDeployment."""
        grace = GRACE if self.passing else self.grace
        cold = {"heartbeatSeconds": 1, "failGraceSeconds": grace}
        cold["startTimeoutSeconds"] = self.timeout
        args = [*SOUND, *self.args]
        return model(self.name, self.space(place), args=args, **{"coldStart": cold, **self.spec})

    def space(self, place: "Place") -> str:
        """Its namespace."""
        return str(getattr(place, self.where))


class Told(NamedTuple):
    """What a client got. `error`: the OpenAI error, of the answer or in its stream."""

    status: int
    seconds: float
    error: Mapping[str, Any]
    text: str

    @property
    def in_band(self) -> bool:
        """Whether the answer had begun with a heartbeat when the failure came."""
        return self.status == 200 and self.text.startswith(": held")


def mended(**fields: Any) -> Callable[[Place, Row], None]:
    """The cause is in the resource."""
    return lambda place, row: change(place.tidegate, row.space(place), row.name, **fields)


def sound_args(place: Place, row: Row) -> None:
    change(place.tidegate, row.space(place), row.name, engine={"args": SOUND})


def image_comes(place: Place, row: Row) -> None:
    """What no registry had is on the nodes now."""
    del row
    on_nodes(place.cluster, "tag", "docker.io/library/tidegate:dev", LATE_IMAGE)


def on_nodes(cluster: Cluster, *words: str) -> None:
    for node in cluster.nodes:
        run("ctr", "-a", node.socket, "-n", "k8s.io", "images", *words)


def node_comes(place: Place, row: Row) -> None:
    del row
    place.tidegate.kubectl("label", "node", place.cluster.nodes[0].name, f"{LABEL}=somewhere")


def volume_comes(place: Place, row: Row) -> None:
    """A volume for its claim; its pod is placed then, and has no fetcher in its image: the model
    becomes one that needs none."""
    assert place.cluster.folder is not None
    volume = {
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "late"},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "storageClassName": "late", "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": str(place.cluster.folder / "late"), "type": "DirectoryOrCreate"},
        },
    }  # fmt: skip
    apply(place.cluster, volume)

    def placed() -> bool:
        return any(is_true(pod, "PodScheduled") for pod in place.pods(row))

    wait_for(placed, "its pod placed", 30)
    sim_instead(place, row)


def sim_instead(place: Place, row: Row) -> None:
    spec = {
        "model": {"uri": f"sim://{row.name}", "cache": None},
        "engine": {"type": "sim", "image": "", "args": SOUND},
    }
    change(place.tidegate, place.space, row.name, **spec)


def quota_is_raised(place: Place, row: Row) -> None:
    del row
    more = '{"spec":{"hard":{"pods":"9"}}}'
    place.tidegate.kubectl("-n", place.full, "patch", "resourcequota", "none", "-p", more)


def limits_go(place: Place, row: Row) -> None:
    del row
    place.tidegate.kubectl("-n", place.strict, "delete", "limitrange", "tiny")


ROWS = [
    Row(
        "no-image", "ImagePullBackOff", LATE_IMAGE, image_comes,
        spec={"engine": {"image": LATE_IMAGE}}, passing=True,
    ),
    Row(
        "bad-image", "InvalidImageName", "Not/An:Image", mended(engine={"image": ""}),
        spec={"engine": {"image": "Not/An:Image"}},
    ),
    Row(
        "loops", "CrashLoopBackOff", "CUDA out of memory", sound_args,
        args=("--fail", "die-at-start"), then=("EngineExited",),
    ),
    Row(
        "exits", "EngineExited", "Engine core initialization failed", sound_args,
        args=("--fail", "die-at-start"), grace=0, then=("CrashLoopBackOff",),
    ),
    Row(
        "too-big", "OOMKilled", "more memory than resources.profile allows",
        mended(resources={"profile": "cpu"}), spec={"resources": {"profile": "too-small"}},
    ),
    Row(
        "no-node", "Unschedulable", "didn't match Pod's node affinity/selector", node_comes,
        spec={"resources": {"profile": "nowhere"}}, passing=True,
    ),
    Row(
        "hangs", "StartTimeout", "its last step: the engine is loading", sound_args,
        args=("--start-seconds", "3600"), timeout=10,
    ),
    Row(
        "wrong-answer", "AnswerFailed", "was answered 500", sound_args,
        args=("--fail", "http500@1"),
    ),
    Row(
        "dies-answering", "AnswerFailed", "the readiness request failed", sound_args,
        args=("--fail", "crash@0"), then=("CrashLoopBackOff", "EngineExited"),
    ),
    Row(
        "no-model", "ModelNotFound", "there is no such file or folder", sim_instead,
        spec={
            "model": {"uri": "file:///opt/models/none.gguf"},
            "engine": {"type": "vllm", "args": []}, "resources": {"profile": installed.WEIGHTS},
        },
    ),
    Row(
        "no-volume", "VolumePending", "unbound immediate PersistentVolumeClaims", volume_comes,
        spec={
            "model": {"uri": "pkg://none==1", "cache": {"size": "1Gi", "storageClass": "late"}},
            "engine": {"type": "vllm", "image": "docker.io/library/tidegate:dev", "args": []},
        },
        passing=True,
    ),
    Row("no-quota", "QuotaExceeded", "/none: 0 of 0 are taken", quota_is_raised, passing=True, where="full"),
    Row("too-strict", "PodsRefused", "maximum memory usage per Container is", limits_go, passing=True, where="strict"),
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tidegate: Platform, own_cluster: Cluster, engine: Future[None]) -> Iterator[Place]:
    """Three namespaces of a tenant that may name images; two allow no pod."""
    engine.result()
    on_nodes(own_cluster, "rm", LATE_IMAGE)
    with (
        fresh(tidegate, "fail", "builder") as space,
        fresh(tidegate, "full", "builder") as full,
        fresh(tidegate, "strict", "builder") as strict,
        rest.client(own_cluster) as api,
        tidegate.client("builder", timeout=150) as gateway,
    ):
        quota = {
            "apiVersion": "v1", "kind": "ResourceQuota",
            "metadata": {"name": "none", "namespace": full},
            "spec": {"hard": {"pods": "0"}},
        }  # fmt: skip
        limits = {
            "apiVersion": "v1", "kind": "LimitRange",
            "metadata": {"name": "tiny", "namespace": strict},
            "spec": {"limits": [{"type": "Container", "max": {"memory": "1Mi"}}]},
        }  # fmt: skip
        apply(own_cluster, quota, limits)
        wait_for(
            lambda: (get(own_cluster, "resourcequota", "none", full) or {}).get("status"),
            "the quota in force",
        )
        yield Place(tidegate, own_cluster, space, full, strict, api, gateway)
        tidegate.kubectl("label", "node", own_cluster.nodes[0].name, f"{LABEL}-")
        tidegate.kubectl("delete", "pv", "late", "--ignore-not-found", "--wait=false")


class Story(NamedTuple):
    """What came of a model: the first two requests, the resource's word then, one more request, and
    what was seen after the cure."""

    plain: Told
    stream: Told
    seconds: float
    first: Mapping[str, Any]
    again: Told
    second: Mapping[str, Any]
    cured: "Cured"


class Cured(NamedTuple):
    """What came after a cure. `refused`: the answers of before it had an effect."""

    answer: Told
    refused: list[Told]
    seconds: float
    status: Mapping[str, Any]


@pytest.fixture(scope="module")
def stories(place: Place) -> Iterator[dict[str, Future[Story]]]:
    """All of the table's models, applied and asked for at once."""
    apply(place.cluster, *(row.resource(place) for row in ROWS))
    for row in ROWS:
        wait_for(lambda row=row: place.status(row).get("phase") == "Idle", f"{row.name} idle", 30)
    with ThreadPoolExecutor(len(ROWS)) as pool:
        yield {row.name: pool.submit(story, place, row) for row in ROWS}


def story(place: Place, row: Row) -> Story:
    """A model's whole life."""
    at = time.time()
    with ThreadPoolExecutor(2) as both:
        plain = both.submit(ask, place, row.name, stream=False)
        stream = both.submit(ask, place, row.name, stream=True)
    first = wait_for(
        lambda: (s := place.status(row)).get("failure", {}).get("final") and s, row.name, 60
    )
    seconds = datetime.fromisoformat(first["failure"]["at"]).timestamp() - at
    again = ask(place, row.name, stream=False)
    second = place.status(row)
    row.cure(place, row)
    return Story(plain.result(), stream.result(), seconds, first, again, second, served(place, row))


def served(place: Place, row: Row, limit: float = 120) -> Cured:
    """Ask until it is answered, as a client with retries does."""
    began, refused = time.monotonic(), list[Told]()
    while (told := ask(place, row.name, stream=False)).status != 200:
        refused.append(told)
        assert time.monotonic() - began < limit, told
        time.sleep(1)  # a client's pace, and no wait for a state
    took = time.monotonic() - began
    status = wait_for(
        lambda: (s := place.status(row)).get("phase") == "Ready" and s, f"{row.name} Ready", 30
    )
    return Cured(told, refused, took, status)


def ask(place: Place, name: str, *, stream: bool) -> Told:
    """One request, to its end."""
    body = {
        "model": name, "max_tokens": 3, "stream": stream,
        "messages": [{"role": "user", "content": "a b c"}],
    }  # fmt: skip
    began = time.monotonic()
    answer = place.gateway.post("/v1/chat/completions", json=body)
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
    said = answer.json() if not (stream and answer.status_code == 200) else json.loads(lines[-1])
    return Told(answer.status_code, time.monotonic() - began, said.get("error") or {}, answer.text)


def of_the_cause(told: Told, row: Row, reasons: set[str]) -> None:
    """Whether a client was told what is wrong."""
    assert told.error.get("code") == "model_start_failed", told
    message = str(told.error["message"])
    assert any(f"could not start: {reason}: " in message for reason in reasons), message
    assert row.words in message


def events(place: Place, row: Row) -> str:
    """What was told of it by Events with the row's reason."""
    found = place.get(row.space(place), "events")["items"]
    mine = [e for e in found if e["involvedObject"]["name"] == row.name]
    return "".join(
        e["message"] for e in mine if (e["reason"], e["type"]) == (row.reason, "Warning")
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_start_that_fails(place: Place, stories: dict[str, Future[Story]], row: Row) -> None:
    found = stories[row.name].result(240)
    plain, stream, cured = found.plain, found.stream, found.cured
    print(
        f"{row.name}: {row.reason} known after {found.seconds:.1f} s, told after {plain.seconds:.1f}"
        f" and {found.again.seconds:.1f} s; served {cured.seconds:.1f} s after the cure,"
        f" {len(cured.refused)} refused before"
    )
    of_the_cause(plain, row, {row.reason})
    of_the_cause(stream, row, {row.reason})
    assert plain.status == 503
    assert "[DONE]" not in stream.text
    assert stream.in_band or stream.status == 503
    if row.passing:
        assert plain.seconds >= GRACE
        assert stream.in_band, "it waited for longer than a heartbeat"
    for told in (found.again, *cured.refused):
        of_the_cause(told, row, row.reasons)
    first, second = found.first["failure"], found.second["failure"]
    assert first["reason"] in row.reasons
    assert second["startId"] > first["startId"], "nobody is told of a start before his own"
    healthy = next(one for one in found.first["conditions"] if one["type"] == "EngineHealthy")
    assert healthy["status"] == "False"
    assert healthy["reason"] in row.reasons
    assert row.words in wait_for(lambda: events(place, row), f"an Event {row.reason}", 10)
    assert cured.answer.status == 200
    assert "failure" not in cured.status


HUNG = Row("stuck", "EngineHung", "its counters stand still", sound_args)


def test_an_engine_that_hangs(place: Place, stories: dict[str, Future[Story]]) -> None:
    """The request that waited for it is answered by its successor; the pod goes within seconds."""
    wait(stories.values())
    apply(place.cluster, model(HUNG.name, place.space, engine={"stallSeconds": 2}))
    known(place, HUNG)
    assert ask(place, HUNG.name, stream=False).status == 200
    (old,) = place.pods(HUNG)
    url = f"http://{old['status']['podIP']}:{contract.ENGINE_PORT}/sim/faults"
    headers = {"authorization": f"Bearer {place.tidegate.guard(HUNG.name, place.space)}"}
    httpx.put(
        url, json={"fail": "hang"}, headers=headers, trust_env=False, timeout=10
    ).raise_for_status()
    assert ask(place, HUNG.name, stream=False).status == 200
    assert HUNG.words in wait_for(lambda: events(place, HUNG), "its Event", 10)
    wait_for(lambda: len(place.pods(HUNG)) == 1, "the old pod's end", 60)
    assert place.pods(HUNG)[0]["metadata"]["uid"] != old["metadata"]["uid"]
    wait_for(lambda: place.status(HUNG).get("phase") == "Ready", "all well again")
    place.tidegate.closes()


LOST = Row("far", "NodeLost", "has lost the node", sound_args)


def test_a_node_that_is_lost(place: Place, stories: dict[str, Future[Story]]) -> None:
    """Its replica is told as lost and replaced elsewhere within seconds; a stream on it ends well,
    for the node may be only unheard of; its pod ends when the node is back, and is counted."""
    wait(stories.values())
    for space in (place.space, place.full, place.strict):
        place.tidegate.kubectl("-n", space, "delete", "mdep", "--all", "--wait=true")
        wait_for(lambda space=space: not place.get(space, "pods")["items"], "no other pods", 90)
    here, there = nodes(place)
    long = ["--start-seconds", "0.1", "--ttft-ms", "5", "--tokens-per-second", "5"]
    with closed(place, here.name):
        apply(place.cluster, model(LOST.name, place.space, args=long, drain={"timeoutSeconds": 60}))
        known(place, LOST)
        assert ask(place, LOST.name, stream=False).status == 200
    # What the kubelet has not told yet, the node's controller has nothing to take back of.
    wait_for(lambda: [is_true(pod, "Ready") for pod in place.pods(LOST)] == [True], "it is Ready")
    (old,) = place.pods(LOST)
    assert old["spec"]["nodeName"] == there.name
    with ThreadPoolExecutor(1) as pool, faults.silent(place.cluster, there):
        began = time.monotonic()
        stream = pool.submit(streamed, place, LOST.name, 175)

        def told() -> bool:
            found = place.status(LOST).get("failure") or {}
            return found.get("reason") == LOST.reason

        wait_for(told, "the loss told", 60)
        seen = time.monotonic()
        wait_for(lambda: LOST.words in events(place, LOST), "its Event", 10)

        def replaced() -> dict[str, Any] | None:
            pods = [p for p in place.pods(LOST) if p["metadata"]["uid"] != old["metadata"]["uid"]]
            return next((pod for pod in pods if is_true(pod, "Ready")), None)

        new = wait_for(replaced, "another replica", 90)
        ready = time.monotonic()
        assert new["spec"]["nodeName"] == here.name
        assert ask(place, LOST.name, stream=False).status == 200
        wait_for(lambda: place.status(LOST).get("phase") == "Ready", "all well again")
        assert "failure" not in place.status(LOST)
        gone = [p for p in place.pods(LOST) if "deletionTimestamp" in p["metadata"]]
        assert [p["metadata"]["uid"] for p in gone] == [old["metadata"]["uid"]], "one, and its own"
        assert stream.result(60).endswith("data: [DONE]\n\n")
    print(f"loss told {seen - began:.1f} s, replica {ready - began:.1f} s after the kubelet's end")
    wait_for(lambda: len(place.pods(LOST)) == 1, "the old pod's end", 60)
    place.tidegate.closes()


def nodes(place: Place) -> tuple[Node, Node]:
    """The node that the router is on, and the other one."""
    (router,) = items(place.cluster, "pods", SYSTEM, "app.kubernetes.io/component=router")
    here = [node for node in place.cluster.nodes if node.name == router["spec"]["nodeName"]]
    there = [node for node in place.cluster.nodes if node.name != router["spec"]["nodeName"]]
    return here[0], there[0]


@contextmanager
def closed(place: Place, node: str) -> Iterator[None]:
    """A node that takes no new pod inside of the block."""
    place.tidegate.kubectl("cordon", node)
    try:
        yield
    finally:
        place.tidegate.kubectl("uncordon", node)


def known(place: Place, row: Row) -> None:
    """Wait until the router has heard of a model that was just applied."""
    path = f"/v1/models/{row.name}"
    wait_for(lambda: place.gateway.get(path).status_code == 200, f"{row.name} known", 30)


def streamed(place: Place, name: str, tokens: int) -> str:
    """A stream of so many tokens, whole."""
    body = {
        "model": name, "max_tokens": tokens, "stream": True,
        "messages": [{"role": "user", "content": "a b c"}],
    }  # fmt: skip
    return place.gateway.post("/v1/chat/completions", json=body).text
