"""What is done to a platform under load that may not cost a single request.

A scenario only does things and waits for states; what came of it is judged afterwards, by callers,
ledger and engines. What breaks is in `disasters`, the whole matrix in `motion.py`.
"""

from collections.abc import Mapping
from typing import Any

import httpx

from tidegate_runtime.contract import cluster as contract
from tidegate_runtime.engines import leave

from . import kubectl
from . import platform_parts as parts
from .kubectl import wait_for
from .stage import NAME, Stage, arguments

ROUTERS = 3


REQUESTS = 2000
"""Of the scenario in which everything moves."""


def wake(stage: Stage, replicas: int = 3, streams: int = 40, plain: int = 10) -> None:
    """0 -> 1 -> 3: the first replica for a few callers, all of them for so many."""
    with stage.moment("0 -> 1", first=True):
        stage.load.want(8, 2)
        stage.replicas(1)
    stage.load.flowing(8)
    with stage.moment(f"1 -> {replicas}"):
        stage.load.want(streams, plain)
        stage.replicas(replicas)
    stage.load.flowing(streams)


def sleep(stage: Stage) -> None:
    """3 -> 1 -> 0."""
    with stage.moment("3 -> 1"):
        stage.load.want(8, 2)
        stage.replicas(1, 180)
    with stage.moment("1 -> 0"):
        stage.load.ended()
        stage.replicas(0, 180)


def rollout(stage: Stage) -> None:
    """Another version, pod by pod."""
    before = stage.template()
    with stage.moment("rollout"):
        stage.change(engine={"args": arguments(ttft_ms=6)})
        stage.rolled(before)


def bad_rollout(stage: Stage) -> None:
    """A version whose engines answer nothing: it stalls, the old one serves on, and goes back."""
    before = stage.template()
    with stage.moment("rollout of a version that fails its readiness request"):
        stage.change(engine={"args": arguments("--fail", "http500", ttft_ms=7)})
        wait_for(lambda: stage.template() > before, "the new version")
        wait_for(
            lambda: stage.mdep()["status"].get("failure", {}).get("reason") == "AnswerFailed",
            "the canary's failure, told", 90,
        )  # fmt: skip
        stage.more(100)
        serving = [pod for pod in stage.engines() if contract.answered(pod)]
        assert len(serving) == 3, "the old version serves on"
        assert stage.mdep()["status"]["phase"] == "Degraded", stage.mdep()["status"]
    stalled = stage.template()
    with stage.moment("back to the version before"):
        stage.change(engine={"args": arguments(ttft_ms=6)})
        stage.rolled(stalled)
    told = stage.tidegate.phase(NAME, stage.space, "Ready", seconds=60)
    assert "failure" not in told["status"], told["status"]


def delete_engines(stage: Stage) -> None:
    """`kubectl delete pod` of engines that are busy, one after the other."""
    for number in (1, 2):
        pod = busiest(stage)
        with stage.moment(f"kubectl delete pod, a busy engine ({number})"):
            delete(stage, pod)
            stage.replicas(3, 240)


def delete_routers(stage: Stage) -> None:
    """`kubectl delete pod` of every router, one after the other."""
    for pod in sorted(parts.parts(stage.cluster, "router"), key=lambda p: p["metadata"]["name"]):
        with stage.moment(f"kubectl delete pod, {pod['metadata']['name']}"):
            delete(stage, pod)
            stage.routers(ROUTERS)


def kill_operator(stage: Stage) -> None:
    """kill -9 of the operator that leads."""
    leader = parts.leads(stage.cluster)
    with stage.moment("kill -9 of the leading operator"):
        parts.kill(leader)
        parts.leads(stage.cluster)
        parts.restarted(stage.cluster, "operator", leader)


def drain_node(stage: Stage) -> None:
    """`kubectl drain` of a node, and its return."""
    node = stage.cluster.nodes[1].name
    words = ("--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=300s")
    try:
        with stage.moment(f"kubectl drain {node}"):
            kubectl.kubectl(stage.cluster, "drain", node, *words, seconds=330)
            stage.replicas(3, 180)
        stage.more(50)
    finally:
        with stage.moment(f"kubectl uncordon {node}"):
            kubectl.kubectl(stage.cluster, "uncordon", node)
            stage.routers(ROUTERS)


def cancel_drain(stage: Stage) -> None:
    """Two replicas drain because a person wants one; demand takes them back when that is over."""
    all_busy(stage)  # one that serves nobody yet is let go at once: there is nothing to take back
    before = {pod["metadata"]["uid"] for pod in stage.engines()}
    annotate = ("-n", stage.space, "annotate", "mdep", NAME, "--overwrite")
    with stage.moment("a drain that demand takes back"):
        stage.tidegate.kubectl(*annotate, f"{contract.REPLICAS}=1")
        wait_for(lambda: _draining(stage), "a replica that drains")
        stage.tidegate.kubectl(*annotate, f"{contract.REPLICAS}-")
        wait_for(lambda: not _draining(stage), "no replica that drains")
    assert {pod["metadata"]["uid"] for pod in stage.engines()} == before, "all of them stayed"


def _draining(stage: Stage) -> list[str]:
    marked = [pod["metadata"] for pod in stage.engines()]
    return [one["name"] for one in marked if contract.DRAINING in one.get("annotations", {})]


def everything(stage: Stage) -> None:
    """All that may not cost a single request, one after the other."""
    wake(stage)
    for step in (
        cancel_drain, rollout, bad_rollout, delete_engines, delete_routers, kill_operator, drain_node,
    ):  # fmt: skip
        step(stage)
    stage.load.asked(REQUESTS, 1200)
    sleep(stage)


def briefly(stage: Stage) -> None:
    """The short cut: two routers, shorter streams, and several things at once."""
    wake(stage, replicas=2, streams=20, plain=4)
    rollout(stage)
    (router, *_) = parts.parts(stage.cluster, "router")
    leader = parts.leads(stage.cluster)
    with stage.moment("kill -9 of the operator; kubectl delete pod, a router and a busy engine"):
        parts.kill(leader)
        delete(stage, router)
        delete(stage, busiest(stage))
        parts.restarted(stage.cluster, "operator", leader)
        stage.replicas(2, 240)
        stage.routers(2)
    sleep(stage)


def _running(stage: Stage, pod: dict[str, Any]) -> float:
    """Requests on an engine, in its own words; none where it does not answer."""
    guard = stage.tidegate.guard(NAME, stage.space)
    url = f"http://{pod['status']['podIP']}:{contract.ENGINE_PORT}/metrics"
    headers = {"authorization": f"Bearer {guard}"}
    try:
        return leave.busy(httpx.get(url, headers=headers, timeout=10, trust_env=False).text)
    except httpx.TransportError:
        return 0.0


def all_busy(stage: Stage) -> None:
    """Wait until there are eight requests on each engine."""

    def look() -> bool:
        return min((_running(stage, one) for one in stage.engines()), default=0.0) >= 8

    wait_for(look, "all are busy")


def busiest(stage: Stage) -> dict[str, Any]:
    """The engine with most requests on it; there are some."""

    def look() -> dict[str, Any] | None:
        loads = {_running(stage, pod): pod for pod in stage.engines() if contract.answered(pod)}
        return loads[max(loads)] if loads and max(loads) >= 5 else None

    return wait_for(look, "an engine with five requests on it")


def delete(stage: Stage, pod: Mapping[str, Any]) -> None:
    """`kubectl delete pod`, not waiting for its end."""
    metadata = pod["metadata"]
    words = ("delete", "pod", metadata["name"], "--wait=false")
    stage.tidegate.kubectl("-n", metadata["namespace"], *words)
