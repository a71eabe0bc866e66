"""Starts that fail, each for a reason of its own: told to who waits and in the resource, and mended.

One table. Every model of it is applied and asked for at once, by a plain request and by a stream;
each row then looks at what came of its own, takes the cause away and asks again. Nobody deletes a
pod or touches a resource but to take the cause away.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx
import pytest
from harness import faults
from harness.command import run
from harness.installed import SYSTEM, Platform, model
from harness.kubectl import apply, get, items, wait_for
from harness.layout import Cluster
from harness.spaces import change, fresh

from tidegate_runtime.contract import cluster as contract

GRACE = 4
"""failGraceSeconds of the models whose trouble may pass: longer than three heartbeats."""
LATE_IMAGE = "registry.invalid/tidegate-test/late:1"
LABEL = "tidegate.dev/test"
SOUND = ["--start-seconds", "0.1", "--ttft-ms", "5"]


class Place(NamedTuple):
    """Where the models are. `refusing`: a namespace whose quota allows no pod."""

    tidegate: Platform
    cluster: Cluster
    space: str
    refusing: str


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
    quota: bool = False

    @property
    def reasons(self) -> set[str]:
        """All that may be told."""
        return {self.reason, *self.then}

    def resource(self, place: "Place") -> dict[str, Any]:
        """The ModelDeployment."""
        grace = GRACE if self.passing else self.grace
        cold = {"heartbeatSeconds": 1, "failGraceSeconds": grace, "startTimeoutSeconds": 10}
        args = [*SOUND, *self.args]
        made = model(self.name, self.space(place), args=args, **{"coldStart": cold, **self.spec})
        return made

    def space(self, place: "Place") -> str:
        """Its namespace."""
        return place.refusing if self.quota else place.space


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
    have = "docker.io/library/tidegate:dev"
    for node in place.cluster.nodes:
        run("ctr", "-a", node.socket, "-n", "k8s.io", "images", "tag", have, LATE_IMAGE)


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
        pods = place.tidegate.pods(row.name, place.space)
        found = [contract.condition(pod, "PodScheduled") or {} for pod in pods]
        return any(one.get("status") == "True" for one in found)

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
    place.tidegate.kubectl(
        "-n",
        place.refusing,
        "patch",
        "resourcequota",
        "none",
        "-p",
        '{"spec":{"hard":{"pods":"9"}}}',
    )


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
        args=("--start-seconds", "3600"),
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
        "no-volume", "VolumePending", "unbound immediate PersistentVolumeClaims", volume_comes,
        spec={
            "model": {"uri": "pkg://none==1", "cache": {"size": "1Gi", "storageClass": "late"}},
            "engine": {"type": "vllm", "image": "docker.io/library/tidegate:dev", "args": []},
        },
        passing=True,
    ),
    Row("no-quota", "QuotaExceeded", "exceeded quota: none", quota_is_raised, passing=True, quota=True),
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tidegate: Platform, own_cluster: Cluster) -> Iterator[Place]:
    """Two namespaces of a tenant that may name images; the second allows no pod."""
    with (
        fresh(tidegate, "fail", "builder") as space,
        fresh(tidegate, "refuse", "builder") as refusing,
    ):
        limits = {
            "apiVersion": "v1", "kind": "ResourceQuota",
            "metadata": {"name": "none", "namespace": refusing},
            "spec": {"hard": {"pods": "0"}},
        }  # fmt: skip
        apply(own_cluster, limits)
        wait_for(
            lambda: (get(own_cluster, "resourcequota", "none", refusing) or {}).get("status"),
            "the quota in force",
        )
        tidegate.key("builder")
        yield Place(tidegate, own_cluster, space, refusing)
        tidegate.kubectl("label", "node", own_cluster.nodes[0].name, f"{LABEL}-")
        tidegate.kubectl("delete", "pv", "late", "--ignore-not-found", "--wait=false")


@pytest.fixture(scope="module")
def asked(place: Place) -> Iterator[dict[str, "Asked"]]:
    """All of the table's models, applied and asked for at once."""
    apply(place.cluster, *(row.resource(place) for row in ROWS))
    for row in ROWS:
        place.tidegate.phase(row.name, row.space(place), "Idle", seconds=30)
    with ThreadPoolExecutor(2 * len(ROWS)) as pool:
        yield {row.name: Asked(pool, place.tidegate, row.name) for row in ROWS}


class Asked:
    """A plain request and a stream, held at the same time."""

    def __init__(self, pool: ThreadPoolExecutor, tidegate: Platform, name: str) -> None:
        self.at = time.time()
        self.plain: Future[Told] = pool.submit(ask, tidegate, name, stream=False)
        self.stream: Future[Told] = pool.submit(ask, tidegate, name, stream=True)


def ask(tidegate: Platform, name: str, *, stream: bool) -> Told:
    """One request, to its end."""
    body = {
        "model": name, "max_tokens": 3, "stream": stream,
        "messages": [{"role": "user", "content": "a b c"}],
    }  # fmt: skip
    began = time.monotonic()
    with tidegate.client("builder", timeout=90) as client:
        answer: httpx.Response = client.post("/v1/chat/completions", json=body)
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
    said = answer.json() if not (stream and answer.status_code == 200) else json.loads(lines[-1])
    return Told(answer.status_code, time.monotonic() - began, said.get("error") or {}, answer.text)


def of_the_cause(told: Told, row: Row, reasons: set[str]) -> None:
    """Whether a client was told what is wrong."""
    assert told.error.get("code") == "model_start_failed", told
    message = str(told.error["message"])
    assert any(f"could not start: {reason}: " in message for reason in reasons), message
    assert row.words in message


def failure(place: Place, row: Row) -> dict[str, Any]:
    """status.failure; empty where there is none."""
    found = place.tidegate.mdep(row.name, row.space(place))
    return dict(found.get("status", {}).get("failure") or {})


def told_by_events(place: Place, row: Row) -> list[str]:
    found = items(place.cluster, "events", row.space(place))
    mine = [e for e in found if e["involvedObject"]["name"] == row.name]
    return [e["message"] for e in mine if (e["reason"], e["type"]) == (row.reason, "Warning")]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_start_that_fails(place: Place, asked: dict[str, Asked], row: Row) -> None:
    first = asked[row.name]
    plain, stream = first.plain.result(90), first.stream.result(90)
    of_the_cause(plain, row, {row.reason})
    of_the_cause(stream, row, {row.reason})
    assert plain.status == 503
    assert "[DONE]" not in stream.text
    assert stream.in_band or stream.status == 503
    if row.passing:
        assert plain.seconds >= GRACE
        assert stream.in_band, "it waited for longer than a heartbeat"
    told = wait_for(lambda: (f := failure(place, row)).get("final") and f, "it in the status", 30)
    assert told["reason"] in row.reasons
    assert told["startId"]
    healthy = place.tidegate.condition(row.name, row.space(place), "EngineHealthy")
    assert healthy["status"] == "False"
    assert healthy["reason"] in row.reasons
    events = wait_for(lambda: told_by_events(place, row), f"an Event {row.reason}", 10)
    assert row.words in "".join(events)
    again = ask(place.tidegate, row.name, stream=False)
    of_the_cause(again, row, row.reasons)
    later = failure(place, row)
    assert later["startId"] > told["startId"], "nobody is told of a start before his own"
    row.cure(place, row)
    cured = time.monotonic()
    answer, refused = served(place, row)
    print(
        f"{row.name}: {row.reason} after {plain.seconds:.1f} s, the next one {again.seconds:.1f} s; "
        f"served {time.monotonic() - cured:.1f} s after the cure, {refused} refused before"
    )
    assert answer.status == 200
    found = place.tidegate.phase(row.name, row.space(place), "Ready")
    assert "failure" not in found["status"]


def served(place: Place, row: Row, seconds: float = 60) -> tuple[Told, int]:
    """Ask until it is answered, as a client with retries does; how often it was refused before."""
    until, refused = time.monotonic() + seconds, 0
    while (told := ask(place.tidegate, row.name, stream=False)).status != 200:
        of_the_cause(told, row, row.reasons)
        assert time.monotonic() < until, told
        refused += 1
        time.sleep(1)  # a client's pace, and no wait for a state
    return told, refused
