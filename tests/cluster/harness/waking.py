"""Wakes one model after the other from zero, and notes what a client and the cluster see of it.

Beside each wake, a bare Deployment of the same pods is scaled up by `kubectl scale`: what
Kubernetes itself takes on this machine, in the same minutes. One at a time, and each when no pod is
left of what was before: where nodes and control plane are one machine, ending a pod costs as much
as starting one; and a pod's creation then belongs to the one scale write before it. All clocks are
one clock on a cluster of ours.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Any, NamedTuple

import httpx

from . import installed, kubectl, rest
from .installed import Platform
from .layout import Cluster

PLAIN = "plain"
HEARTBEAT = ":"
SIM = ["--start-seconds", "0.1", "--ttft-ms", "0", "--tokens-per-second", "0"]
ZERO_SECONDS = 120.0
QUICKLY = {"stableWindowSeconds": 1, "scaleDownDelaySeconds": 0}
"""To zero as soon as may be: a run spends its time on wakes."""


@dataclass
class Pod:
    """A pod on its way; times of arrival here, 0: not yet."""

    name: str
    model: str
    seen: float
    addressed: float = 0.0


class Asked(NamedTuple):
    """One request as its client saw it. `first`: when the first data came, heartbeats apart."""

    model: str
    sent: float
    first: float = 0.0
    done: float = 0.0
    request: str = ""
    error: str = ""


class Woken(NamedTuple):
    """A request, the pod that it made, and when that pod's engine said that it could answer."""

    asked: Asked
    pod: Pod
    able: float


class Scaled(NamedTuple):
    """A `kubectl scale` of the bare Deployment: when it was begun, and when its pod was seen."""

    begun: float
    seen: float


@dataclass
class Pods:
    """The pods of a namespace, by uid, as a watch tells them. Use it under `lock`."""

    lock: Condition = field(default_factory=Condition)
    live: dict[str, Pod] = field(default_factory=dict)
    ended: bool = False

    def take(self, kind: str, obj: dict[str, Any], now: float) -> None:
        """One event of the watch."""
        metadata = obj["metadata"]
        label = metadata.get("labels", {}).get
        model = label("tidegate.dev/model") or label("app") or ""
        with self.lock:
            if kind == "DELETED":
                self.live.pop(metadata["uid"], None)
            else:
                pod = self.live.setdefault(metadata["uid"], Pod(metadata["name"], model, now))
                if obj.get("status", {}).get("podIP") and not pod.addressed:
                    pod.addressed = now
            self.lock.notify_all()

    def of(self, model: str) -> list[Pod]:
        """The pods of a model, the newest last."""
        return [pod for pod in self.live.values() if pod.model == model]

    def wait(self, held: Callable[[], bool], what: str, seconds: float = ZERO_SECONDS) -> None:
        """Wait until `held`. Raises TimeoutError."""
        with self.lock:
            if not self.lock.wait_for(lambda: held() or self.ended, seconds) or self.ended:
                raise TimeoutError(f"{what}: not within {seconds:.0f} s")


@contextmanager
def watched(cluster: Cluster, space: str) -> Iterator[tuple[Pods, httpx.Client]]:
    """The pods of a namespace, followed beside what the caller does; and a client of the API."""
    pods = Pods()
    path = f"/api/v1/namespaces/{space}/pods"
    params: dict[str, str | int] = {"watch": 1, "timeoutSeconds": 7200}

    def follow(api: httpx.Client) -> None:
        try:
            with api.stream("GET", path, params=params, timeout=None) as answer:
                for line in answer.iter_lines():
                    event = json.loads(line)
                    pods.take(event["type"], event["object"], time.time())
        except httpx.HTTPError:
            pass  # the proxy was ended, by us at the end; a waiter is told below
        with pods.lock:
            pods.ended = True
            pods.lock.notify_all()

    with rest.client(cluster) as api:
        thread = Thread(target=follow, args=(api,), daemon=True)
        thread.start()
        yield pods, api
    thread.join(10)


def ask(gateway: str, key: str, model: str) -> Asked:
    """One streamed chat, on a connection of its own, so that the Service picks a router afresh."""
    body = {
        "model": model, "max_tokens": 4, "stream": True,
        "messages": [{"role": "user", "content": "wake up"}],
    }  # fmt: skip
    first, request, ended = 0.0, "", False
    headers = {"authorization": f"Bearer {key}"}
    # The client is made before the clock starts: what it costs is not the platform's.
    with httpx.Client(base_url=gateway, headers=headers, timeout=300, trust_env=False) as client:
        sent = time.time()
        try:
            with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                request = answer.headers.get("x-request-id", "")
                if answer.status_code != 200:
                    said = answer.read().decode(errors="replace")
                    return Asked(model, sent, request=request, error=f"{answer.status_code} {said}")
                for line in answer.iter_lines():
                    if line and not line.startswith(HEARTBEAT):
                        first = first or time.time()
                        ended = ended or line == "data: [DONE]"
        except httpx.HTTPError as fault:
            return Asked(model, sent, first, 0.0, request, f"{type(fault).__name__} {fault}")
    error = "" if ended and first else "the stream ended without [DONE]"
    return Asked(model, sent, first, time.time(), request, error)


def able(api: httpx.Client, space: str, pod: str) -> float:
    """When the engine said that it was ready, from its log. Raises TimeoutError where it did not."""
    path = f"/api/v1/namespaces/{space}/pods/{pod}/log"

    def look() -> float:
        for line in api.get(path, params={"container": "engine"}).text.splitlines():
            said = json.loads(line) if line.startswith("{") else {}
            if said.get("event") == "ready":
                return float(said["at"])
        return 0.0

    # A line reaches the log's file after the engine has gone on.
    return kubectl.wait_for(look, f"the log of {pod}", 5)


class Plant:
    """Models at zero and a bare Deployment, in a namespace of their own."""

    def __init__(self, tidegate: Platform, space: str, names: list[str], idle: int) -> None:
        self.tidegate, self.space, self.names = tidegate, space, names
        cluster = tidegate.cluster
        installed.namespace(cluster, space)
        kubectl.apply(
            cluster,
            *(installed.model(name, space, idle=idle, args=SIM, scaling=QUICKLY) for name in names),
        )
        kubectl.wait_for(lambda: self._idle() >= set(names), f"{len(names)} models Idle", 120)
        kubectl.apply(cluster, self._bare(names[0]))
        # Nor is the first wake to wait in Kubernetes' queue behind what was made just now.
        kubectl.wait_for(lambda: self._seen() == len(names) + 1, "all Deployments seen", 120)
        # Within the cluster, any router takes it; a forward leads to one router only.
        self.gateway = tidegate.gateway
        if cluster.folder is not None:
            service = kubectl.get(cluster, "service", "tidegate-router", installed.SYSTEM) or {}
            self.gateway = f"http://{service['spec']['clusterIP']}:8080"
        self.key = tidegate.key(space)

    def _idle(self) -> set[str]:
        found = kubectl.items(self.tidegate.cluster, "mdep", self.space)
        return {
            one["metadata"]["name"] for one in found if one.get("status", {}).get("phase") == "Idle"
        }

    def _seen(self) -> int:
        """Deployments that Kubernetes' controller has dealt with."""
        found = kubectl.items(self.tidegate.cluster, "deployments", self.space)
        return sum(
            one.get("status", {}).get("observedGeneration") == one["metadata"]["generation"]
            for one in found
        )

    def _bare(self, model: str) -> dict[str, Any]:
        """The pods of a model under a Deployment that nobody but Kubernetes looks after."""
        found = kubectl.get(self.tidegate.cluster, "deployment", f"mdep-{model}", self.space)
        assert found is not None
        pod = deepcopy(found["spec"]["template"]["spec"])
        pod.pop("readinessGates")
        pod["containers"][0].pop("lifecycle")
        pod["terminationGracePeriodSeconds"] = 1
        labels = {"app": PLAIN}
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": PLAIN, "namespace": self.space},
            "spec": {
                "replicas": 0,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        }

    def wake(self, model: str, pods: Pods, api: httpx.Client) -> Woken:
        """Ask a model at zero. Raises TimeoutError where it does not get to zero."""
        pods.wait(lambda: not pods.live, "no pod at all")
        asked = ask(self.gateway, self.key, model)
        with pods.lock:
            mine = pods.of(model)
        pod = mine[-1] if mine else Pod("", model, 0.0)
        return Woken(asked, pod, 0.0 if asked.error else able(api, self.space, pod.name))

    def scale(self, pods: Pods) -> Scaled:
        """Scale the bare Deployment up by kubectl, and down again when its pod is there."""
        pods.wait(lambda: not pods.live, "no pod at all")
        begun = time.time()
        self._kubectl_scale(1)
        pods.wait(lambda: bool(pods.of(PLAIN)), "a pod of the bare Deployment")
        seen = time.time()
        # An address first: a pod that is ended in the middle of its start costs more than one run.
        pods.wait(lambda: any(pod.addressed for pod in pods.of(PLAIN)), "its address")
        self._kubectl_scale(0)
        return Scaled(begun, seen)

    def _kubectl_scale(self, replicas: int) -> None:
        self.tidegate.kubectl(
            "-n", self.space, "scale", f"deployment/{PLAIN}", f"--replicas={replicas}"
        )

    def remove(self) -> None:
        """Remove the namespace, without waiting for its end."""
        self.tidegate.kubectl("delete", "namespace", self.space, "--wait=false")
