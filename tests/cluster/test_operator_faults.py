"""What an operator and a router survive on a real cluster: kills, a lost API server, no definition.

Processes are killed as the kernel kills them: found by their pod's cgroup on this very machine, so
that nothing is told beforehand, as `kubectl delete` would.
"""

import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import httpx
import pytest
from harness import faults, installed
from harness.installed import ROOT, SYSTEM, Platform, model
from harness.kubectl import apply, get, is_true, items, kubectl, wait_for
from harness.layout import Cluster
from harness.platform_parts import kill, leads, metric, parts, restarted, restarts

SPACE = "faults"
AWAY_SECONDS = float(os.environ.get("TEST_API_AWAY_SECONDS", "10"))
"""Kubernetes' own controllers and kubelets come back the later the longer it was: the scheduler's
and the kubelet's part is not ours, and with 20 s away takes another 50."""
SLOW = ["--start-seconds", "0.1", "--ttft-ms", "5", "--tokens-per-second", "8"]
TAKEOVER_SECONDS = 20.0
"""Of a machine that does other things meanwhile. Left alone it takes 3 to 4."""
DEFINITION = "modeldeployments.tidegate.dev"


@pytest.fixture(scope="module")
def space(tidegate: Platform, own_cluster: Cluster) -> Iterator[str]:
    """A namespace of our own, whose tenant has its name."""
    installed.namespace(own_cluster, SPACE)
    tidegate.key(SPACE)  # made while the API server is there
    yield SPACE
    kubectl(own_cluster, "-n", SPACE, "delete", "mdep", "--all", "--ignore-not-found")
    kubectl(own_cluster, "delete", "namespace", SPACE, "--wait=false")


class Asked(threading.Thread):
    """A streamed request, read in a thread of its own."""

    def __init__(self, tidegate: Platform, name: str, tokens: int) -> None:
        super().__init__(daemon=True)
        self._url, self._key = tidegate.gateway, tidegate.key(SPACE)
        self._body = {
            "model": name, "max_tokens": tokens, "stream": True,
            "messages": [{"role": "user", "content": "a b c"}],
        }  # fmt: skip
        self.status, self.request, self.error = 0, "", ""
        self.lines: list[str] = []
        self.begun, self.ended = time.monotonic(), 0.0
        self.start()

    def run(self) -> None:
        headers = {"authorization": f"Bearer {self._key}"}
        url = f"{self._url}/v1/chat/completions"
        try:
            with httpx.stream(
                "POST", url, json=self._body, headers=headers, timeout=180, trust_env=False
            ) as answer:
                self.status = answer.status_code
                self.request = answer.headers.get("x-request-id", "")
                self.lines.extend(line for line in answer.iter_lines() if line)
        except httpx.HTTPError as error:
            self.error = f"{type(error).__name__}: {error}"
        self.ended = time.monotonic()

    @property
    def whole(self) -> bool:
        """Whether all of a good answer has come."""
        return self.status == 200 and not self.error and self.lines[-1:] == ["data: [DONE]"]

    def flows(self) -> "Asked":
        """Wait until its first tokens are here."""
        wait_for(lambda: len(self.lines) > 2 or self.error, "the first tokens", 60)
        assert not self.error, self.error
        return self

    def finished(self, seconds: float = 120) -> "Asked":
        """Wait for its end, which must be a good one."""
        self.join(seconds)
        assert self.whole, (self.status, self.error, self.lines[-2:])
        return self


def one_pod(tidegate: Platform, name: str) -> dict[str, Any]:
    """A model's only pod."""
    (pod,) = tidegate.pods(name, SPACE)
    return pod


def mark(pod: dict[str, Any]) -> str:
    """When it was told to drain; empty where it was not."""
    return str((pod["metadata"].get("annotations") or {}).get("tidegate.dev/draining", ""))


def override(cluster: Cluster, name: str, replicas: int) -> None:
    """A person's own count."""
    words = ("annotate", "mdep", name, f"tidegate.dev/replicas={replicas}", "--overwrite")
    kubectl(cluster, "-n", SPACE, *words)


def test_a_killed_operator_goes_on_where_it_was(
    tidegate: Platform, space: str, own_cluster: Cluster
) -> None:
    """Nothing is scaled down, idle time goes on, and what drained goes on draining."""
    apply(own_cluster, model("kept", space, args=SLOW), model("idler", space, idle=24))
    apply(own_cluster, model("leaves", space, args=SLOW, maximum=2))
    override(own_cluster, "leaves", 2)
    assert tidegate.ask(space, "idler").status_code == 200
    last = time.time()
    busy = Asked(tidegate, "kept", 120).flows()
    ready = "{.status.replicas.ready}"
    wait_for(
        lambda: (
            tidegate.kubectl("-n", space, "get", "mdep", "leaves", f"-ojsonpath={ready}") == "2"
        ),
        "two replicas",
    )
    there = [Asked(tidegate, "leaves", 100).flows() for _ in range(4)]
    override(own_cluster, "leaves", 1)
    (leaving,) = wait_for(
        lambda: [pod for pod in tidegate.pods("leaves", space) if mark(pod)], "a mark"
    )
    before = {name: get(own_cluster, "deploy", f"mdep-{name}", space) for name in ("kept", "idler")}
    engine, operator = one_pod(tidegate, "kept"), leads(own_cluster)
    wait_for(lambda: time.time() - last > 10, "some idle time", 30)
    kill(operator)
    restarted(own_cluster, "operator", operator)
    leads(own_cluster)

    def gone() -> dict[str, Any] | None:
        now = {pod["metadata"]["uid"]: pod for pod in tidegate.pods("leaves", space)}
        others = [pod for uid, pod in now.items() if uid != leaving["metadata"]["uid"]]
        assert [mark(pod) for pod in others] == [""], "the other one stays"
        found = now.get(leaving["metadata"]["uid"])
        assert found is None or mark(found) == mark(leaving), "one drain, never taken back"
        return {} if found else {"gone": True}

    wait_for(gone, "the drain's end", 90)
    assert all(one.finished() for one in [busy, *there])
    after = get(own_cluster, "deploy", "mdep-kept", space)
    assert after
    assert before["kept"]
    assert after["metadata"]["generation"] == before["kept"]["metadata"]["generation"]
    assert one_pod(tidegate, "kept")["metadata"]["uid"] == engine["metadata"]["uid"]
    idled = _went_idle(tidegate, own_cluster, space)
    assert idled - last < 34, f"idle age began anew: {idled - last:.1f} s"
    tidegate.closes()


def _went_idle(tidegate: Platform, cluster: Cluster, space: str) -> float:
    """When the model idler was scaled to zero, as its status tells."""
    tidegate.phase("idler", space, "Idle")
    told = {c["type"]: c for c in tidegate.mdep("idler", space)["status"]["conditions"]}
    events = [
        e["firstTimestamp"]
        for e in items(cluster, "events", space)
        if e["involvedObject"]["name"] == "idler" and e["reason"] == "Idle"
    ]
    assert told["Ready"]["reason"] == "Idle"
    return max(datetime.fromisoformat(at).timestamp() for at in events)


def test_the_other_operator_takes_over(
    tidegate: Platform, space: str, own_cluster: Cluster
) -> None:
    """kill -9 of the leader: a request that comes then is answered, and one alone ever writes."""
    apply(own_cluster, model("waits", space))
    tidegate.phase("waits", space, "Idle")
    tidegate.kubectl("-n", SYSTEM, "scale", "deploy/tidegate-operator", "--replicas=2")
    try:
        tidegate.kubectl("-n", SYSTEM, "rollout", "status", "deploy/tidegate-operator")
        leader = leads(own_cluster)
        name = leader["metadata"]["name"]
        (other,) = [p for p in parts(own_cluster, "operator") if p["metadata"]["name"] != name]
        assert metric(other, "tidegate_operator_leading") == 0
        begin = _audit_size(own_cluster)
        assert tidegate.ask(space, "waits").status_code == 200
        assert _writers(own_cluster, begin) == {leader["status"]["podIP"]}
        apply(own_cluster, model("woken", space))
        tidegate.phase("woken", space, "Idle")
        kill(leader)
        asked = Asked(tidegate, "woken", 5)
        leads(own_cluster)
        took = time.monotonic() - asked.begun
        asked.finished()
        print(f"takeover seen after {took:.1f} s, held {asked.ended - asked.begun:.1f} s")
        assert took < TAKEOVER_SECONDS
        assert asked.ended - asked.begun < TAKEOVER_SECONDS + 5
        restarted(own_cluster, "operator", leader)
        assert (
            sum(metric(p, "tidegate_operator_leading") for p in parts(own_cluster, "operator")) == 1
        )
    finally:
        tidegate.kubectl("-n", SYSTEM, "scale", "deploy/tidegate-operator", "--replicas=1")
    wait_for(lambda: len(parts(own_cluster, "operator")) == 1, "one operator")
    leads(own_cluster)


def _audit_size(cluster: Cluster) -> int:
    assert cluster.audit_log
    return cluster.audit_log.stat().st_size


def _writers(cluster: Cluster, begin: int) -> set[str]:
    """Addresses from which operators have written since, Leases left out."""
    assert cluster.audit_log
    with cluster.audit_log.open() as log:
        log.seek(begin)
        told = [json.loads(line) for line in log if line.endswith("\n")]
    return {
        one["sourceIPs"][0]
        for one in told
        if one["user"]["username"] == f"system:serviceaccount:{SYSTEM}:tidegate-operator"
        and one["verb"] not in {"get", "list", "watch"}
        and one.get("objectRef", {}).get("resource") != "leases"
    }


def test_the_api_server_is_away(tidegate: Platform, space: str, own_cluster: Cluster) -> None:
    """Who is served stays served, who waits is answered afterwards, nobody is restarted.

    Asked at the router's own address: Kubernetes' node controller, when it is back before the
    kubelets' news of themselves, takes pods that run well out of their Services for some seconds.
    """
    apply(own_cluster, model("warm", space), model("cold", space))
    tidegate.phase("cold", space, "Idle")
    assert tidegate.ask(space, "warm").status_code == 200
    (router,) = parts(own_cluster, "router")
    direct = Platform(own_cluster, f"http://{router['status']['podIP']}:8080", tidegate.management)
    assert direct.ask(space, "warm").status_code == 200  # and its key is known
    every = ("operator", "router", "billing")
    before = {p["metadata"]["uid"]: restarts(p) for part in every for p in parts(own_cluster, part)}
    served = 0
    with faults.api_away(own_cluster):
        until = time.monotonic() + AWAY_SECONDS
        held = Asked(direct, "cold", 5)
        while time.monotonic() < until:
            assert direct.ask(space, "warm").status_code == 200
            served += 1
        assert held.is_alive(), (held.status, held.lines)
    back = time.monotonic()
    wait_for(lambda: _replicas(own_cluster, "cold") == 1, "the scale write")
    wrote = time.monotonic() - back
    assert wrote < TAKEOVER_SECONDS
    held.finished()
    took = held.ended - back
    print(
        f"{served} served while away; scaled {wrote:.1f} s, answered {took:.1f} s after its return"
    )
    leads(own_cluster)
    tidegate.phase("cold", space, "Ready")
    assert direct.ask(space, "warm").status_code == 200
    assert _first_answer(tidegate, space, "warm").status_code == 200
    after = {p["metadata"]["uid"]: restarts(p) for part in every for p in parts(own_cluster, part)}
    assert after == before


def _replicas(cluster: Cluster, name: str) -> int:
    deployment = get(cluster, "deploy", f"mdep-{name}", SPACE) or {}
    return int(deployment.get("spec", {}).get("replicas", 0))


def test_a_killed_router_bills_once_and_forgets_nothing(
    tidegate: Platform, space: str, own_cluster: Cluster
) -> None:
    apply(own_cluster, model("flows", space, args=SLOW), model("sleeps", space))
    tidegate.phase("sleeps", space, "Idle")
    (router,) = parts(own_cluster, "router")
    whole = Asked(tidegate, "flows", 3).finished()
    cut = Asked(tidegate, "flows", 400).flows()
    kill(router)
    woken = _first_answer(tidegate, space, "sleeps")
    assert woken.status_code == 200, woken.text
    cut.join(30)
    assert not cut.whole
    restarted(own_cluster, "router", router)
    for one in (whole.request, cut.request, woken.headers["x-request-id"]):

        def settled(one: str = one) -> list[dict[str, Any]]:
            return [e for e in tidegate.events(request_id=one) if e["kind"] == "settlement"]

        found = wait_for(settled, f"{one} in the ledger", 60)
        assert len(found) == 1, found
    tidegate.closes()


def _first_answer(tidegate: Platform, space: str, name: str) -> httpx.Response:
    """The first answer to a request that is sent until somebody listens."""

    def look() -> httpx.Response | None:
        try:
            return tidegate.ask(space, name)
        except httpx.TransportError:
            return None

    return wait_for(lambda: (found := look()) is not None and (found,), "an answer", 60)[0]


def test_a_killed_billing_knows_every_models_price_again(
    tidegate: Platform, space: str, own_cluster: Cluster
) -> None:
    """Its store is all it has: what was told of one model must not have unpriced another."""
    names = ("priced-one", "priced-two")
    apply(own_cluster, *(model(name, space) for name in names))
    for name in names:
        tidegate.phase(name, space, "Idle")
        assert tidegate.ask(space, name).status_code == 200
    (billing,) = parts(own_cluster, "billing")
    before = restarts(billing)
    kill(billing)

    def back() -> bool:
        found = parts(own_cluster, "billing")
        return len(found) == 1 and restarts(found[0]) > before and is_true(found[0], "Ready")

    wait_for(back, "billing, started again", 60)
    # A router holds what has no price; its picture of prices is whole again within seconds.
    with ThreadPoolExecutor(len(names)) as asking:
        answers = list(asking.map(lambda name: tidegate.ask(space, name).status_code, names))
    assert answers == [200, 200]


def test_without_the_definition_and_after_what_went_meanwhile(
    tidegate: Platform, space: str, own_cluster: Cluster
) -> None:
    """Resources that went while no operator ran are forgotten; without the definition it waits."""
    apply(own_cluster, model("forgotten", space))
    assert tidegate.ask(space, "forgotten").status_code == 200
    tidegate.kubectl("-n", SYSTEM, "scale", "deploy/tidegate-operator", "--replicas=0")
    try:
        wait_for(lambda: not items(own_cluster, "pods", SYSTEM, OPERATOR), "no operator")
        tidegate.kubectl("delete", "crd", DEFINITION, "--wait=true")
        tidegate.kubectl("-n", SYSTEM, "scale", "deploy/tidegate-operator", "--replicas=1")
        leader = leads(own_cluster)
        wait_for(lambda: metric(leader, "tidegate_operator_resources") == 0, "none known")
        assert tidegate.ask(space, "forgotten").status_code == 404
    finally:
        define(tidegate)
        tidegate.kubectl("-n", SYSTEM, "scale", "deploy/tidegate-operator", "--replicas=1")
    serves_anew(tidegate, space, "anew")


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_the_definition_goes_and_comes_back(tidegate: Platform, space: str, turn: int) -> None:
    """With an operator that runs. Three times: what it did wrong once, it did now and then."""
    apply(tidegate.cluster, model("went", space))
    tidegate.phase("went", space, "Idle")
    tidegate.kubectl("delete", "crd", DEFINITION, "--wait=true")
    wait_for(lambda: metric(leads(tidegate.cluster), "tidegate_operator_resources") == 0, "none")
    define(tidegate)
    serves_anew(tidegate, space, f"came-{turn}")


def define(tidegate: Platform) -> None:
    """Apply the definition, and wait until it is served."""
    for made in (ROOT / "charts" / "tidegate" / "crds").glob("*.yaml"):
        tidegate.kubectl("apply", "--server-side", "--force-conflicts", "-f", made)
    tidegate.kubectl("wait", "--for=condition=Established", f"crd/{DEFINITION}")


def serves_anew(tidegate: Platform, space: str, name: str) -> None:
    """A new resource is seen and serves, by an operator that has not been started again."""
    apply(tidegate.cluster, model(name, space))
    tidegate.phase(name, space, "Idle")
    assert tidegate.ask(space, name).status_code == 200
    (operator,) = parts(tidegate.cluster, "operator")
    assert restarts(operator) == 0


OPERATOR = "app.kubernetes.io/component=operator"
