"""Prices, corrections and the ledger's state by the management API, over the real process."""

import datetime as dt
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from billing_process import ADMIN, INTERNAL, Billing
from ledgers import Ledgers
from tidegate_billing.links import ModelPricing, Pricing, UsageBatch
from tidegate_billing.usage import Usage, uuid7

BOOK: dict[str, Any] = {
    "name": "list",
    "currency": "USD",
    "effectiveFrom": "2026-01-01T00:00:00Z",
    "entries": [{"model": "m", "prices": {"input": "2", "output": "8"}}],
}
CONTRACT: dict[str, Any] = {
    "tenant": "acme",
    "currency": "USD",
    "effectiveFrom": "2026-01-01T00:00:00Z",
    "discount": "50",
}


@pytest.fixture
def billing(ledgers: Ledgers, tmp_path: Path) -> Iterator[Billing]:
    made = Billing(tmp_path, ledgers.url(), ledgers.server)
    try:
        made.start()
        made.key(tenant="acme")
        made.put("/internal/models", [owned("d/m", "m", Pricing(input_per_million="1"))])
        yield made
    finally:
        made.close()


def owned(deployment: str, model: str, pricing: Pricing | None) -> ModelPricing:
    return ModelPricing(deployment=deployment, model=model, owner="team-a", pricing=pricing)


def send(billing: Billing, count: int, first: int = 1, **values: Any) -> list[Usage]:
    base = {"model": "m", "deployment": "d/m", "prompt_tokens": 1_000_000, "tenant": "acme"}
    events = [
        Usage(
            attempt_id=uuid7(), kind="settlement", request_id=f"r{n}", project="p", key_id="k",
            endpoint="chat", started_at=time.time_ns() // 1000, outcome="completed",
            source="engine", billed=True, **{**base, **values},
        )
        for n in range(count)
    ]  # fmt: skip
    billing.send(UsageBatch(journal="j", first=first, last=first + count - 1, events=events))
    return events


def call(
    billing: Billing, method: str, path: str, status: int, body: Any = None, **headers: str
) -> Any:
    answer = httpx.request(
        method, billing.url("/api/v1" + path), json=body, headers={**ADMIN, **headers}, timeout=30
    )
    assert answer.status_code == status, answer.text
    return answer.json()


def exact(billing: Billing) -> str:
    rows = billing.get("/api/v1/usage", tenant="acme", by="model").json()["data"]
    return ",".join(row["amount_exact"] for row in rows)


def test_a_book_is_written_versioned_read_and_withdrawn(billing: Billing) -> None:
    send(billing, 1)
    assert exact(billing) == "1"
    written = call(billing, "POST", "/price-books", 201, BOOK)
    assert (written["kind"], written["name"], written["released"]) == ("book", "list", 0)
    assert written["document"] == BOOK
    send(billing, 1, first=2)
    assert exact(billing) == "3"
    tag = httpx.get(billing.url("/api/v1/price-books/list"), headers=ADMIN).headers["etag"]
    later = {**BOOK, "effectiveFrom": "2026-01-02T00:00:00Z"}
    call(billing, "POST", "/price-books", 412, later, **{"if-match": '"99"'})
    call(billing, "POST", "/price-books", 201, later, **{"if-match": tag})
    listed = call(billing, "GET", "/price-books?name=list", 200)
    assert [one["effective_from"] for one in listed["data"]] == [
        "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z",
    ]  # fmt: skip
    gone = call(billing, "DELETE", "/price-books/list", 200)
    assert gone["document"] is None
    send(billing, 1, first=3)
    assert exact(billing) == "4"
    actions = [row["action"] for row in call(billing, "GET", "/audit?object_id=list", 200)["data"]]
    assert actions == ["book.write"] * 3


def test_bad_documents_name_every_mistake(billing: Billing) -> None:
    bad = {
        **BOOK,
        "currency": "usd",
        "entries": [{"model": "m", "prices": {"inputt": "1", "output": 2}}],
    }
    said = call(billing, "POST", "/price-books", 400, bad)
    assert said["code"] == "invalid_document"
    for path in ("currency", "entries[0].prices.inputt", "entries[0].prices.output"):
        assert path in said["detail"]
    missing = call(billing, "POST", "/contracts", 404, {**CONTRACT, "tenant": "nobody"})
    assert missing["code"] == "tenant_not_found"
    call(billing, "GET", "/price-books/none", 404)


def test_a_repeated_post_with_an_idempotency_key_writes_once(billing: Billing) -> None:
    for _ in range(2):
        call(billing, "POST", "/contracts", 201, CONTRACT, **{"idempotency-key": "once"})
    assert len(call(billing, "GET", "/contracts?tenant=acme", 200)["data"]) == 1


def test_a_late_price_releases_and_a_correction_adjusts(billing: Billing) -> None:
    billing.put("/internal/models", [owned("d/m", "m", None), owned("d/bare", "bare", None)])
    (event, *_) = send(billing, 3, model="bare", deployment="d/bare")
    assert call(billing, "GET", "/parked", 200)["data"] == [
        {
            "deployment": "d/bare",
            "events": 3,
            "first_month": dt.datetime.now(dt.UTC).strftime("%Y-%m"),
        }
    ]
    priced = {**BOOK, "entries": [{"model": "bare", "prices": {"input": "2", "output": "0"}}]}
    assert call(billing, "POST", "/price-books", 201, priced)["released"] == 3
    assert exact(billing) == "6"
    call(billing, "POST", "/contracts", 201, CONTRACT)
    assert exact(billing) == "6"
    month = dt.datetime.now(dt.UTC).strftime("%Y-%m")
    wanted = {"first": month, "last": month, "tenant": "acme", "note": "the contract came late"}
    assert call(billing, "POST", "/rerate", 200, wanted) == {"changed": 3}
    assert call(billing, "POST", "/rerate", 200, wanted) == {"changed": 0}
    assert exact(billing) == "3"
    rows = call(billing, "GET", f"/adjustments?event_id={event.event_id}", 200)["data"]
    assert [(row["reason"], row["before"], row["after"]) for row in rows] == [
        ("released", None, "2"), ("rerated", "2", "1"),
    ]  # fmt: skip
    assert rows[1]["note"] == "the contract came late"
    shown = billing.get("/api/v1/events", request_id=event.request_id).json()["data"][0]
    assert shown["amount_exact"] == "1"
    assert call(billing, "GET", "/parked", 200)["data"] == []
    bill = billing.get(f"/api/v1/invoices/{month}", tenant="acme").json()
    assert bill["total"] == "3.00"
    call(billing, "POST", "/rerate", 400, {**wanted, "first": "2030-01"})
    call(billing, "POST", "/rerate", 400, {"first": month, "last": month, "note": ""})


def test_conservation_by_day_says_where_it_parts(billing: Billing) -> None:
    send(billing, 4)
    assert call(billing, "GET", "/conservation/days", 200)["data"] == []
    assert billing.metric('tidegate_ledger_drift_tokens{place="rollup_day"}') == "0"
    damage = "UPDATE rollup_day SET prompt_tokens = prompt_tokens - 7"
    if billing.server is not None:
        billing.query(damage)
    else:
        with billing.tampered(damage):
            planted(billing)
        return
    planted(billing)


def planted(billing: Billing) -> None:
    (part,) = call(billing, "GET", "/conservation/days", 200)["data"]
    assert (part["place"], part["model"], part["tokens"]) == ("rollup_day", "m", -7)
    assert "7 prompt_tokens fewer than in the ledger" in part["says"]
    assert billing.metric('tidegate_ledger_drift_tokens{place="rollup_day"}') == "7"
    call(billing, "GET", "/conservation/days?from=2020-01-01&to=2026-01-01", 400)


def test_refused_events_can_be_looked_at(billing: Billing) -> None:
    send(billing, 1, prompt_tokens=-5)
    (row,) = call(billing, "GET", "/refused", 200)["data"]
    assert row["reason"].startswith("prompt_tokens is -5")
    assert row["event"]["prompt_tokens"] == -5


def test_a_restart_tells_what_drifted_meanwhile(billing: Billing) -> None:
    """The process looks by itself, too."""
    if billing.server is None:
        return
    send(billing, 2)
    billing.query("UPDATE rollup_hour SET requests = requests + 1")
    billing.end(signal.SIGTERM)
    billing.start()
    until = time.monotonic() + 20
    while "ledger_drift" not in billing.log:
        assert time.monotonic() < until, billing.log
        time.sleep(0.02)
    assert "rollup_hour of m" in billing.log


WRONG = [
    ("POST", "/price-books", {**BOOK, "name": "a\0b"}),
    ("POST", "/price-books", {**BOOK, "name": "x" * 3000}),
    ("POST", "/price-books", {**BOOK, "effectiveFrom": "0001-01-01T00:00:00+23:59"}),
    ("POST", "/price-books", {**BOOK, "effectiveFrom": "9999-12-31T23:59:59.999999-23:59"}),
    ("POST", "/contracts", {**CONTRACT, "tenant": "a\0b"}),
    (
        "POST",
        "/rerate",
        {"first": "xx2026-11yy", "last": "zz2026-11", "note": "", "tenant": "acme"},
    ),
    ("POST", "/rerate", {"first": "2026-11\n", "last": "2026-11", "note": "", "tenant": "acme"}),
    ("POST", "/rerate", {"first": "2026-11", "last": "2026-11", "note": "\0", "tenant": "acme"}),
    ("POST", "/credit-grants", {"tenant": "acme", "amount": "1", "note": "\0"}),
    (
        "POST",
        "/credit-grants",
        {"tenant": "acme", "amount": "1", "starts_at": "0001-01-01T00:00:00+23:00"},
    ),
    (
        "POST",
        "/credit-grants",
        {"tenant": "acme", "amount": "1", "expires_at": "9999-12-31T23:59:59-23:00"},
    ),
    ("GET", "/conservation/days?to=9999-12-31", None),
    ("GET", "/conservation/days?to=0001-01-01", None),
    ("GET", "/conservation/days?from=0001-01-01&to=0001-01-01", None),
]


def test_what_no_database_or_calendar_can_hold_is_refused(billing: Billing) -> None:
    for method, path, body in WRONG:
        call(billing, method, path, 400, body)
    deep = ("[" * 5000 + "]" * 5000).encode()
    answer = httpx.post(billing.url("/api/v1/price-books"), content=deep, headers=ADMIN)
    assert answer.status_code == 400
    usage = UsageBatch(journal="a\0b", first=1, last=1, events=[])
    refused = httpx.post(
        billing.url("/internal/usage"), content=msgspec.json.encode(usage), headers=INTERNAL
    )
    assert refused.status_code == 400
    named = [owned("d/\0", "m", None)]
    models = httpx.put(
        billing.url("/internal/models"), content=msgspec.json.encode(named), headers=INTERNAL
    )
    assert models.status_code == 400
