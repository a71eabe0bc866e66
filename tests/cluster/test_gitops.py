"""A tenant and its prices by `kubectl apply`: the key from its Secret, the bill, rotation, the end."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from harness import kubectl
from harness.command import CommandFailed
from harness.installed import ROOT, SYSTEM, Platform, model
from harness.kubectl import apply, condition, get, items, wait_for
from harness.spaces import fresh

API = "tidegate.dev/v1alpha1"
SECRET = "ci-key"


@pytest.fixture(scope="module")
def acme(tidegate: Platform) -> Iterator[str]:
    """A tenant's name that nobody had, and its namespace of the same name, with a model."""
    with fresh(tidegate, "git-acme") as name:
        apply(tidegate.cluster, model(f"m-{name}", name))
        yield name
        tidegate.kubectl("delete", "tenants,pricebooks", "--selector", f"by={name}")


def resource(kind: str, name: str, by: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "labels": {"by": by}}
    return {"apiVersion": API, "kind": kind, "metadata": metadata, "spec": spec}


def tenant(name: str, **key: Any) -> dict[str, Any]:
    entry = {"name": "ci", "project": "web", "secretRef": {"namespace": name, "name": SECRET}}
    return resource(
        "Tenant", name, name, displayName="Acme", timeZone="Europe/Berlin",
        projects=[{"name": "web"}], keys=[{**entry, **key}],
    )  # fmt: skip


def book(name: str, by: str, **entry: Any) -> dict[str, Any]:
    prices = {"model": f"m-{by}", "prices": {"input": "1", "output": "2"}}
    return resource(
        "PriceBook", name, by, currency="USD", effectiveFrom="2026-01-01T00:00:00Z",
        entries=[{**prices, **entry}],
    )  # fmt: skip


def ready(tidegate: Platform, kind: str, name: str, reason: str) -> dict[str, Any]:
    """Wait until a resource is said to be so, of its newest generation; the resource."""

    def look() -> dict[str, Any] | None:
        found = get(tidegate.cluster, f"{kind}.tidegate.dev", name)
        told = condition(found, "Ready")
        assert found is not None
        newest = told and told["observedGeneration"] == found["metadata"]["generation"]
        return found if newest and told and told["reason"] == reason else None

    return wait_for(look, f"{kind} {name} {reason}", 60)


def status_of(tidegate: Platform, key: str, name: str) -> int:
    """What the gateway answers to this key."""
    return asked(tidegate, key, name).status_code


def asked(tidegate: Platform, key: str, name: str) -> httpx.Response:
    body = {"model": name, "max_tokens": 5, "messages": [{"role": "user", "content": "a b c"}]}
    return httpx.post(
        f"{tidegate.gateway}/v1/chat/completions", json=body, timeout=120, trust_env=False,
        headers={"authorization": f"Bearer {key}"},
    )  # fmt: skip


def plain(tidegate: Platform, space: str) -> str:
    return kubectl.secret(tidegate.cluster, SECRET, "key", space)


def test_a_tenant_is_applied_uses_its_key_and_pays_by_its_book(
    tidegate: Platform, acme: str
) -> None:
    apply(tidegate.cluster, tenant(acme), book(f"{acme}-list", acme))
    written = ready(tidegate, "pricebook", f"{acme}-list", "Written")
    assert written["status"]["effectiveFrom"] == "2026-01-01T00:00:00Z"
    told = ready(tidegate, "tenant", acme, "Settled")["status"]["keys"]
    assert [(one["name"], one["secret"]) for one in told] == [("ci", f"{acme}/{SECRET}")]
    answer = asked(tidegate, plain(tidegate, acme), f"m-{acme}")
    assert answer.status_code == 200, answer.text
    request = answer.headers["x-request-id"]
    (event,) = wait_for(lambda: tidegate.events(request_id=request), "the settlement")
    assert (event["tenant"], event["project"], event["key_id"]) == (acme, "web", told[0]["id"])
    assert event["amount_exact"] == "0.000013"  # 3 x 1 + 5 x 2 per million, by the book
    rows = tidegate.api("/api/v1/usage", tenant=acme, by="key")["data"]
    assert [(row["key_id"], row["amount_exact"]) for row in rows] == [(told[0]["id"], "0.000013")]
    one = tidegate.api(f"/api/v1/tenants/{acme}")
    assert (one["display_name"], one["time_zone"]) == ("Acme", "Europe/Berlin")
    shown = tidegate.kubectl("get", "tenant", acme).splitlines()
    assert shown[0].split() == ["NAME", "DISPLAY", "NAME", "READY", "REASON", "AGE"]


def test_a_rotation_overlaps_and_a_lost_secret_gets_another_key(
    tidegate: Platform, acme: str
) -> None:
    apply(tidegate.cluster, tenant(acme))
    ready(tidegate, "tenant", acme, "Settled")
    old = plain(tidegate, acme)
    apply(tidegate.cluster, tenant(acme, rotation=1))
    wait_for(lambda: plain(tidegate, acme) != old, "the successor", 30)
    new = plain(tidegate, acme)
    assert [status_of(tidegate, key, f"m-{acme}") for key in (old, new)] == [200, 200]
    tidegate.kubectl("-n", acme, "delete", "secret", SECRET)
    wait_for(lambda: get(tidegate.cluster, "secret", SECRET, acme), "the Secret again", 30)
    assert status_of(tidegate, new, f"m-{acme}") == 401
    assert status_of(tidegate, plain(tidegate, acme), f"m-{acme}") == 200


def test_a_prepaid_tenant_is_served_as_far_as_its_credit_goes(
    tidegate: Platform, acme: str
) -> None:
    def plan(said: str) -> None:
        document = tenant(acme)
        document["spec"]["plan"] = said
        apply(tidegate.cluster, document)

    def answered(status: int) -> bool:
        return status_of(tidegate, plain(tidegate, acme), f"m-{acme}") == status

    plan("prepaid")
    wait_for(lambda: answered(402), "402 without credit", 30)
    tidegate.kubectl(
        "-n", SYSTEM, "exec", "deploy/tidegate-billing", "--",
        "tidegate", "credit", "grant", "--tenant", acme, "0.001",
    )  # fmt: skip
    assert answered(200), "routers know when the command returns"
    plan("postpaid")
    wait_for(lambda: tidegate.api(f"/api/v1/tenants/{acme}")["plan"] == "postpaid", "postpaid", 30)
    assert answered(200)


def test_what_is_misspelt_is_refused_and_what_is_wrong_is_said(
    tidegate: Platform, acme: str
) -> None:
    with pytest.raises(CommandFailed, match=r"unknown field .*inputt"):
        apply(tidegate.cluster, book(f"{acme}-bad", acme, prices={"inputt": "1"}))
    prices = {"input": 1, "output": {"kind": "volume", "tiers": []}}
    apply(tidegate.cluster, book(f"{acme}-bad", acme, prices=prices, serviceTiers={"flex": {}}))
    found = ready(tidegate, "pricebook", f"{acme}-bad", "Refused")
    said = (condition(found, "Ready") or {})["message"]
    for path in ("prices.input", "prices.output.tiers", "serviceTiers.flex"):
        assert f"spec.entries[0].{path}: " in said
    ready(tidegate, "pricebook", f"{acme}-list", "Written")


def test_a_strangers_secret_stays_as_it_is(tidegate: Platform, acme: str) -> None:
    name = f"{acme}-two"
    theirs = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "theirs", "namespace": acme},
    }
    apply(tidegate.cluster, {**theirs, "stringData": {"key": "theirs"}})
    where = {"namespace": acme, "name": "theirs"}
    entry = {"name": "ci", "secretRef": where}
    apply(tidegate.cluster, resource("Tenant", name, acme, keys=[entry]))
    found = ready(tidegate, "tenant", name, "SecretNotWritten")
    assert "spec.keys[0].secretRef" in (condition(found, "Ready") or {})["message"]
    assert kubectl.secret(tidegate.cluster, "theirs", "key", acme) == "theirs"
    assert tidegate.api("/api/v1/keys", tenant=name)["data"] == []


def operators(tidegate: Platform, count: int) -> None:
    tidegate.kubectl("-n", SYSTEM, "scale", "deploy/tidegate-operator", f"--replicas={count}")
    selector = "app.kubernetes.io/component=operator"
    wait_for(lambda: len(items(tidegate.cluster, "pods", SYSTEM, selector)) == count, "operators")


def test_a_tenant_that_is_deleted_while_no_operator_runs_ends_all_the_same(
    tidegate: Platform, acme: str
) -> None:
    key = plain(tidegate, acme)
    operators(tidegate, 0)
    try:
        tidegate.kubectl("delete", "tenant", acme, "--wait=true")  # no finalizer holds it
        assert status_of(tidegate, key, f"m-{acme}") == 200
    finally:
        operators(tidegate, 1)
    wait_for(lambda: get(tidegate.cluster, "secret", SECRET, acme) is None, "its Secret gone", 60)
    assert status_of(tidegate, key, f"m-{acme}") == 401
    assert tidegate.api(f"/api/v1/tenants/{acme}")["suspended"]
    assert tidegate.api("/api/v1/usage", tenant=acme)["data"], "what it used stays"


def test_a_book_that_is_deleted_prices_nothing_more(tidegate: Platform, acme: str) -> None:
    tidegate.kubectl("delete", "pricebook", f"{acme}-list")
    wait_for(
        lambda: tidegate.api(f"/api/v1/price-books/{acme}-list")["document"] is None, "withdrawn"
    )


def test_the_examples_are_taken(tidegate: Platform) -> None:
    for name in ("tenant", "price-book"):
        where = ROOT / "examples" / f"{name}.yaml"
        words = ("apply", "--dry-run=server", "--validate=strict", "-f", str(where), "-o", "json")
        made = json.loads(tidegate.kubectl(*words))
        assert made["apiVersion"] == API
