"""A tenant's pages and receipts, against the ledger's events summed one by one, on both databases."""

import random
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import select

from ledgers import Ledger, Ledgers
from tidegate_billing import (
    adjust,
    ingest,
    pricebook,
    tariff,
    tenant_page,
    tenant_query,
    tenant_receipt,
    tenant_usage,
)  # fmt: skip
from tidegate_billing import (
    ledger as questions,
)
from tidegate_billing.adjust import Scope, Why
from tidegate_billing.ingest import Memory, prepare
from tidegate_billing.links import ModelPricing, Pricing, UsageBatch
from tidegate_billing.rates import book as books
from tidegate_billing.tables import EVENT
from tidegate_billing.tenant_query import DAY, HOUR, KINDS, MINUTE, QueryError
from tidegate_billing.usage import Usage, attempt_time, uuid7

JULY = 1_782_864_000
"""2026-07-01 00:00 UTC."""
NOW = JULY + 3 * DAY
MODELS = {"m": ("0.10", "0.40", "0.02"), "n": ("3", "15", None)}
CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"


def pricing(model: str, currency: str = "USD") -> ModelPricing:
    given, made, cached = MODELS[model]
    prices = Pricing(
        currency=currency,
        input_per_million=given,
        output_per_million=made,
        cached_input_per_million=cached,
    )
    return ModelPricing(deployment=f"d/{model}", model=model, owner="team-a", pricing=prices)


def event(seconds: float, **values: object) -> Usage:
    uuid = uuid7(int(seconds * 1e9))
    base: dict[str, object] = {
        "attempt_id": uuid,
        "kind": "settlement",
        "request_id": f"req-{uuid}",
        "tenant": "team-b",
        "project": "web",
        "key_id": "key_1",
        "model": "m",
        "deployment": "d/m",
        "endpoint": CHAT,
        "started_at": int(seconds * 1e6),
        "finished_at": int(seconds * 1e6) + 1_500_000,
        "replica": "pod-7",
        "prompt_tokens": 5,
        "completion_tokens": 16,
        "outcome": "completed",
        "source": "engine",
        "billed": True,
    }
    return Usage(**{**base, **values})  # type: ignore[arg-type]


def put(ledger: Ledger, *events: Usage) -> None:
    batch = UsageBatch(journal=uuid7(), first=1, last=len(events), events=list(events))
    (outcome,) = ledger(ingest.ingest, [prepare(batch)], Memory(), NOW * 10**6)
    assert (outcome.conflicts, outcome.malformed) == ((), ())


@pytest.fixture
def priced(ledger: Ledger) -> Ledger:
    ledger(pricebook.apply, [pricing("m"), pricing("n")], now=0)
    return ledger


def page(
    ledger: Ledger, path: str, tenant: str = "team-b", now: int = NOW, **query: object
) -> dict[str, Any]:
    text = urlencode(query, doseq=True)
    asked = tenant_query.read(KINDS[path], tenant, text, now)
    return ledger.read(lambda connection: tenant_usage.answer(connection, tenant, asked))


def usage(ledger: Ledger, kind: str = "completions", **query: Any) -> dict[str, Any]:
    return page(ledger, tenant_query.USAGE_PATH + kind, **query)


def costs(ledger: Ledger, **query: Any) -> dict[str, Any]:
    return page(ledger, tenant_query.COSTS_PATH, **query)


def traffic(seed: int, count: int = 150) -> list[Usage]:
    """Two tenants' events around the end of June, at its very edges too."""
    draw = random.Random(seed)
    edges = [JULY - 0.001, JULY, JULY + 0.001, JULY - HOUR, JULY - MINUTE - 0.001, JULY - DAY]
    made = []
    for number in range(count):
        at = edges[number] if number < len(edges) else JULY + draw.uniform(-DAY, DAY)
        model = draw.choice(["m", "m", "n"])
        made.append(
            event(
                at,
                tenant=draw.choice(["team-b", "team-b", "team-c"]),
                project=draw.choice(["web", "app"]),
                key_id=draw.choice(["key_1", "key_2"]),
                model=model,
                deployment=f"d/{model}",
                endpoint=draw.choice([CHAT, CHAT, "/v1/rerank", EMBEDDINGS]),
                prompt_tokens=draw.randint(1, 10**6),
                cached_tokens=draw.randint(0, 100),
                cached_known=draw.random() < 0.7,
                completion_tokens=draw.randint(0, 10**6),
                billed=(billed := draw.random() < 0.9),
                reason="" if billed else "retry",
            )
        )
    return made


Key = tuple[int, tuple[Any, ...]]
NAMES = {"project_id": "project", "api_key_id": "key_id", "model": "model"}


def start_of(at: int, first: int, width: int) -> int:
    return max(first, at - at % width)


def summed(
    ledger: Ledger, kind: str, first: int, last: int, width: int, groups: list[str]
) -> dict[Key, tuple[int, int, int, int]]:
    """What the pages should hold: every event of the ledger looked at, one by one."""
    sums: dict[Key, Counter[str]] = {}
    query = select(EVENT).where(EVENT.c.tenant == "team-b", EVENT.c.billed)
    for row in ledger.read(lambda connection: connection.execute(query).all()):
        at = attempt_time(row.attempt_id) // 1000
        wanted = row.endpoint == EMBEDDINGS if kind == "embeddings" else row.endpoint != EMBEDDINGS
        if wanted and first <= at < last:
            key = (start_of(at, first, width), tuple(getattr(row, NAMES[n]) for n in groups))
            sums.setdefault(key, Counter()).update(
                n=1, p=row.prompt_tokens, c=row.cached_tokens, o=row.completion_tokens
            )
    return {key: (s["n"], s["p"], s["c"], s["o"]) for key, s in sums.items()}


def told(data: list[dict[str, Any]], groups: list[str]) -> dict[Key, tuple[int, int, int, int]]:
    found = {}
    for bucket in data:
        for one in bucket["results"]:
            cached, output = one.get("input_cached_tokens", 0), one.get("output_tokens", 0)
            key = (bucket["start_time"], tuple(one[name] for name in groups))
            assert key not in found
            found[key] = (one["num_model_requests"], one["input_tokens"], cached, output)
    return found


@pytest.mark.parametrize("groups", [[], ["model"], ["project_id", "api_key_id", "model"]])
def test_usage_is_the_ledger_to_the_token(priced: Ledger, groups: list[str]) -> None:
    put(priced, *traffic(1))
    first, last = JULY - DAY - 90 * MINUTE, JULY + 20 * HOUR + 5 * MINUTE
    for width, name in ((HOUR, "1h"), (DAY, "1d")):
        query: dict[str, Any] = {"start_time": first, "end_time": last, "bucket_width": name}
        query |= {"group_by": groups, "limit": 168 if name == "1h" else 31}
        made = usage(priced, **query)
        assert not made["has_more"]
        expected = summed(priced, "completions", first, last, width, groups)
        assert told(made["data"], groups) == expected
        embedded = summed(priced, "embeddings", first, last, width, groups)
        found = told(usage(priced, "embeddings", **query)["data"], groups)
        assert found == {key: (n, p, 0, 0) for key, (n, p, _, _) in embedded.items()}


def test_minutes_across_a_months_end_in_pages(priced: Ledger) -> None:
    put(priced, *traffic(2, 60), *[event(JULY + second) for second in range(-90, 90, 7)])
    first, last = JULY - 10 * HOUR, JULY + 10 * HOUR
    query: dict[str, Any] = {"start_time": first, "end_time": last, "bucket_width": "1m"}
    whole = usage(priced, **query, limit=1440)
    data = list(whole["data"])
    assert [bucket["start_time"] for bucket in data] == list(range(first, last, MINUTE))
    assert told(data, []) == summed(priced, "completions", first, last, MINUTE, [])
    assert sum(1 for bucket in data if not bucket["results"]) > 1000
    pieces: list[Any] = []
    token = None
    while not pieces or token is not None:
        part = usage(priced, **query, limit=97, **({"page": token} if token else {}))
        pieces += part["data"]
        token = part["next_page"]
    assert pieces == data


def test_costs_are_what_events_cost(priced: Ledger) -> None:
    put(priced, *traffic(3))
    query = select(EVENT).where(EVENT.c.tenant == "team-b", EVENT.c.billed)
    exact: Counter[tuple[int, str]] = Counter()
    rows = priced.read(lambda connection: connection.execute(query).all())
    for row in rows:
        at = attempt_time(row.attempt_id) // 1000
        exact[at - at % DAY, row.project] += row.amount_nano * 10**9 + row.amount_atto
    made = costs(priced, start_time=JULY - DAY + 5, end_time=JULY + 5, group_by=["project_id"])
    assert [bucket["start_time"] for bucket in made["data"]] == [JULY - DAY, JULY]
    found = {
        (bucket["start_time"], one["project_id"]): one["amount"]
        for bucket in made["data"]
        for one in bucket["results"]
    }
    assert {key: int(Decimal(m["value_exact"]).scaleb(18)) for key, m in found.items()} == exact
    assert all(m["value"] == float(m["value_exact"]) for m in found.values())
    assert {m["currency"] for m in found.values()} == {"usd"}
    items = costs(priced, start_time=JULY - DAY, group_by=["line_item"])
    for bucket in items["data"]:
        per_day = sum(Decimal(one["amount"]["value_exact"]) for one in bucket["results"])
        expected = sum(v for (day, _), v in exact.items() if day == bucket["start_time"])
        assert per_day == Decimal(expected).scaleb(-18)
    first = {one["line_item"]: one for one in items["data"][0]["results"]}
    assert set(first) == {
        *("m, input_tokens", "m, cached_input_tokens", "m, output_tokens"),
        *("n, input_tokens", "n, output_tokens"),
    }
    output = first["n, output_tokens"]
    of_day = [r for r in rows if r.model == "n" and attempt_time(r.attempt_id) < JULY * 1000]
    assert output["quantity"] == sum(r.completion_tokens for r in of_day)
    assert output["quantity_unit"] == "tokens"
    assert Decimal(output["amount"]["value_exact"]) == Decimal(15) * int(output["quantity"]) / 10**6
    only = costs(priced, start_time=JULY - DAY, line_items=["n, output_tokens"])
    assert only["data"][0]["results"][0]["amount"] == output["amount"]
    assert only["data"][0]["results"][0]["line_item"] is None
    mixed = costs(priced, start_time=JULY - DAY, group_by=["api_key_id"])["data"][0]["results"]
    assert [(one["api_key_id"], one["quantity"]) for one in mixed] == [
        ("key_1", None), ("key_2", None),
    ]  # fmt: skip


def test_filters_take_what_they_name(priced: Ledger) -> None:
    put(priced, event(JULY), event(JULY, project="app", key_id="key_2"), event(JULY, key_id="k3"))

    def count(**query: object) -> int:
        (bucket,) = usage(priced, start_time=JULY, end_time=JULY + DAY, **query)["data"]
        return sum(one["num_model_requests"] for one in bucket["results"])

    assert count() == 3
    assert count(project_ids=["web"]) == 2
    assert count(api_key_ids=["key_2", "k3"]) == 2
    assert count(project_ids=["web"], api_key_ids=["key_2"]) == 0
    assert count(models=["m"]) == 3
    assert count(models=["x' OR 1=1"]) == 0


def test_a_tenant_sees_its_own(priced: Ledger) -> None:
    put(priced, event(JULY), event(JULY, tenant="team-c", key_id="key_9", prompt_tokens=7))
    (bucket,) = usage(
        priced, tenant="team-c", start_time=JULY, end_time=JULY + 60, group_by=["api_key_id"]
    )["data"]
    assert [(one["api_key_id"], one["input_tokens"]) for one in bucket["results"]] == [("key_9", 7)]
    (bucket,) = usage(priced, tenant="team-c", start_time=JULY, end_time=JULY + 60,
                      api_key_ids=["key_1"])["data"]  # fmt: skip
    assert bucket["results"] == []
    (bucket,) = costs(priced, tenant="nobody", start_time=JULY, end_time=JULY + 60)["data"]
    assert bucket["results"] == []


def test_each_currency_has_its_own_cost(priced: Ledger) -> None:
    put(priced, event(JULY))
    priced(pricebook.apply, [pricing("m", "JPY"), pricing("n")], now=(JULY + 60) * 10**6)
    put(priced, event(JULY + 61))
    (bucket,) = costs(priced, start_time=JULY, end_time=JULY + DAY)["data"]
    amounts = [
        (one["amount"]["currency"], one["amount"]["value_exact"]) for one in bucket["results"]
    ]
    assert amounts == [("jpy", "0.0000069"), ("usd", "0.0000069")]


def test_a_new_price_makes_no_second_line(priced: Ledger) -> None:
    put(priced, event(JULY))
    dearer = msgspec.structs.replace(pricing("m"), pricing=Pricing(output_per_million="1"))
    priced(pricebook.apply, [dearer, pricing("n")], now=(JULY + 60) * 10**6)
    put(priced, event(JULY + 61))
    query: dict[str, Any] = {"start_time": JULY, "end_time": JULY + DAY}
    (bucket,) = costs(priced, **query, group_by=["line_item"])["data"]
    found = {one["line_item"]: one for one in bucket["results"]}
    assert found["m, output_tokens"]["amount"]["value_exact"] == "0.0000224"
    assert found["m, output_tokens"]["quantity"] == 32
    (bucket,) = costs(priced, **query)["data"]
    assert bucket["results"][0]["amount"]["value_exact"] == "0.0000229"


TIERS = {
    "name": "list", "currency": "USD", "effectiveFrom": "2026-01-01T00:00:00Z",
    "entries": [{"model": "m", "prices": {
        "input": {
            "kind": "graduated",
            "tiers": [{"upTo": 10, "unitPrice": "1000000"}, {"unitPrice": "1"}],
        },
        "output": "0",
    }}],
}  # fmt: skip


def test_tiers_are_one_line_and_corrections_stay_exact(priced: Ledger) -> None:
    priced(tariff.write, books.parse(TIERS), TIERS, 0)
    put(priced, event(JULY, prompt_tokens=8), event(JULY + DAY, prompt_tokens=8))
    query: dict[str, Any] = {"start_time": JULY, "end_time": JULY + 2 * DAY}

    def exact() -> list[list[tuple[str, str]]]:
        return [
            [(one["line_item"], one["amount"]["value_exact"]) for one in bucket["results"]]
            for bucket in costs(priced, **query, group_by=["line_item"])["data"]
        ]

    assert exact() == [[("m, tiered", "8")], [("m, tiered", "2.000006")]]
    flat = {**TIERS, "effectiveFrom": "2026-07-01T00:00:00Z",
            "entries": [{"model": "m", "prices": {"input": "1", "output": "0"}}]}  # fmt: skip
    priced(tariff.write, books.parse(flat), flat, NOW * 10**6)
    scope = Scope("2026-07", "2026-07")
    assert priced(adjust.rerate, scope, Why("corrected", "me"), NOW * 10**6) == 2
    total = sum(Decimal(amount) for day in exact() for _, amount in day)
    rows = priced(questions.usage, tenant="team-b", first="2026-07-01", last="2026-07-31", by=[])
    assert total == Decimal(rows[0]["amount_exact"]) == Decimal("0.000016")


def test_parked_usage_is_on_no_page_until_it_has_a_price(priced: Ledger) -> None:
    put(priced, event(JULY, deployment="d/x", model="x"))
    query: dict[str, Any] = {"start_time": JULY, "end_time": JULY + DAY}
    assert usage(priced, **query)["data"][0]["results"] == []
    assert costs(priced, **query)["data"][0]["results"] == []


def test_a_bucket_of_too_many_groups_is_refused_and_pages_are_cut(
    priced: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenant_page, "MOST_RESULTS", 3)
    monkeypatch.setattr(tenant_usage, "MOST_RESULTS", 3)
    put(priced, *[event(JULY + DAY * day, key_id=f"k{n}") for day in range(3) for n in range(2)])
    query: dict[str, Any] = {"start_time": JULY, "group_by": ["api_key_id"]}
    pages, token = [], None
    while not pages or token:
        pages.append(usage(priced, **query, **({"page": token} if token else {})))
        token = pages[-1]["next_page"]
    assert [len(one["data"]) for one in pages] == [1, 1, 2]
    put(priced, *[event(JULY, key_id=f"k{n}") for n in range(2, 5)])
    with pytest.raises(QueryError, match="group_by: makes more than 3 results in a bucket"):
        usage(priced, **query)


def receipt(ledger: Ledger, given: str, tenant: str = "team-b") -> dict[str, Any] | None:
    return ledger.read(lambda connection: tenant_receipt.find(connection, tenant, given))


def test_a_receipt_says_what_a_request_cost_and_why_it_ended(priced: Ledger) -> None:
    one = event(
        JULY, cached_tokens=2, cached_known=True, client_request_id="mine",
        started_at=int((JULY + 0.25) * 1e6),
    )  # fmt: skip
    put(priced, one)
    found = receipt(priced, one.request_id)
    assert found is not None
    (attempt,) = found.pop("attempts")
    assert found == {
        "id": one.request_id, "object": "generation", "created_at": JULY,
        "model": "m", "adapter": None, "endpoint": CHAT, "service_tier": None,
        "project_id": "web", "api_key_id": "key_1", "client_request_id": "mine",
        "outcome": "completed", "outcome_reason": "The whole answer went out.",
        "billed": True, "price_pending": False,
        "usage": {
            "input_tokens": 5, "input_cached_tokens": 2, "output_tokens": 16,
            "output_reasoning_tokens": 0, "total_tokens": 21,
        },
        "amounts": [{"value": 6.74e-06, "value_exact": "0.00000674", "currency": "usd"}],
        "latency": {
            "received_at": float(JULY), "held_seconds": 0.25, "started_at": JULY + 0.25,
            "finished_at": JULY + 1.5, "seconds": 1.25,
        },
    }  # fmt: skip
    assert attempt["price"] == {
        "version": 1, "currency": "usd", "tiered": False,
        "lines": [
            {"kind": kind, "quantity": quantity, "unit": "tokens", "unit_price": price,
             "unit_price_per": "million tokens", "amount_exact": amount}
            for kind, quantity, price, amount in [
                ("input", 3, "0.1", "0.0000003"),
                ("cached_input", 2, "0.02", "0.00000004"),
                ("output", 16, "0.4", "0.0000064"),
            ]
        ],
    }  # fmt: skip
    assert attempt["amount"] == found["amounts"][0]
    assert (attempt["id"], attempt["counted_by"]) == (one.attempt_id, "engine")
    text = msgspec.json.encode(receipt(priced, one.request_id)).decode()
    assert not [word for word in ("pod-7", "d/m", "digest", "team-a") if word in text]


def test_a_retry_over_a_months_end_is_one_receipt(priced: Ledger) -> None:
    first = event(
        JULY - 1, completion_tokens=0, prompt_tokens=0, billed=False, reason="retry",
        outcome="failed", source="none",
    )  # fmt: skip
    second = event(JULY + 0.5, request_id=first.request_id, outcome="aborted", source="partial")
    put(priced, first, second)
    for name in (first.request_id, f"chatcmpl-{second.attempt_id}", f"cmpl-{first.attempt_id}"):
        found = receipt(priced, name)
        assert found is not None
        assert [a["outcome"] for a in found["attempts"]] == ["failed", "aborted"]
        assert found["attempts"][0]["unbilled_reason"] == "Another engine was asked instead."
        assert found["attempts"][0]["price"] is found["attempts"][0]["amount"] is None
        assert (found["outcome"], found["billed"]) == ("aborted", True)
        assert found["latency"]["seconds"] == 3.0
        assert found["usage"]["total_tokens"] == 21


def test_there_is_no_receipt_of_what_is_foreign_unknown_or_under_way(priced: Ledger) -> None:
    one = event(JULY)
    running = event(JULY + 1, kind="attempt", billed=False, outcome="open", finished_at=0)
    again = event(JULY + 2, billed=False, reason="retry", outcome="failed")
    more = event(JULY + 3, kind="attempt", request_id=again.request_id, billed=False)
    put(priced, one, running, again, more)
    assert receipt(priced, one.request_id) is not None
    assert receipt(priced, one.request_id, "team-c") is None
    assert receipt(priced, f"chatcmpl-{one.attempt_id}", "team-c") is None
    assert receipt(priced, running.request_id) is None
    assert receipt(priced, again.request_id) is None
    unknown = [f"req-{uuid7()}", "req-", "", one.attempt_id, one.request_id.upper(), "x" * 5000]
    late = one.request_id.replace(one.request_id[4:17], "ffffffff-ffff")
    for given in [*unknown, late, one.request_id + "%00", f"embd-{uuid7()}"]:
        assert receipt(priced, given) is None
    put(priced, event(JULY + 1, attempt_id=running.attempt_id, request_id=running.request_id,
                      kind="orphan", billed=False, outcome="open", finished_at=0))  # fmt: skip
    found = receipt(priced, running.request_id)
    assert found is not None
    assert (found["billed"], found["latency"]["seconds"], found["amounts"]) == (False, None, [])


def test_a_receipt_follows_corrections_and_tells_a_missing_price(priced: Ledger) -> None:
    one, other = event(JULY), event(JULY, deployment="d/x", model="x")
    put(priced, one, other)
    pending = receipt(priced, other.request_id)
    assert pending is not None
    assert (pending["price_pending"], pending["amounts"]) == (True, [])
    priced(tariff.write, books.parse(TIERS), TIERS, NOW * 10**6)
    scope = Scope("2026-07", "2026-07")
    assert priced(adjust.rerate, scope, Why("corrected", "me"), NOW * 10**6) == 1
    found = receipt(priced, one.request_id)
    assert found is not None
    assert found["amounts"][0]["value_exact"] == "5"
    price = found["attempts"][0]["price"]
    assert price["tiered"] is True
    assert {line["unit_price"] for line in price["lines"]} == {None}


def test_pages_read_rollups_alone(priced: Ledger) -> None:
    put(priced, *traffic(4, 20))
    seen: list[str] = []

    def watch(connection: Any) -> dict[str, Any]:
        sqlalchemy_event.listen(
            connection, "before_cursor_execute", lambda *given: seen.append(given[2])
        )
        asked = tenant_query.read(
            KINDS[tenant_query.COSTS_PATH],
            "team-b",
            f"start_time={JULY - DAY}&group_by=line_item",
            NOW,
        )
        return tenant_usage.answer(connection, "team-b", asked)

    assert priced.read(watch)["data"]
    text = " ".join(seen).lower()
    assert "rollup_day" in text
    assert not [table for table in ("event", "adjustment", "parked") if f"from {table}" in text]


def test_queries_go_by_their_indexes(tmp_path: Path) -> None:
    """On SQLite, which plans without statistics; PostgreSQL reads a table of few rows whole."""
    plans: list[str] = []

    def explain(connection: Any) -> None:
        def plan(_: Any, __: Any, statement: str, given: Any, *___: Any) -> None:
            if statement.startswith("SELECT"):
                raw = connection.connection.driver_connection
                plans.extend(
                    row[3] for row in raw.execute("EXPLAIN QUERY PLAN " + statement, given)
                )

        sqlalchemy_event.listen(connection, "before_cursor_execute", plan)
        for path in KINDS:
            asked = tenant_query.read(KINDS[path], "team-b", f"start_time={JULY - DAY + 60}", NOW)
            tenant_usage.answer(connection, "team-b", asked)
        tenant_receipt.find(connection, "team-b", f"chatcmpl-{uuid7()}")
        tenant_receipt.find(connection, "team-b", f"req-{uuid7()}")

    with Ledgers("sqlite", tmp_path, None).made() as ledger:
        ledger.read(explain)
    assert any("rollup_minute USING PRIMARY KEY (series=? AND bucket" in line for line in plans)
    assert any("event USING INDEX ix_event_request (request_id=?)" in p for p in plans)
    assert not [p for p in plans if "ix_event_tenant (tenant=?)" in p]
    assert any("(attempt_month=? AND event_id=?)" in p for p in plans)
    assert not [p for p in plans if p.startswith(("SCAN event", "SCAN series", "SCAN rollup"))]
