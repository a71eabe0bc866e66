"""What resources of a cluster say, told to the real billing process, on both databases."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from billing_process import ADMIN, INTERNAL, Billing
from ledgers import Ledgers

BOOK: dict[str, Any] = {
    "currency": "USD",
    "effectiveFrom": "2026-01-01T00:00:00Z",
    "entries": [{"model": "m", "prices": {"input": "2", "output": "8"}}],
}


@pytest.fixture
def billing(ledgers: Ledgers, tmp_path: Path) -> Iterator[Billing]:
    made = Billing(tmp_path, ledgers.url(), ledgers.server)
    try:
        made.start()
        yield made
    finally:
        made.close()


def told(billing: Billing, method: str, path: str, body: Any = None, status: int = 200) -> Any:
    url = billing.url(f"/internal/{path}")
    answer = httpx.request(method, url, json=body, headers=INTERNAL, timeout=30)
    assert answer.status_code == status, answer.text
    return answer.json()


def put(billing: Billing, *keys: dict[str, Any], **fields: Any) -> dict[str, dict[str, str]]:
    """Tell the tenant acme; its keys by their entries."""
    answer = told(billing, "PUT", "tenants/acme", {"keys": list(keys), **fields})
    return {one["name"]: one for one in answer["keys"]}


def shown(billing: Billing, key_id: str) -> dict[str, Any]:
    found: dict[str, Any] = billing.get(f"/api/v1/keys/{key_id}").json()
    return found


def audited(billing: Billing) -> list[str]:
    rows = billing.get("/api/v1/audit", limit="1000").json()["data"]
    return [row["action"] for row in rows if row["actor"] == "operator"]


def test_only_the_internal_token_is_let_in(billing: Billing) -> None:
    for method, path in (("GET", "managed"), ("PUT", "tenants/a"), ("DELETE", "price-books/a")):
        answer = httpx.request(method, billing.url(f"/internal/{path}"), headers=ADMIN)
        assert answer.status_code == 401


def test_a_book_that_is_told_again_is_no_new_version(billing: Billing) -> None:
    first = told(billing, "PUT", "price-books/list", BOOK)
    assert first["effective_from"] == "2026-01-01T00:00:00Z"
    assert told(billing, "PUT", "price-books/list", BOOK) == first
    assert told(billing, "GET", "managed") == [{"kind": "price-book", "name": "list"}]
    assert audited(billing) == ["book.write"]
    told(billing, "DELETE", "price-books/list")
    assert told(billing, "DELETE", "price-books/list") == {"ended": False}
    assert billing.get("/api/v1/price-books/list").json()["document"] is None
    assert told(billing, "GET", "managed") == []
    again = told(billing, "PUT", "price-books/list", BOOK)
    assert again["effective_from"] > "2026-11", "what comes back holds from now on"


def test_a_book_of_the_api_is_not_ended_by_the_operator(billing: Billing) -> None:
    book = {**BOOK, "name": "theirs"}
    httpx.post(billing.url("/api/v1/price-books"), json=book, headers=ADMIN).raise_for_status()
    assert told(billing, "DELETE", "price-books/theirs") == {"ended": False}
    assert billing.get("/api/v1/price-books/theirs").json()["document"] == book


def begins(billing: Billing) -> list[tuple[str, str | None]]:
    """What begins when, of all that is ever written of the book: (day, input price)."""
    rows = billing.get("/api/v1/price-books", name="list").json()["data"]
    last = {row["effective_from"]: row["document"] for row in rows}
    return [
        (at[:10], doc and doc["entries"][0]["prices"]["input"]) for at, doc in sorted(last.items())
    ]


def test_what_a_resource_says_last_is_what_counts(billing: Billing) -> None:
    """A price that was announced and then put off, one that was taken back, and one that ended."""

    def book(since: str, price: str) -> dict[str, Any]:
        entry = {"model": "m", "prices": {"input": price, "output": "8"}}
        return {**BOOK, "effectiveFrom": f"{since}T00:00:00Z", "entries": [entry]}

    today = dt.datetime.now(dt.UTC).date().isoformat()
    told(billing, "PUT", "price-books/list", book("2026-01-01", "1"))
    told(billing, "PUT", "price-books/list", book("2098-01-01", "2"))
    told(billing, "PUT", "price-books/list", book("2099-01-01", "2"))
    assert begins(billing) == [("2026-01-01", "1"), ("2098-01-01", "1"), ("2099-01-01", "2")]
    told(billing, "PUT", "price-books/list", book("2026-02-01", "3"))
    told(billing, "PUT", "price-books/list", book("2026-01-01", "1"))  # git revert
    found = begins(billing)
    assert found[1:] == [
        ("2026-02-01", "3"), (today, "1"), ("2098-01-01", "1"), ("2099-01-01", "1"),
    ]  # fmt: skip
    told(billing, "DELETE", "price-books/list")
    assert [price for at, price in begins(billing) if at > today] == [None, None]


def test_a_bad_book_names_every_mistake_and_changes_nothing(billing: Billing) -> None:
    entries = [{"model": "m", "prices": {"inputt": "1", "output": 2}}]
    bad = {**BOOK, "currency": "usd", "entries": entries}
    said = told(billing, "PUT", "price-books/list", bad, 400)["detail"]
    for path in ("currency", "entries[0].prices.inputt", "entries[0].prices.output"):
        assert f"spec.{path}: " in said
    assert told(billing, "GET", "managed") == []


def test_a_tenant_is_what_its_resource_says(billing: Billing) -> None:
    contract = {"currency": "USD", "effectiveFrom": "2026-01-01T00:00:00Z", "discount": "50"}
    whole = {
        "displayName": "Acme", "timeZone": "Europe/Berlin", "projects": ["web", "batch"],
        "contract": contract,
    }  # fmt: skip
    put(billing, **whole)
    one = billing.get("/api/v1/tenants/acme").json()
    assert (one["display_name"], one["time_zone"], one["suspended"]) == (
        "Acme", "Europe/Berlin", False,
    )  # fmt: skip
    names = {row["name"] for row in billing.get("/api/v1/projects", tenant="acme").json()["data"]}
    assert names == {"web", "batch"}
    assert billing.get("/api/v1/contracts/acme").json()["document"] == {
        "tenant": "acme", **contract,
    }  # fmt: skip
    before = audited(billing)
    put(billing, **whole)
    assert audited(billing) == before
    assert one["plan"] == "postpaid"
    put(billing, **whole, plan="prepaid")
    put(billing, **whole)
    assert billing.get("/api/v1/tenants/acme").json()["plan"] == "prepaid", "left out: stays"
    put(billing, suspended=True)
    assert billing.get("/api/v1/tenants/acme").json()["suspended"]
    assert billing.get("/api/v1/contracts/acme").json()["document"] is None
    put(billing)
    assert billing.get("/api/v1/tenants/acme").json()["suspended"], "left out: stays as it is"


def test_a_bad_tenant_names_every_mistake_and_changes_nothing(billing: Billing) -> None:
    body = {
        "timeZone": "Mars", "contract": {"currency": "USD", "discount": "200"},
        "keys": [
            {"name": "a", "routes": ["chatt"]}, {"name": "a", "models": []},
        ],
    }  # fmt: skip
    said = told(billing, "PUT", "tenants/acme", body, 400)["detail"]
    for path in (
        "timeZone", "contract.effectiveFrom", "keys[0].scopes.routes", "keys[1].scopes.models",
        "keys[1].name",
    ):  # fmt: skip
        assert f"spec.{path}: " in said, said
    assert billing.get("/api/v1/tenants/acme").status_code == 404
    where = {"organization": "nowhere"}
    assert "nowhere" in told(billing, "PUT", "tenants/acme", where, 404)["detail"]
    assert billing.get("/api/v1/tenants/acme").status_code == 404


def test_a_key_that_did_not_arrive_is_replaced_and_one_that_did_stays(billing: Billing) -> None:
    lost = put(billing, {"name": "ci", "routes": ["chat"]})["ci"]
    assert lost["key"].startswith(lost["prefix"])
    made = put(billing, {"name": "ci", "routes": ["chat"]})["ci"]
    assert made["id"] != lost["id"]
    assert shown(billing, lost["id"])["revoked_at"]
    here = {"name": "ci", "delivered": made["id"]}
    kept = put(billing, {**here, "routes": ["chat"]})["ci"]
    assert kept == {"name": "ci", "id": made["id"], "prefix": made["prefix"]}
    actions = audited(billing)
    put(billing, {**here, "models": ["qwen*"]})
    assert audited(billing) == [*actions, "key.update"]
    one = shown(billing, made["id"])
    assert (one["models"], one["routes"], one["revoked_at"]) == (["qwen*"], None, None)
    assert put(billing, {"name": "ci", "deliverable": False})["ci"] == {"name": "ci"}
    assert shown(billing, made["id"])["revoked_at"], "its Secret is gone"
    assert made["key"] not in billing.log
    assert made["key"].encode() not in billing.contents()


def test_a_rotation_overlaps_and_survives_a_successor_that_was_lost(billing: Billing) -> None:
    first = put(billing, {"name": "ci"})["ci"]["id"]
    here = {"name": "ci", "rotation": 1, "overlapSeconds": 600, "delivered": first}
    lost = put(billing, here)["ci"]
    assert "key" in lost
    until = shown(billing, first)["expires_at"]
    assert until
    second = put(billing, here)["ci"]
    assert shown(billing, lost["id"])["revoked_at"]
    assert shown(billing, first)["expires_at"] == until, "the overlap is not begun anew"
    assert shown(billing, second["id"])["rotated_from"] == first
    there = {**here, "delivered": second["id"]}
    assert put(billing, there)["ci"]["id"] == second["id"]
    assert not shown(billing, first)["revoked_at"]
    third = put(billing, {**there, "rotation": 2, "overlapSeconds": 0})["ci"]
    assert shown(billing, second["id"])["revoked_at"]
    put(billing)
    for key_id in (first, third["id"]):
        assert shown(billing, key_id)["revoked_at"], "its entry is gone"


def test_a_key_whose_successor_could_not_arrive_stays(billing: Billing) -> None:
    first = put(billing, {"name": "ci"})["ci"]["id"]
    here = {"name": "ci", "rotation": 1, "delivered": first}
    lost = put(billing, here)["ci"]["id"]
    assert put(billing, {**here, "deliverable": False})["ci"]["id"] == first
    assert shown(billing, lost)["revoked_at"]
    assert shown(billing, first)["expires_at"] is None, "it is the only one"


def test_a_key_whose_time_is_over_ends_and_is_not_made_again(billing: Billing) -> None:
    past = {"name": "ci", "expiresAt": "2026-01-01T00:00:00Z"}
    assert put(billing, past)["ci"] == {"name": "ci"}
    made = put(billing, {"name": "ci"})["ci"]["id"]
    assert put(billing, {**past, "delivered": made})["ci"] == {"name": "ci"}
    assert shown(billing, made)["revoked_at"]


def test_a_tenant_whose_resource_is_gone_is_suspended_and_may_come_back(billing: Billing) -> None:
    theirs = billing.key(tenant="acme")["id"]
    made = put(billing, {"name": "ci"})["ci"]["id"]
    assert told(billing, "GET", "managed") == [{"kind": "tenant", "name": "acme"}]
    assert told(billing, "DELETE", "tenants/acme") == {"ended": True}
    assert told(billing, "DELETE", "tenants/acme") == {"ended": False}
    assert billing.get("/api/v1/tenants/acme").json()["suspended"]
    for key_id in (theirs, made):
        assert shown(billing, key_id)["revoked_at"]
    put(billing)
    assert not billing.get("/api/v1/tenants/acme").json()["suspended"]


def test_a_tenant_of_no_resource_is_not_ended(billing: Billing) -> None:
    billing.key(tenant="acme")
    assert told(billing, "DELETE", "tenants/acme") == {"ended": False}
    assert not billing.get("/api/v1/tenants/acme").json()["suspended"]
