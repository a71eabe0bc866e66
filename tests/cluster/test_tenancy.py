"""Who reaches what: the guard of an engine, the tenant of a namespace, names, and the policy."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from harness.installed import SYSTEM, Platform, model
from harness.kubectl import apply, get, pod_logs, wait_for
from harness.spaces import change, fresh

SECONDS = 10.0
"""Within which a change of who may do what must hold everywhere."""


@pytest.fixture(scope="module")
def acme(tidegate: Platform) -> Iterator[str]:
    """A namespace of the tenant acme."""
    with fresh(tidegate, "ten-a", "acme") as name:
        yield name


@pytest.fixture(scope="module")
def acme_too(tidegate: Platform) -> Iterator[str]:
    """A second one."""
    with fresh(tidegate, "ten-b", "acme") as name:
        yield name


@pytest.fixture(scope="module")
def lone(tidegate: Platform) -> Iterator[str]:
    """A namespace without a label: a tenant by its own name."""
    with fresh(tidegate, "ten-lone") as name:
        yield name


def put(tidegate: Platform, name: str, space: str, **spec: Any) -> None:
    apply(tidegate.cluster, model(name, space, **spec))


def becomes(tidegate: Platform, tenant: str, name: str, status: int) -> float:
    """Wait until a tenant's request for a name gets this status; seconds it took."""
    began = time.monotonic()

    def look() -> bool:
        return tidegate.ask(tenant, name).status_code == status

    wait_for(look, f"{status} for {name} asked by {tenant}", SECONDS)
    return time.monotonic() - began


def listed(tidegate: Platform, tenant: str) -> set[str]:
    """What a tenant's /v1/models names."""
    with tidegate.client(tenant) as client:
        return {one["id"] for one in client.get("/v1/models").json()["data"]}


def invalid(tidegate: Platform, space: str, name: str, reason: str) -> str:
    """Wait until a resource is not valid for this reason; the message."""

    def look() -> str:
        found = tidegate.condition(name, space, "Valid")
        fits = (found.get("status"), found.get("reason")) == ("False", reason)
        return str(found["message"]) if fits else ""

    return wait_for(look, f"{space}/{name} {reason}", SECONDS)


def valid(tidegate: Platform, space: str, name: str) -> None:
    wait_for(
        lambda: tidegate.condition(name, space, "Valid").get("status") == "True",
        f"{space}/{name} valid",
        SECONDS,
    )


# The guard

CALLS = """
import http.client, json, sys
host, *secrets = sys.argv[1:]
given = dict(zip(("right", "other"), secrets))
authorizations = {"none": None, "empty": "Bearer ", "wrong": "Bearer 0123"}
authorizations |= {name: "Bearer " + secret for name, secret in given.items()}
routes = [
    ("GET", "/health", None), ("GET", "/metrics", None), ("GET", "/v1/models", None),
    ("POST", "/v1/chat/completions", "{}"), ("POST", "/v1/completions", "{}"),
    ("POST", "/v1/embeddings", "{}"), ("PUT", "/sim/faults", json.dumps({"fail": None})),
    ("GET", "/", None), ("GET", "/docs", None), ("GET", "/health/", None),
    ("GET", "//metrics", None), ("GET", "/health/../metrics", None),
    ("OPTIONS", "/v1/chat/completions", None), ("HEAD", "/metrics", None),
]
seen = {}
for method, path, body in routes:
    for who, authorization in authorizations.items():
        link = http.client.HTTPConnection(host, 8000, timeout=10)
        headers = {} if authorization is None else {"authorization": authorization}
        link.request(method, path, body, headers)
        seen.setdefault(f"{method} {path}", {})[who] = link.getresponse().status
        link.close()
print(json.dumps(seen))
"""


def stranger(tidegate: Platform, space: str, *words: str) -> dict[str, dict[str, int]]:
    """A pod in `space` that calls every route of an engine directly: statuses by route and word."""
    operator = get(tidegate.cluster, "deployment", "tidegate-operator", SYSTEM)
    assert operator
    container = {
        "name": "calls",
        "image": operator["spec"]["template"]["spec"]["containers"][0]["image"],
        "command": ["python3", "-c", CALLS, *words],
        "securityContext": {
            "runAsNonRoot": True, "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
        },
    }  # fmt: skip
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stranger", "namespace": space},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }  # fmt: skip
    apply(tidegate.cluster, pod)

    def look() -> str:
        found = get(tidegate.cluster, "pod", "stranger", space) or {}
        phase = found.get("status", {}).get("phase", "")
        return str(phase) if phase in {"Succeeded", "Failed"} else ""

    phase = wait_for(look, "the stranger's calls")
    said = pod_logs(tidegate.cluster, "stranger", space)
    assert phase == "Succeeded", said
    return dict(json.loads(said))


def test_an_engine_refuses_whoever_is_not_a_router(
    tidegate: Platform, acme: str, lone: str
) -> None:
    """With no NetworkPolicy enforced here, the guard is all that stands between them."""
    put(tidegate, "guarded", acme)
    put(tidegate, "neighbour", lone)
    assert tidegate.ask("acme", "guarded").status_code == 200
    address = tidegate.pods("guarded", acme)[0]["status"]["podIP"]
    right, other = tidegate.guard("guarded", acme), tidegate.guard("neighbour", lone)
    assert right != other
    seen = stranger(tidegate, lone, address, right, other)
    assert set(seen.pop("GET /health").values()) == {200}
    for route, statuses in seen.items():
        got_in = statuses.pop("right")
        assert got_in != 401, route
        assert set(statuses.values()) == {401}, (route, statuses)
    assert tidegate.ask("acme", "guarded").status_code == 200
    tidegate.closes()


# Tenants


def test_a_label_binds_a_namespace_to_its_tenant(tidegate: Platform, acme: str) -> None:
    put(tidegate, "bound", acme)
    assert tidegate.ask("acme", "bound").status_code == 200
    assert tidegate.ask(acme, "bound").status_code == 404
    assert "bound" in listed(tidegate, "acme")
    assert "bound" not in listed(tidegate, acme)


def test_a_foreign_model_looks_like_one_that_does_not_exist(
    tidegate: Platform, acme: str, lone: str
) -> None:
    """Nothing an answer has tells them apart: status, body, header names."""
    put(tidegate, "hidden", acme)
    assert tidegate.ask("acme", "hidden").status_code == 200
    told = {}
    for name in ("hidden", "absent"):
        with tidegate.client(lone) as client:
            answers = [
                tidegate.ask(lone, name),
                tidegate.ask(lone, name, stream=True),
                client.get(f"/v1/models/{name}"),
            ]
        told[name] = [
            (a.status_code, a.text.replace(name, "NAME"), sorted(a.headers)) for a in answers
        ]
    assert {status for status, _, _ in told["absent"]} == {404}
    assert told["hidden"] == told["absent"]


def test_another_label_binds_it_anew(tidegate: Platform) -> None:
    with fresh(tidegate, "ten-moves", "acme") as space:
        put(tidegate, "moves", space)
        assert tidegate.ask("acme", "moves").status_code == 200
        tidegate.kubectl("label", "namespace", space, "tidegate.dev/tenant=globex", "--overwrite")
        becomes(tidegate, "acme", "moves", 404)
        becomes(tidegate, "globex", "moves", 200)
        tidegate.kubectl("label", "namespace", space, "tidegate.dev/tenant-")
        becomes(tidegate, "globex", "moves", 404)
        becomes(tidegate, space, "moves", 200)


def test_access_lets_further_tenants_in(tidegate: Platform, lone: str) -> None:
    put(tidegate, "shared", lone, access={"tenants": ["acme"]})
    assert tidegate.ask("acme", "shared").status_code == 200
    assert tidegate.ask("globex", "shared").status_code == 404
    assert tidegate.ask(lone, "shared").status_code == 200
    change(tidegate, lone, "shared", access={"tenants": ["globex"]})
    becomes(tidegate, "acme", "shared", 404)
    becomes(tidegate, "globex", "shared", 200)


# Names


def served_by(tidegate: Platform, tenant: str, name: str) -> str:
    """The deployment that the ledger names for one request."""
    answer = tidegate.ask(tenant, name)
    assert answer.status_code == 200, answer.text
    request = answer.headers["x-request-id"]
    return str(wait_for(lambda: tidegate.events(request_id=request), "its bill")[0]["deployment"])


def test_the_oldest_keeps_a_name_and_the_next_follows(
    tidegate: Platform, acme: str, acme_too: str
) -> None:
    # The second namespace has the greater name: only age can make its deployment win.
    put(tidegate, "twin", acme_too)
    tidegate.phase("twin", acme_too, "Idle")
    born = time.time()
    wait_for(lambda: time.time() > born + 1, "a later second: ages are told in whole ones")
    put(tidegate, "twin", acme)
    message = invalid(tidegate, acme, "twin", "NameConflict")
    assert "'twin'" in message
    assert f"{acme_too}/twin" in message
    valid(tidegate, acme_too, "twin")
    assert served_by(tidegate, "acme", "twin") == f"{acme_too}/twin"
    assert not tidegate.pods("twin", acme)
    tidegate.kubectl("-n", acme_too, "delete", "mdep", "twin")
    valid(tidegate, acme, "twin")
    assert served_by(tidegate, "acme", "twin") == f"{acme}/twin"


# Policy


@pytest.mark.parametrize(
    ("field", "rule", "spec"),
    [
        ("spec.access.visibility", "policy.public", {"access": {"visibility": "Public"}}),
        ("spec.engine.image", "policy.images", {"engine": {"image": "example.invalid/own:1"}}),
        ("spec.engine.env", "policy.env", {"engine": {"env": [{"name": "TZ", "value": "UTC"}]}}),
    ],
)
def test_what_a_tenant_may_not_have_is_refused(
    tidegate: Platform, lone: str, field: str, rule: str, spec: dict[str, Any]
) -> None:
    name = rule.replace("policy.", "wants-")
    put(tidegate, name, lone, **spec)
    message = invalid(tidegate, lone, name, "PolicyRefused")
    for said in (field, rule, lone):
        assert said in message
    tidegate.phase(name, lone, "Failed", seconds=SECONDS)
    assert get(tidegate.cluster, "deployment", f"mdep-{name}", lone) is None
    assert tidegate.ask(lone, name).status_code == 404
    assert tidegate.ask("acme", name).status_code == 404
    tidegate.kubectl("-n", lone, "delete", "mdep", name)


def test_a_refused_resource_serves_once_it_asks_for_less(tidegate: Platform, lone: str) -> None:
    put(tidegate, "modest", lone, access={"visibility": "Public"})
    invalid(tidegate, lone, "modest", "PolicyRefused")
    change(tidegate, lone, "modest", access={"visibility": "Private"})
    valid(tidegate, lone, "modest")
    becomes(tidegate, lone, "modest", 200)


def test_everybody_sees_what_the_platform_makes_public(tidegate: Platform, lone: str) -> None:
    with fresh(tidegate, "ten-public", "platform") as space:
        put(tidegate, "for-all", space, access={"visibility": "Public"})
        valid(tidegate, space, "for-all")
        for tenant in ("acme", lone, "globex"):
            becomes(tidegate, tenant, "for-all", 200)
            assert "for-all" in listed(tidegate, tenant)
        change(tidegate, space, "for-all", access={"visibility": "Private"})
        becomes(tidegate, "acme", "for-all", 404)
        assert "for-all" not in listed(tidegate, lone)
