"""Price documents and the ledger: what events cost under tiers, contracts, corrections."""

import datetime as dt
import random
from typing import Any

import pytest

from ledgers import Ledger
from tidegate_billing import adjust, ingest, money, pricebook, rollup, tariff
from tidegate_billing import ledger as questions
from tidegate_billing.adjust import Scope, Why
from tidegate_billing.ingest import Memory, prepare
from tidegate_billing.links import ModelPricing, Pricing, UsageBatch
from tidegate_billing.rates import book as books
from tidegate_billing.rates import contract as contracts
from tidegate_billing.rates.problem import DocumentError
from tidegate_billing.usage import Usage, uuid7

NOW = 1_800_000_000_000_000
START = dt.datetime(2026, 11, 3, tzinfo=dt.UTC)
OWN = Pricing(input_per_million="1", output_per_million="4")
MODEL = ModelPricing(deployment="d/m", model="m", owner="team-a", pricing=OWN)
MONTH = "2026-11"
PERIOD = {"first": "2026-11-01", "last": "2026-11-30"}


def at(**offset: float) -> int:
    return int((START + dt.timedelta(**offset)).timestamp() * 1000)


def event(ms: int, **values: object) -> Usage:
    base: dict[str, object] = {
        "attempt_id": uuid7(ms * 10**6),
        "kind": "settlement",
        "request_id": "r",
        "tenant": "acme",
        "project": "p",
        "key_id": "k",
        "model": "m",
        "deployment": "d/m",
        "endpoint": "chat",
        "started_at": 1,
        "prompt_tokens": 1000,
        "completion_tokens": 100,
        "outcome": "completed",
        "source": "engine",
        "billed": True,
    }
    return Usage(**{**base, **values})  # type: ignore[arg-type]


def put(ledger: Ledger, *events: Usage, memory: Memory | None = None) -> ingest.Outcome:
    batch = UsageBatch(journal="j", first=1, last=len(events), events=list(events))
    (outcome,) = ledger(ingest.ingest, [prepare(batch)], memory or Memory(), NOW)
    return outcome


def book(prices: dict[str, Any], *, since: str = "2026-01-01T00:00:00Z", **more: Any) -> Any:
    entry = {"model": "m", "prices": prices, **more}
    return {"name": "list", "currency": "USD", "effectiveFrom": since, "entries": [entry]}


def write(ledger: Ledger, document: Any) -> int:
    parse = contracts.parse if "tenant" in document else books.parse
    return ledger(tariff.write, parse(document), document, NOW)


def exact(ledger: Ledger, tenant: str = "acme") -> str:
    rows = ledger(questions.usage, tenant=tenant, by=[], **PERIOD)
    assert len(rows) <= 1
    return str(rows[0]["amount_exact"]) if rows else "0"


def invoice(ledger: Ledger, tenant: str = "acme", currency: str = "USD") -> dict[str, Any]:
    totals = ledger(questions.totals, tenant, MONTH)
    return ledger(questions.invoice, tenant, MONTH, currency, totals)


def lines_exact(bill: dict[str, Any]) -> str:
    return money.plain(
        sum(money.parse(line["amount_exact"], signed=True) for line in bill["lines"])
    )


@pytest.fixture
def priced(ledger: Ledger) -> Ledger:
    ledger(pricebook.apply, [MODEL], now=0)
    return ledger


def test_without_documents_a_deployments_own_price_holds(priced: Ledger) -> None:
    put(priced, event(at()))
    # 1000 x 1 + 100 x 4, per million
    assert exact(priced) == "0.0014"
    bill = invoice(priced)
    assert [(x["kind"], x["price_version"]) for x in bill["lines"]] == [("input", 1), ("output", 1)]


def test_a_book_comes_before_it_and_a_deployments_name_before_a_models(priced: Ledger) -> None:
    memory = Memory()
    put(priced, event(at()), memory=memory)
    write(priced, book({"input": "2", "output": "0"}))
    put(priced, event(at()), memory=memory)
    assert exact(priced) == "0.0034"
    named = book({"input": "3", "output": "0"})
    named["entries"].append({"model": "d/m", "prices": {"input": "5", "output": "0"}})
    write(priced, named)
    put(priced, event(at()), event(at(), deployment="d/other", price_version=0), memory=memory)
    assert exact(priced) == "0.0114"  # + 5 for the deployment, + 3 for the model elsewhere


def test_a_book_that_says_the_same_is_the_same_version(priced: Ledger) -> None:
    put(priced, event(at()))
    write(priced, book({"input": "1", "output": "4"}))
    put(priced, event(at()))
    write(priced, book({"input": "1", "output": "4"}, since="2026-02-01T00:00:00Z"))
    put(priced, event(at()))
    assert {line["price_version"] for line in invoice(priced)["lines"]} == {1}


TIERS = {
    "kind": "graduated",
    "tiers": [
        {"upTo": 2500, "unitPrice": "10"},
        {"upTo": 4000, "unitPrice": "5", "flatFee": "0.01"},
        {"unitPrice": "1"},
    ],
}


def graduated(quantity: int) -> int:
    """The table above, unit by unit, in atto."""
    cost = 10**16 if quantity > 2500 else 0
    for unit in range(1, quantity + 1):
        price = 10 if unit <= 2500 else 5 if unit <= 4000 else 1
        cost += price * 10**12
    return cost


def test_under_tiers_events_add_up_to_the_bill_in_any_order(priced: Ledger) -> None:
    write(priced, book({"input": TIERS, "output": "0"}))
    rng = random.Random(7)
    sizes = [rng.randrange(900) for _ in range(12)]
    events = [event(at(hours=n), prompt_tokens=size) for n, size in enumerate(sizes)]
    rng.shuffle(events)
    seen = 0
    for cut in (3, 1, 8):
        put(priced, *events[:cut])
        seen += sum(one.prompt_tokens for one in events[:cut])
        events = events[cut:]
        assert exact(priced) == money.plain(graduated(seen))
        assert lines_exact(invoice(priced)) == money.plain(graduated(seen))
    # Another tenant, and another month, begin at nothing.
    put(priced, event(at(), tenant="other", prompt_tokens=100), event(at(days=40), prompt_tokens=7))
    assert exact(priced, "other") == money.plain(graduated(100))
    assert exact(priced) == money.plain(graduated(seen))


def test_an_allowance_and_a_discount_of_a_contract(priced: Ledger) -> None:
    write(priced, book({"input": "2", "output": "4"}))
    write(
        priced,
        {
            "tenant": "acme", "currency": "USD", "effectiveFrom": "2026-11-04T00:00:00Z",
            "discount": "25", "overrides": [{"model": "m", "allowance": {"input": 1500}}],
        },
    )  # fmt: skip
    put(priced, event(at()))  # before the contract: 1000 x 2 + 100 x 4
    assert exact(priced) == "0.0024"
    put(priced, event(at(days=2)), event(at(days=3)))
    # 500 of 2000 input tokens are paid at 1.5; 200 output tokens at 3
    assert exact(priced) == money.plain(
        money.parse("0.0024") + 500 * 15 * 10**11 + 200 * 3 * 10**12
    )
    assert lines_exact(invoice(priced)) == exact(priced)
    free = [line for line in invoice(priced)["lines"] if line.get("free")]
    assert [line["quantity"] for line in free] == [1500]


def test_a_commitment_fills_the_invoice_up(priced: Ledger) -> None:
    write(
        priced,
        {
            "tenant": "acme", "currency": "USD", "effectiveFrom": "2026-11-04T00:00:00Z",
            "minimumCommitment": "5.00",
        },
    )  # fmt: skip
    put(priced, event(at(), prompt_tokens=2_000_000, completion_tokens=0))
    bill = invoice(priced)
    assert [(x["kind"], x["amount"]) for x in bill["lines"]] == [
        ("input", "2.00"),
        ("commitment", "3.00"),
    ]
    assert bill["total"] == "5.00"
    put(priced, event(at(), prompt_tokens=4_000_000, completion_tokens=0))
    assert invoice(priced)["total"] == "6.00"


def test_what_only_a_late_book_prices_is_parked_and_then_released(priced: Ledger) -> None:
    bare = event(at(), model="new", deployment="d/new")
    assert put(priced, bare, event(at())).parked == (bare.event_id,)
    document = book({"input": "1", "output": "1"})
    document["entries"][0]["model"] = "new"
    write(priced, document)
    assert priced(adjust.release, NOW) == 1
    assert priced(questions.parked) == 0
    assert exact(priced) == "0.0025"
    assert priced(adjust.release, NOW) == 0


def test_a_discount_that_cannot_be_exact_is_refused_when_written(priced: Ledger) -> None:
    write(priced, book({"input": "0.000000000001", "output": "1"}))
    contract = {
        "tenant": "acme", "currency": "USD", "effectiveFrom": "2026-01-01T00:00:00Z", "discount": "15",
    }  # fmt: skip
    with pytest.raises(DocumentError, match="input"):
        write(priced, contract)
    write(
        priced,
        {**contract, "tenant": "other", "discount": "50", "overrides": []} | {"discount": "0"},
    )
    write(priced, book({"input": "1", "output": "1"}))
    write(priced, contract)
    with pytest.raises(DocumentError, match="input"):
        write(priced, book({"input": "0.000000000001", "output": "1"}))


def test_re_rating_writes_adjustments_and_leaves_events_as_they_were(priced: Ledger) -> None:
    put(priced, *(event(at(hours=n)) for n in range(6)), event(at(days=-10)))
    before = questions.EventFilter()
    first = priced(questions.events, before, limit=100, after=None)
    write(priced, book({"input": TIERS, "output": "0"}, since="2026-11-01T00:00:00Z"))
    assert exact(priced) == "0.0084"  # a document changes nothing that was rated
    scope = Scope(MONTH, MONTH, tenant="acme")
    assert priced(adjust.rerate, scope, Why("rerated", "admin", "late book"), NOW) == 6
    assert exact(priced) == money.plain(graduated(6000))
    assert lines_exact(invoice(priced)) == exact(priced)
    assert priced(adjust.rerate, scope, Why("rerated", "admin"), NOW) == 0
    # And on to a flat one: what is taken off is what the month loses, event by event.
    write(priced, book({"input": "1", "output": "0"}, since="2026-11-01T00:00:00Z"))
    assert priced(adjust.rerate, scope, Why("rerated", "admin"), NOW) == 6
    assert exact(priced) == "0.006"
    put(priced, event(at(days=1)))
    assert exact(priced) == "0.007"
    held = dump(priced)
    priced(rollup.rebuild)
    assert dump(priced) == held
    kept = priced(questions.events, before, limit=100, after=None)
    assert [row["event_id"] for row in kept[:7]] == [row["event_id"] for row in first]
    rows = priced.read(lambda c: c.exec_driver_sql("SELECT rated_version FROM event").all())
    assert sorted(row[0] for row in rows)[:7] == [1] * 7


def dump(ledger: Ledger) -> list[Any]:
    return ledger(questions.usage, tenant="acme", by=["model", "key", "day"], **PERIOD)


def test_part_of_a_tiered_month_re_rated_leaves_the_rest_at_its_total(priced: Ledger) -> None:
    document = book({"input": TIERS, "output": "0"})
    write(priced, document)
    put(priced, *(event(at(hours=n), deployment=f"d/{n % 2}") for n in range(6)))
    assert exact(priced) == money.plain(graduated(6000))
    document["entries"].append({"model": "d/1", "prices": {"input": "7", "output": "0"}})
    write(priced, document)
    assert priced(adjust.rerate, Scope(MONTH, MONTH, deployment="d/1"), Why("x", "admin"), NOW) == 3
    assert exact(priced) == money.plain(graduated(3000) + 3000 * 7 * 10**12)
    assert lines_exact(invoice(priced)) == exact(priced)


def test_a_withdrawn_book_prices_nothing_from_then_on(priced: Ledger) -> None:
    write(priced, book({"input": "2", "output": "0"}))
    until = at(days=1) * 1000
    priced(tariff.withdraw, tariff.BOOK, "list", "", until)
    put(priced, event(at()), event(at(days=1)))
    assert exact(priced) == "0.0034"  # 2000 by the book, 1400 by the deployment's own price


def test_cached_and_reasoning_tokens_bill_apart_where_they_are_priced(priced: Ledger) -> None:
    prices = {"input": "10", "cachedInput": "1", "output": "100", "reasoning": "50"}
    write(priced, book(prices))
    told = {"cached_tokens": 400, "cached_known": True, "reasoning_tokens": 30}
    put(priced, event(at(), **told))
    assert exact(priced) == money.plain((600 * 10 + 400 + 70 * 100 + 30 * 50) * 10**12)
    quantities = {line["kind"]: line["quantity"] for line in invoice(priced)["lines"]}
    assert quantities == {"input": 600, "cached_input": 400, "output": 70, "reasoning": 30}


@pytest.mark.parametrize(
    ("moment", "cost"),
    [("2026-11-09T23:59:59.999Z", "0.0014"), ("2026-11-10T00:00:00Z", "0.002")],
)
def test_a_price_holds_from_its_first_microsecond(priced: Ledger, moment: str, cost: str) -> None:
    write(priced, book({"input": "2", "output": "0"}, since="2026-11-10T00:00:00Z"))
    ms = int(dt.datetime.fromisoformat(moment).timestamp() * 1000)
    put(priced, event(ms))
    assert exact(priced) == cost


def test_a_number_of_a_documents_rate_is_no_price_that_a_router_may_name(priced: Ledger) -> None:
    """Rates are numbered from the same sequence: an event that names one is parked, not poison."""
    early = event(at(), price_version=2, model="other", deployment="d/other")
    assert put(priced, early).parked
    write(priced, book({"input": "2", "output": "0"}))
    put(priced, event(at()))  # makes rate 2
    late = event(at(), price_version=2, model="other", deployment="d/other")
    empty = event(at(), deployment="", model="other")
    assert put(priced, late, empty).parked == (late.event_id, empty.event_id)
    assert priced(adjust.release, NOW) == 0
    scope = Scope(MONTH, MONTH, tenant="acme")
    assert priced(adjust.rerate, scope, Why("x", "admin"), NOW) == 0
    nameless = ModelPricing(deployment="", model="m", owner="team-a")
    priced(pricebook.apply, [MODEL, nameless], now=NOW)
    assert exact(priced) == "0.002"


def test_only_settlements_are_billed(priced: Ledger) -> None:
    for kind in ("attempt", "orphan"):
        assert put(priced, event(at(), kind=kind)).malformed
    assert exact(priced) == "0"


def test_under_tiers_what_events_show_adds_up_to_the_bill(priced: Ledger) -> None:
    price = {"kind": "graduated", "tiers": [{"upTo": 1000, "unitPrice": "10"}, {"unitPrice": "5"}]}
    document = book({"input": price, "output": "0"})
    write(priced, document)
    put(
        priced,
        event(at(), key_id="k1", deployment="d/1"),
        event(at(), key_id="k2", deployment="d/2"),
    )
    document["entries"].append({"model": "d/1", "prices": {"input": "3", "output": "0"}})
    write(priced, document)
    assert priced(adjust.rerate, Scope(MONTH, MONTH, deployment="d/1"), Why("x", "admin"), NOW) == 1
    rows = priced(questions.events, questions.EventFilter(), limit=9, after=None)
    shown = sum(money.parse(row["amount_exact"]) for row in rows)
    by_key = priced(questions.usage, tenant="acme", by=["key"], **PERIOD)
    assert money.plain(shown) == exact(priced) == "0.013"
    assert [row["amount_exact"] for row in by_key] == ["0.008", "0.005"]


def test_money_that_is_left_without_a_request_is_not_hidden(priced: Ledger) -> None:
    price = {"kind": "graduated", "tiers": [{"upTo": 1000, "unitPrice": "10"}, {"unitPrice": "5"}]}
    write(priced, book({"input": price, "output": "0"}))
    put(
        priced,
        event(at(), key_id="k1", deployment="d/1"),
        event(at(), key_id="k2", deployment="d/2"),
    )
    own = book({"input": "3", "output": "0"}) | {"name": "a-euro", "currency": "EUR"}
    own["entries"][0]["model"] = "d/1"
    write(priced, own)
    assert priced(adjust.rerate, Scope(MONTH, MONTH, deployment="d/1"), Why("x", "admin"), NOW) == 1
    for by in ([], ["key"], ["model", "key", "day"]):
        rows = priced(questions.usage, tenant="acme", by=by, **PERIOD)
        dollars = sum(money.parse(x["amount_exact"]) for x in rows if x["currency"] == "USD")
        assert money.plain(dollars) == "0.01", by
    assert invoice(priced)["total"] == "0.01"


def test_an_invoice_reads_no_document_that_it_has_read_before(priced: Ledger) -> None:
    for number in range(5):
        document = book({"input": str(number), "output": "0"})
        document["entries"][0]["model"] = f"other-{number}"
        write(priced, document | {"name": f"other-{number}"})
    write(priced, book({"input": "2", "output": "0"}))
    terms = {"tenant": "acme", "currency": "USD", "effectiveFrom": "2026-11-01T00:00:00Z"}
    write(priced, terms | {"discount": "50"})
    put(priced, event(at()))
    bill = invoice(priced)
    before = tariff._book.cache_info().misses, tariff._contract.cache_info().misses
    assert invoice(priced) == bill
    assert (tariff._book.cache_info().misses, tariff._contract.cache_info().misses) == before
    assert exact(priced) == "0.001"
    # A withdrawn contract is none, and a later one is another.
    end = at(days=60) * 1000
    priced(tariff.withdraw, tariff.CONTRACT, "", "acme", at(days=2) * 1000)
    assert priced(tariff.contract, "acme", end) is None
    write(priced, terms | {"discount": "10", "effectiveFrom": "2026-11-20T00:00:00Z"})
    found = priced(tariff.contract, "acme", end)
    assert found is not None
    assert priced(tariff.contract, "nobody", end) is None
