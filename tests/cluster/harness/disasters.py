"""What breaks under load: processes killed, nodes lost, parts of Kubernetes and of ours away.

Each names what its callers may see beside whole answers: a stream whose engine is killed is *broken*
(told in it), one whose router is killed is *cut*. Nothing else may fail, and the ledger closes.
"""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from . import faults, installed, kubectl
from . import platform_parts as parts
from .command import run
from .installed import SYSTEM
from .kubectl import wait_for
from .scenarios import ROUTERS, all_busy, busiest, sleep, wake
from .stage import NAME, TENANTS, Stage

API_AWAY_SECONDS = float(os.environ.get("TEST_API_AWAY_SECONDS", "120"))
BILLING_AWAY_SECONDS = float(os.environ.get("TEST_BILLING_AWAY_SECONDS", "600"))
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
BILLING, ROUTER = "deploy/tidegate-billing", "sts/tidegate-router"
COLD = "cold"
SMALL_VOLUME = "11Mi"  # two segments of a journal and what it leaves free, and no third
HELD_SECONDS = 290.0
"""Less than a request that is no stream may wait: Kubernetes' own controllers and kubelets take a
minute and more after an API server's return."""


class Held(threading.Thread):
    """A request to a model at zero, asked beside the load and waited for at the end."""

    def __init__(self, stage: Stage, name: str = COLD) -> None:
        super().__init__(daemon=True)
        self._stage, self._name = stage, name
        self.answer: httpx.Response | None = None
        self.start()

    def run(self) -> None:
        stage = self._stage
        self.answer = stage.tidegate.ask(stage.space, self._name, timeout=HELD_SECONDS)

    def answered(self, seconds: float = HELD_SECONDS) -> None:
        """Wait for its answer, which must be a good one."""
        self.join(seconds)
        assert self.answer is not None, "a held request has no answer"
        assert self.answer.status_code == 200, self.answer.text


def scale(stage: Stage, part: str, count: int) -> None:
    """`kubectl scale` of a part of the platform."""
    stage.tidegate.kubectl("-n", SYSTEM, "scale", part, f"--replicas={count}")


def cold(stage: Stage) -> None:
    """A second model, at zero."""
    kubectl.apply(stage.cluster, installed.model(COLD, stage.space, idle=5))
    stage.tidegate.phase(COLD, stage.space, "Idle")


def kill_engines(stage: Stage) -> None:
    """kill -9 of busy engines."""
    wake(stage)
    for number in (1, 2):
        all_busy(stage)
        with stage.moment(f"kill -9 of a busy engine ({number})", kills=True):
            parts.kill(busiest(stage))
            stage.more(20)
            stage.replicas(3, 180)
    sleep(stage)


def kill_routers(stage: Stage) -> None:
    """kill -9 of two routers, one after the other."""
    wake(stage)
    for router in parts.parts(stage.cluster, "router")[:2]:
        with stage.moment(f"kill -9 of {router['metadata']['name']}", kills=True):
            parts.kill(router)
            parts.restarted(stage.cluster, "router", router)
        stage.more(50)
    sleep(stage)


def lose_node(stage: Stage) -> None:
    """A node's kubelet, containerd and pods die; somebody taints it out of service; it comes back."""
    cold(stage)
    wake(stage)
    node = stage.cluster.nodes[1]
    with stage.moment(f"{node.name} is lost", kills=True), faults.lost(stage.cluster, node):
        held = Held(stage)  # its engine may be placed there, since nobody knows yet
        wait_for(lambda: not _ready(stage, node.name), f"{node.name} not Ready", 90)
        stage.tidegate.kubectl("taint", "node", node.name, OUT_OF_SERVICE, "--overwrite")
        stage.replicas(3, 180)
        stage.routers(ROUTERS)
        held.answered()
        stage.more(100)
    with stage.moment(f"{node.name} is back"):
        stage.tidegate.kubectl("taint", "node", node.name, f"{OUT_OF_SERVICE}-")
        stage.more(50)
    sleep(stage)
    assert stage.retried(), "requests that were sent to lost engines are asked again elsewhere"


def _ready(stage: Stage, node: str) -> bool:
    return kubectl.is_true(kubectl.get(stage.cluster, "node", node), "Ready")


def evict(stage: Stage) -> None:
    """The disk of a node is short: its kubelet evicts what runs there."""
    cold(stage)
    wake(stage)
    node = stage.cluster.nodes[1]
    with stage.moment(f"disk pressure on {node.name}", kills=True):
        with faults.short_of_disk(stage.cluster, node):
            wait_for(lambda: not _engines_on(stage, node.name), "all engines evicted", 180)
            Held(stage).answered()
            stage.replicas(3, 180)
            stage.routers(ROUTERS)
            stage.more(50)
        stage.reload()
    sleep(stage)


def _engines_on(stage: Stage, node: str) -> list[dict[str, Any]]:
    return [pod for pod in stage.pods() if pod["spec"].get("nodeName") == node]


def api_away(stage: Stage) -> None:
    """No API server for two minutes: who is served is served, who waits waits."""
    cold(stage)
    wake(stage)
    with stage.moment(f"API server away for {API_AWAY_SECONDS:.0f} s"):
        with faults.api_away(stage.cluster):
            held = Held(stage)
            stage.pause(API_AWAY_SECONDS)
            assert held.is_alive(), "nothing could start it"
        held.answered()
    parts.leads(stage.cluster)
    stage.more(100)
    sleep(stage)


def etcd_restart(stage: Stage) -> None:
    """etcd ends and comes back; the API server stays."""
    cold(stage)
    wake(stage)
    with stage.moment("etcd restarted"):
        faults.stop(stage.cluster, "etcd", grace=5)
        held = Held(stage)
        stage.more(20)
        faults.start(stage.cluster, "etcd")
        held.answered()
    parts.leads(stage.cluster)
    stage.more(50)
    sleep(stage)


def operator_between(stage: Stage) -> None:
    """kill -9 of the operator between a wake and its scale write: the API server stands still when
    it is sent, and is killed with it, so that nobody carries it out."""
    cold(stage)
    wake(stage)
    routers = parts.parts(stage.cluster, "router")
    for turn in (1, 2, 3):
        stage.tidegate.phase(COLD, stage.space, "Idle", seconds=120)
        leader = parts.leads(stage.cluster)
        with stage.moment(f"kill -9 of the operator between a wake and its write ({turn})"):
            with faults.frozen(stage.cluster, "apiserver"):
                held = Held(stage)
                wait_for(lambda: stage.held(COLD, routers), "a request that waits")
                parts.kill(leader)
                with faults.api_away(stage.cluster):
                    pass
            held.answered()
            parts.restarted(stage.cluster, "operator", leader)
    sleep(stage)


def billing_away(stage: Stage) -> None:
    """No billing for ten minutes: everything is served and metered; a router is killed with its
    journal full of what nobody has acknowledged."""
    cold(stage)
    wake(stage)
    with stage.moment(f"billing away for {BILLING_AWAY_SECONDS:.0f} s"):
        scale(stage, BILLING, 0)
        wait_for(lambda: not parts.parts(stage.cluster, "billing"), "no billing")
        Held(stage).answered()
        stage.pause(BILLING_AWAY_SECONDS / 2)
        (router, *_) = parts.parts(stage.cluster, "router")
        waiting = parts.metric(router, "tidegate_journal_unacked")
        assert waiting > 0, "its journal holds what billing has not seen"
        name = f"kill -9 of {router['metadata']['name']}, {waiting:.0f} unacknowledged"
        with stage.moment(name, kills=True):
            parts.kill(router)
            parts.restarted(stage.cluster, "router", router)
        stage.pause(BILLING_AWAY_SECONDS / 2)
        scale(stage, BILLING, 1)
        parts.ready(stage.cluster, "billing", 1)
        stage.caught_up()
    stage.more(50)
    sleep(stage)


def journal_full(stage: Stage) -> None:
    """A router's volume fills up: it leaves the Service while it can still serve, then refuses, is
    killed, comes back and refuses, and serves again when its records have gone."""
    wake(stage)
    number = ROUTERS
    stage.small_volume(f"data-tidegate-router-{number}", SMALL_VOLUME)
    scale(stage, ROUTER, number + 1)
    try:
        stage.routers(number + 1)
        with stage.moment("a router's volume is full"):
            scale(stage, BILLING, 0)
            router = parts.named(stage.cluster, f"tidegate-router-{number}")
            gateway = f"http://{router['status']['podIP']}:8080"
            refused = _until_refused(stage, gateway)
            assert refused.json()["error"]["code"] == "metering_unavailable", refused.text
            wait_for(lambda: not stage.in_flight(NAME, [router]), "nobody left on it")
            parts.kill(router)
            wait_for(lambda: parts.metric(router, "tidegate_journal_unacked") > 0, "it is back")
            assert _ask(stage, gateway).status_code == 503
            assert not kubectl.is_true(
                parts.named(stage.cluster, router["metadata"]["name"]), "Ready"
            )
            scale(stage, BILLING, 1)
            parts.ready(stage.cluster, "billing", 1)
            wait_for(lambda: _ask(stage, gateway).status_code == 200, "it serves", 60)
            parts.restarted(stage.cluster, "router", router)
        stage.caught_up()
    finally:
        scale(stage, ROUTER, number)
    sleep(stage)


def ledger_full(stage: Stage) -> None:
    """The ledger's volume is full: everything is served and kept in journals until there is room."""
    wake(stage)
    scale(stage, BILLING, 0)
    wait_for(lambda: not parts.parts(stage.cluster, "billing"), "no billing")
    volume = stage.squeezed("tidegate-billing", spare=1 << 20)
    with stage.moment("the ledger's volume is full"):
        scale(stage, BILLING, 1)
        parts.ready(stage.cluster, "billing", 1)
        wait_for(lambda: _full(volume) and stage.unacknowledged() > 100, "a full volume", 600)
        stage.more(50)
        run("mount", "-o", "remount,size=1g", volume)
        stage.caught_up()
    stage.more(50)
    sleep(stage)


def _full(volume: Path) -> bool:
    left = os.statvfs(volume)
    return left.f_bavail * left.f_frsize < 128 << 10


def _ask(stage: Stage, gateway: str) -> httpx.Response:
    with httpx.Client(trust_env=False, timeout=60) as client:
        return _asked(client, stage.tidegate.key(TENANTS[0]), gateway)


def _asked(client: httpx.Client, key: str, gateway: str) -> httpx.Response:
    body = {"model": NAME, "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}
    headers = {"authorization": f"Bearer {key}", "x-request-id": "x" * 128}
    return client.post(f"{gateway}/v1/chat/completions", json=body, headers=headers)


def _until_refused(stage: Stage, gateway: str) -> httpx.Response:
    """Ask with sixteen hands until one is refused; that answer."""
    key = stage.tidegate.key(TENANTS[0])
    refused: list[httpx.Response] = []

    def hand(client: httpx.Client) -> None:
        for _ in range(2000):
            answer = _asked(client, key, gateway)
            if answer.status_code != 200:
                refused.append(answer)
            if refused:
                return

    with httpx.Client(trust_env=False, timeout=60) as client, ThreadPoolExecutor(16) as hands:
        for done in [hands.submit(hand, client) for _ in range(16)]:
            done.result()
    assert refused, f"a volume of {SMALL_VOLUME} took 32,000 requests"
    return refused[0]
