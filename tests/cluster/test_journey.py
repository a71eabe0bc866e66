"""The main line on a real cluster: install, apply, ask, be billed, go to zero, wake, remove."""

import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import httpx
import openai
import pytest
from harness import installed
from harness.installed import ROOT, SYSTEM, Platform, model
from harness.kubectl import apply, condition, get, items, kubectl, wait_for
from harness.spaces import change

TEAM = "team-a"


@pytest.fixture(scope="module")
def team(tidegate: Platform) -> str:
    """A namespace of the tenant team-a."""
    installed.namespace(tidegate.cluster, TEAM)
    return TEAM


def stock(tidegate: Platform, tenant: str) -> openai.OpenAI:
    """The official client, retries off: what it sees is what a tenant sees."""
    return openai.OpenAI(
        base_url=f"{tidegate.gateway}/v1", api_key=tidegate.key(tenant), max_retries=0, timeout=600
    )


def ask(tidegate: Platform, tenant: str, name: str, tokens: int = 8) -> Any:
    """A raw chat answer: its headers tell the request's id."""
    with stock(tidegate, tenant) as client:
        return client.chat.completions.with_raw_response.create(
            model=name,
            max_tokens=tokens,
            messages=[{"role": "user", "content": "Say hello to the harbour."}],
        )


def billed(tidegate: Platform, request: str) -> dict[str, Any]:
    """The one billed settlement of a request."""

    def look() -> list[dict[str, Any]]:
        return [e for e in tidegate.events(request_id=request) if e["billed"]]

    found = wait_for(look, f"{request} in the ledger", 30)
    assert len(found) == 1
    return found[0]


def journey(
    tidegate: Platform,
    space: str,
    resource: str,
    name: str,
    warm: Callable[[], None] = lambda: None,
) -> None:
    """From zero to an answer and back to zero, twice; the bill is the engine's count. `warm` is done
    while an engine runs."""
    tidegate.phase(resource, space, "Idle")
    assert not tidegate.pods(resource, space)
    for _ in range(2):
        answer = ask(tidegate, space, name)
        usage = answer.parse().usage
        assert usage is not None
        bill = billed(tidegate, answer.headers["x-request-id"])
        assert bill["completion_tokens"] == usage.completion_tokens
        assert bill["prompt_tokens"] == usage.prompt_tokens
        assert bill["tenant"] == space
        tidegate.phase(resource, space, "Ready")
        warm()
        tidegate.phase(resource, space, "Idle", seconds=120)
        tidegate.gone(resource, space)
    tidegate.closes()
    status = tidegate.mdep(resource, space)["status"]
    assert status["coldStart"]["lastSeconds"] > 0
    assert {"scale", "engine", "forward"} <= status["coldStart"]["phases"].keys()
    assert status["lastRequestTime"]


def test_sim_from_zero_and_back(tidegate: Platform, team: str) -> None:
    kubectl(tidegate.cluster, "apply", "-n", team, "-f", str(ROOT / "examples" / "sim.yaml"))
    change(tidegate, team, "sim", scaling={"idleSeconds": 5})
    journey(tidegate, team, "sim", "sim")


@pytest.mark.vllm
def test_a_real_model_from_zero_and_back(
    tidegate: Platform, team: str, engine: Future[None]
) -> None:
    engine.result()
    if os.environ.get("TEST_IMAGE") and not os.environ.get("TEST_VLLM_IMAGE"):
        pytest.skip("TEST_VLLM_IMAGE names no image of the engine for this cluster")
    example = str(ROOT / "examples" / "smollm2.yaml")
    kubectl(tidegate.cluster, "apply", "-n", team, "-f", example)
    # The example waits a minute for another request, as a person at a terminal wants it.
    change(
        tidegate, team, "smollm2", scaling={"idleSeconds": 10},
        resources={"profile": installed.WEIGHTS},
    )  # fmt: skip
    name = "smollm2-135m-instruct"
    journey(tidegate, team, "smollm2", name, lambda: refuses_strangers(tidegate, team, "smollm2"))


def refuses_strangers(tidegate: Platform, space: str, resource: str) -> None:
    """Every route that the real engine says it has, but `/health`, wants the guard's secret."""
    if tidegate.cluster.folder is None:
        return  # pods' addresses are reached from here on a cluster of ours only
    guard = tidegate.guard(resource, space)
    address = tidegate.pods(resource, space)[0]["status"]["podIP"]
    with httpx.Client(base_url=f"http://{address}:8000", trust_env=False, timeout=10) as engine:
        known = engine.get("/openapi.json", headers={"authorization": f"Bearer {guard}"}).json()
        paths = {path: of for path, of in known["paths"].items() if path != "/health"}
        routes = [(method, path) for path, of in paths.items() for method in of]
        assert len(routes) > 10
        for method, path in [*routes, ("get", "/docs"), ("get", "/metrics"), ("get", "/nowhere")]:
            for headers in ({}, {"authorization": "Bearer 0123"}):
                answer = engine.request(method.upper(), path, headers=headers, content=b"{}")
                assert answer.status_code == 401, (method, path, headers)


def test_what_people_see(tidegate: Platform, team: str) -> None:
    apply(tidegate.cluster, model("seen", team))
    resource = tidegate.phase("seen", team, "Idle")
    assert {c["type"] for c in resource["status"]["conditions"]} == {
        "Ready", "Valid", "Scaled", "EngineHealthy", "Priced",
    }  # fmt: skip
    wait_for(
        lambda: tidegate.condition("seen", team, "Priced").get("status") == "True", "priced", 30
    )
    assert tidegate.ask(team, "seen").status_code == 200
    tidegate.phase("seen", team, "Ready")
    table = tidegate.kubectl("-n", team, "get", "mdep", "seen")
    assert "PHASE" in table
    assert "Ready" in table
    told = wait_for(
        lambda: [
            e["reason"]
            for e in items(tidegate.cluster, "events", team)
            if e["involvedObject"]["name"] == "seen"
        ],
        "events",
    )
    assert "Idle" in told
    pod = tidegate.pods("seen", team)[0]
    assert condition(pod, "tidegate.dev/answered")
    assert get(tidegate.cluster, "secret", "mdep-seen", team)
    tidegate.delete("seen", team)
    for kind in ("deployment", "service", "secret", "networkpolicy", "pdb", "configmap"):
        wait_for(
            lambda kind=kind: get(tidegate.cluster, kind, "mdep-seen", team) is None,
            f"no {kind} left",
        )


def test_helm_test_makes_a_real_request(tidegate: Platform) -> None:
    said = installed.helm(tidegate.cluster, "test", "tidegate", "-n", SYSTEM, "--logs")
    assert "billed" in said
