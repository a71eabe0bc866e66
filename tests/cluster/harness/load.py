"""Load on the platform from a pod of the cluster, and what the engines say they generated.

The pod runs `loadgen.py` in the shipped image. It is spoken to at its own address, so that it goes
on, and can be told to, while the API server is away. Engines of the load's models write sim's truth
into their pods' own volume; it is read on the node's disk as it grows, by an open file that outlives
the pod, so that no end of a pod, however sudden, takes away what it had told.
"""

import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx
import msgspec

from . import kubectl
from .installed import RESTRICTED, Platform
from .kubectl import wait_for
from .layout import Cluster

SPACE = "load"
POD = "load"
TRUTH_FILE = "truth.ndjson"
TRUTH_PATH = f"/tmp/{TRUTH_FILE}"
PROGRAM = Path(__file__).with_name("loadgen.py")


class Asked(msgspec.Struct, frozen=True):
    """One request as its caller saw it; times are seconds since the epoch. See `loadgen`."""

    tenant: str
    model: str
    stream: bool
    prompt: int
    tokens: int
    received: int
    status: int
    request_id: str
    sent: float
    first: float
    last: float
    done: float
    gap: float
    error: str
    in_band: bool


@dataclass(frozen=True)
class Plan:
    """What callers do: `models` by their tenants' names for them, tokens as ranges. A stream that is
    to prove that it spanned an event is one of `long_seconds` and more."""

    seed: int
    models: Sequence[str]
    tenants: Sequence[str]
    stream_tokens: tuple[int, int] = (90, 130)
    plain_tokens: tuple[int, int] = (1, 8)
    think_seconds: float = 1.0
    plain_think_seconds: float = 12.0
    long_seconds: float = 10.0


def _pod(image: str) -> dict[str, Any]:
    security = {
        "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }  # fmt: skip
    container = {
        "name": "load",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "/load/loadgen.py", "/load/plan.json"],
        "securityContext": security,
        "readinessProbe": {"httpGet": {"path": "/state", "port": 8000}, "periodSeconds": 1},
        "volumeMounts": [{"name": "load", "mountPath": "/load"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": POD, "namespace": SPACE},
        "spec": {
            "restartPolicy": "Never",
            "enableServiceLinks": False,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            # It has to stay while nodes are drained and lost: what it has seen is in its memory.
            "nodeSelector": {"kubernetes.io/hostname": "node-a"},
            "tolerations": [{"operator": "Exists"}],
            "securityContext": {
                "runAsNonRoot": True, "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [{"name": "load", "secret": {"secretName": POD}}],
        },
    }  # fmt: skip


class Load:
    """The callers in the pod."""

    def __init__(self, plan: Plan, address: str) -> None:
        self.plan = plan
        self._client = httpx.Client(base_url=f"http://{address}:8000", timeout=30, trust_env=False)

    def want(self, streams: int, plain: int) -> None:
        """So many callers of each kind from now on."""
        self._client.put("/load", json={"streams": streams, "plain": plain}).raise_for_status()

    def state(self) -> dict[str, int]:
        """Counts: flowing, asked, failed, broken, callers."""
        return dict(self._client.get("/state").raise_for_status().json())

    def asked(self, count: int, seconds: float = 300) -> None:
        """Wait until so many requests have come to their end."""
        wait_for(lambda: self.state()["asked"] >= count, f"{count} requests", seconds)

    def flowing(self, count: int, seconds: float = 60) -> None:
        """Wait until so many streams have begun to be answered and not ended, at one moment."""
        wait_for(lambda: self.state()["flowing"] >= count, f"{count} streams", seconds)

    def ended(self, seconds: float = 300) -> None:
        """No more callers; wait until the last has its answer."""
        self.want(0, 0)
        wait_for(lambda: not self.state()["callers"], "the last answers", seconds)

    def transcript(self) -> list[Asked]:
        """All requests so far, in the order of their ends."""
        text = self._client.get("/transcript").raise_for_status().text
        return [msgspec.json.decode(line, type=Asked) for line in text.splitlines() if line]

    def close(self) -> None:
        """End the connection; the pod is the caller's."""
        self._client.close()


@contextmanager
def loaded(tidegate: Platform, image: str, plan: Plan) -> Iterator[Load]:
    """A load pod that is ready and asks nothing yet; gone at the end."""
    cluster = tidegate.cluster
    settings = {
        "gateway": "http://tidegate-router.tidegate-system:8080",
        "keys": {tenant: tidegate.key(tenant) for tenant in plan.tenants},
        "models": list(plan.models), "seed": plan.seed,
        "think_seconds": {"streams": plan.think_seconds, "plain": plan.plain_think_seconds},
        "stream_tokens": plan.stream_tokens, "plain_tokens": plan.plain_tokens,
    }  # fmt: skip
    files = {"loadgen.py": PROGRAM.read_text(), "plan.json": json.dumps(settings)}
    space = {"name": SPACE, "labels": RESTRICTED}
    kubectl.apply(cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": space})
    kubectl.kubectl(cluster, "-n", SPACE, "delete", "pod", POD, "--ignore-not-found", "--wait")
    secret = {"name": POD, "namespace": SPACE}
    kubectl.apply(
        cluster,
        {"apiVersion": "v1", "kind": "Secret", "metadata": secret, "stringData": files},
        _pod(image),
    )

    def ready() -> dict[str, Any] | None:
        found = kubectl.get(cluster, "pod", POD, SPACE)
        return found if kubectl.is_true(found, "Ready") else None

    pod = wait_for(ready, "the load pod", 60)
    load = Load(plan, pod["status"]["podIP"])
    try:
        yield load
    finally:
        load.close()
        kubectl.kubectl(cluster, "-n", SPACE, "delete", "pod", POD, "--wait=false")


class Told(msgspec.Struct, frozen=True):
    """An attempt in an engine's own words (sim's truth); the last line of an attempt counts."""

    attempt_id: str
    prompt_tokens: int
    generated_tokens: int
    sent_tokens: int
    outcome: str


@dataclass
class Truth:
    """The truth of all sim engines on the cluster's nodes, followed until `close`."""

    cluster: Cluster
    told: dict[str, Told] = field(default_factory=dict)
    _files: dict[tuple[int, int], tuple[IO[bytes], bytes]] = field(default_factory=dict)
    _ended: threading.Event = field(default_factory=threading.Event)

    def _paths(self) -> Iterable[Path]:
        for node in self.cluster.nodes:
            volumes = node.root / "kubelet" / "pods"
            yield from volumes.glob(f"*/volumes/kubernetes.io~empty-dir/tmp/{TRUTH_FILE}")

    def _open(self) -> None:
        for path in self._paths():
            try:
                file = path.open("rb")
            except FileNotFoundError:  # its pod was removed between look and open
                continue
            stat = os.fstat(file.fileno())
            if (stat.st_dev, stat.st_ino) in self._files:
                file.close()
            else:  # open, it keeps its inode, so no other file can have this name
                self._files[stat.st_dev, stat.st_ino] = (file, b"")

    def read(self) -> None:
        """Take in what has been written since."""
        self._open()
        for key, (file, rest) in self._files.items():
            *lines, torn = (rest + file.read()).split(b"\n")
            for line in lines:
                told = msgspec.json.decode(line, type=Told)
                self.told[told.attempt_id] = told
            self._files[key] = (file, torn)

    def follow(self) -> None:
        """Read ten times a second until told to end; a pod's volume stays longer than that."""
        while not self._ended.is_set():
            self.read()
            time.sleep(0.1)

    def close(self) -> None:
        """Read the last, and let go."""
        self._ended.set()
        self.read()
        for file, _ in self._files.values():
            file.close()


@contextmanager
def truth(cluster: Cluster) -> Iterator[Truth]:
    """Follow the engines' truth beside what the caller does."""
    told = Truth(cluster)
    thread = threading.Thread(target=told.follow, daemon=True)
    thread.start()
    try:
        yield told
    finally:
        told._ended.set()
        thread.join(10)
        told.close()
