"""The order of pricing: which price, tier, discount, allowance, tiers; and what an event costs."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_billing import money, usage
from tidegate_billing.links import Pricing
from tidegate_billing.rates import book, contract, meters, pipeline
from tidegate_billing.rates.allowance import Allowed
from tidegate_billing.rates.exact import InexactError
from tidegate_billing.rates.flat import Flat
from tidegate_billing.rates.meters import NOTHING, Quantities, Shares, Used
from tidegate_billing.rates.pipeline import Rate
from tidegate_billing.rates.terms import Book, Contract

TIME = "2026-01-01T00:00:00Z"


def a_book(*entries: dict[str, Any], name: str = "list", currency: str = "USD") -> Book:
    return book.parse(
        {"name": name, "currency": currency, "effectiveFrom": TIME, "entries": list(entries)}
    )


def a_contract(**terms: Any) -> Contract:
    return contract.parse({"tenant": "acme", "currency": "USD", "effectiveFrom": TIME, **terms})


def entry(model: str = "m", price: str = "1", **more: Any) -> dict[str, Any]:
    return {"model": model, "prices": {"input": price, "output": price}, **more}


def rate(
    *books: Book, of: Contract | None = None, model: str = "m", adapter: str = "", tier: str = ""
) -> Rate:
    found = pipeline.rate(model, adapter, tier, books=books, contract=of)
    assert found is not None
    return found


def unit(found: Rate) -> int:
    """Whole units of 1e-12, the price per million."""
    price = found.prices[0]
    assert isinstance(price, Flat)
    return price.unit


# --- 1. which price

OWN = book.from_pricing("m", Pricing(input_per_million="5", output_per_million="5"))
LIST = a_book(entry(price="3"), entry(price="4", adapter="a"), entry("n", "6"))


@pytest.mark.parametrize(
    ("overrides", "model", "adapter", "books", "expected", "reason"),
    [
        ([], "m", "", (OWN,), 5, "pricing: m"),
        ([], "m", "a", (OWN,), 5, "pricing: m"),
        ([], "m", "", (LIST, OWN), 3, "list: m"),
        ([], "m", "b", (LIST, OWN), 3, "list: m"),
        ([], "m", "a", (LIST, OWN), 4, "list: m, adapter a"),
        ([entry(price="2")], "m", "", (LIST, OWN), 2, "contract of acme: m"),
        ([entry(price="2")], "m", "a", (LIST, OWN), 2, "contract of acme: m"),
        ([entry(price="2")], "n", "", (LIST, OWN), 6, "list: n"),
        ([entry(price="2"), entry(price="1", adapter="a")], "m", "a", (LIST, OWN), 1,
         "contract of acme: m, adapter a"),
        ([entry(price="1", adapter="a")], "m", "", (LIST, OWN), 3, "list: m"),
        # an override without prices keeps the book's
        ([{"model": "m", "discount": "0"}], "m", "a", (LIST, OWN), 4, "list: m, adapter a"),
        # and one for the adapter hides the model's: they are not mixed
        ([entry(price="2"), {"model": "m", "adapter": "a", "discount": "0"}], "m", "a",
         (LIST, OWN), 4, "list: m, adapter a"),
        ([entry("x", "9")], "x", "", (), 9, "contract of acme: x"),
    ],
)  # fmt: skip
def test_which_price(
    overrides: list[Any],
    model: str,
    adapter: str,
    books: tuple[Book, ...],
    expected: int,
    reason: str,
) -> None:
    found = rate(*books, of=a_contract(overrides=overrides), model=model, adapter=adapter)
    assert unit(found) == expected * 10**12
    assert found.reason == reason


def test_without_a_price_there_is_no_rate() -> None:
    assert pipeline.rate("z", "", "", books=[LIST, OWN]) is None
    only_adapter = a_book(entry(adapter="a"))
    assert pipeline.rate("m", "", "", books=[only_adapter]) is None
    assert pipeline.rate("m", "b", "", books=[only_adapter], contract=a_contract()) is None
    patch = a_contract(overrides=[{"model": "z", "discount": "5"}])
    assert pipeline.rate("z", "", "", books=[LIST], contract=patch) is None


def test_a_rate_is_in_its_sources_currency() -> None:
    euros = a_book(entry(), currency="EUR")
    assert rate(euros, of=a_contract(discount="5")).currency == "EUR"
    assert rate(euros, of=a_contract(overrides=[entry(price="2")])).currency == "USD"


def test_a_rate_counts_by_the_entry_that_was_picked() -> None:
    found = rate(LIST, adapter="b")
    assert (found.model, found.adapter) == ("m", "")
    found = rate(LIST, adapter="a")
    assert (found.model, found.adapter) == ("m", "a")


# --- 2. to 4. service tier, discount, allowance

TIERED = entry(
    price="1",
    allowance={"input": 100},
    serviceTiers={"priority": {"multiplier": "1.5"}, "flex": {"prices": {"input": "0.5"}}},
)


@pytest.mark.parametrize(
    ("tier", "served", "input_", "output"),
    [
        ("", "default", 8, 8),
        ("default", "default", 8, 8),
        ("unheard-of", "default", 8, 8),
        ("priority", "priority", 12, 12),
        ("flex", "flex", 4, 8),
    ],
)
def test_a_discount_comes_off_a_service_tiers_prices(
    tier: str, served: str, input_: int, output: int
) -> None:
    found = rate(a_book(TIERED), of=a_contract(discount="20"), tier=tier)
    price = found.prices[0]
    if served == "default":
        assert price == Allowed(100, Flat(input_ * 10**11))
    else:  # the free units are the default tier's
        assert price == Flat(input_ * 10**11)
    assert found.prices[2] == Flat(output * 10**11)
    assert found.service == served


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], 90),
        ([entry(price="2")], 180),  # the contract's discount comes off an override's price too
        ([entry(price="2", discount="0")], 200),
        ([{"model": "m", "discount": "25"}], 75),
        ([{"model": "m", "allowance": {"output": 1}}], 90),
    ],
)
def test_which_discount(overrides: list[Any], expected: int) -> None:
    found = rate(a_book(entry()), of=a_contract(discount="10", overrides=overrides))
    assert unit(found) == expected * 10**10


@pytest.mark.parametrize(
    ("overrides", "free"),
    [
        ([], 100),
        ([{"model": "m", "allowance": {"input": 7}}], 7),
        ([{"model": "m", "allowance": {"output": 7}}], 0),
        ([{"model": "m", "discount": "50"}], 100),
        ([entry(price="2")], 0),
        ([entry(price="2", allowance={"input": 8})], 8),
    ],
)
def test_which_allowance(overrides: list[Any], free: int) -> None:
    price = rate(a_book(TIERED), of=a_contract(overrides=overrides)).prices[0]
    assert (price.free if isinstance(price, Allowed) else 0) == free


# --- 5. what an event costs

TEXT = {"input": "0.10", "cachedInput": "0.02", "output": "0.40"}


def test_the_hot_path_is_a_sum_of_products() -> None:
    found = rate(a_book({"model": "m", "prices": TEXT}))
    assert found.linear == (10**11, 2 * 10**10, 4 * 10**11, 0, 0, 0, 0, 0)
    used = pipeline.quantities(found, Used(7, 3, 16, 9, requests=1))
    assert used == Quantities(4, 3, 16, 0, request=1)
    # 4 x 0.0000001 + 3 x 0.00000002 + 16 x 0.0000004
    assert pipeline.charge(found, used) == 6_860_000_000_000
    assert pipeline.charge(found, used, Quantities(*[10**9] * 8)) == 6_860_000_000_000
    assert pipeline.charge(found, NOTHING) == 0


def test_every_meter_is_charged() -> None:
    named = {"reasoning": "0.5", "audioSecond": "0.006", "image": "0.04", "request": "0.001"}
    replica = {"replicaSecond": "0.002"}
    policies = {"coldStart": {"split": 50}, "idleTail": "absorb"}
    priced = {"model": "m", "prices": TEXT | named | replica, "replica": policies}
    found = rate(a_book(priced))
    assert found.apart == meters.Apart(True, True, Shares(50, 0))
    used = Used(1_000_000, 500_000, 1_000_000, 200_000, 1_500, 2, 1, 3_000, 10_000, 60_000)
    cost = pipeline.charge(found, pipeline.quantities(found, used))
    # 0.05 + 0.01 + 0.32 + 0.10 + 0.009 + 0.08 + 0.001 + (1.5 s + 10 s) x 0.002 = 0.593
    assert cost == 593 * 10**15


@pytest.mark.parametrize(
    ("named", "waits"),
    [
        ({"input": "1"}, [("output", 1), ("audio_second", 1), ("image", 1)]),
        ({"audioSecond": "1"}, [("input", 1), ("output", 1), ("image", 1)]),
        ({"input": "1", "output": "1", "audioSecond": "0", "image": "0"}, []),
    ],
)
@pytest.mark.parametrize("free", [False, True])
def test_what_is_made_without_a_price_waits_for_one(
    named: dict[str, str], waits: list[tuple[str, int]], free: bool
) -> None:
    first = next(iter(named))
    allowance = {"allowance": {first: 1}} if free else {}
    found = rate(a_book({"model": "m", "prices": named, **allowance}))
    assert (found.linear is None) == free
    for made in ("input", "output", "audio_second", "image"):
        cost = pipeline.charge(found, NOTHING._replace(**{made: 1}))
        assert (cost is None) == ((made, 1) in waits), made
    # requests and replica seconds are on top
    assert pipeline.charge(found, Quantities(request=1, replica_second=9)) == 0


GRADUATED = {
    "kind": "graduated",
    "tiers": [{"upTo": 10, "unitPrice": "1000000"}, {"unitPrice": "500000", "flatFee": "3"}],
}


@pytest.mark.parametrize(
    ("before", "quantity", "expected"),
    [
        # 2 free, then 10 at 1.00, then 0.50 and a fee of 3.00
        (0, 0, "0"),
        (0, 2, "0"),
        (0, 3, "1"),
        (1, 1, "0"),
        (2, 1, "1"),
        (11, 1, "1"),
        (12, 1, "3.5"),
        (13, 1, "0.5"),
        (0, 14, "14"),  # 10 + 3 + 2 x 0.5
        (5, 9, "11"),  # 7 + 3 + 2 x 0.5
        (10**9, 2, "1"),
    ],
)
def test_a_tiered_event_costs_what_it_adds(before: int, quantity: int, expected: str) -> None:
    table = {
        "kind": "graduated",
        "tiers": [{"upTo": 10, "unitPrice": "1"}, {"unitPrice": "0.5", "flatFee": "3"}],
    }
    found = rate(a_book({"model": "m", "prices": {"image": table}, "allowance": {"image": 2}}))
    assert found.linear is None
    cost = pipeline.charge(found, Quantities(image=quantity), Quantities(image=before))
    assert cost == money.parse(expected)


def test_one_tiered_meter_leaves_the_others_alone() -> None:
    found = rate(a_book({"model": "m", "prices": {"input": GRADUATED, "output": "2"}}))
    earlier = Quantities(input=10, output=999)
    # 0.50 and the fee of 3.00; output is linear: 5 x 0.000002
    cost = pipeline.charge(found, Quantities(input=1, output=5), earlier)
    assert cost == 35 * 10**17 + 10**13
    assert pipeline.charge(found, Quantities(output=5), earlier) == 10**13


def test_a_crossing_into_a_cheaper_volume_gives_back() -> None:
    volume = {"kind": "volume", "tiers": [{"upTo": 10, "unitPrice": "1"}, {"unitPrice": "0.5"}]}
    found = rate(a_book({"model": "m", "prices": {"image": volume}}))
    # 11 x 0.50 - 10 x 1.00
    assert pipeline.charge(found, Quantities(image=1), Quantities(image=10)) == -45 * 10**17


# --- months


def test_an_allowance_begins_anew_with_the_month_of_the_attempt() -> None:
    found = rate(a_book({"model": "m", "prices": {"image": "1"}, "allowance": {"image": 3}}))
    january = 1_769_903_999_999  # 2026-01-31T23:59:59.999Z
    seen: dict[str, Quantities] = {}
    charged: list[tuple[str, int | None]] = []
    for ms in (january - 1, january, january + 1, january, january + 2, january + 1):
        month = usage.attempt_month(usage.uuid7(ms * 1_000_000))
        before = seen.get(month, NOTHING)
        used = Quantities(image=2)
        charged.append((month, pipeline.charge(found, used, before)))
        seen[month] = meters.summed(before, used)
    assert charged == [
        ("2026-01", 0),
        ("2026-01", 10**18),
        ("2026-02", 0),
        ("2026-01", 2 * 10**18),
        ("2026-02", 10**18),
        ("2026-02", 2 * 10**18),
    ]


# --- what cannot be exact


def test_a_rate_that_cannot_be_exact_names_its_meter() -> None:
    fine = a_book({"model": "m", "prices": {"input": "1", "output": "0.000000000001"}})
    with pytest.raises(InexactError, match=r"output: 0.000000000000000001 x 17/20 .*allowed"):
        rate(fine, of=a_contract(discount="15"))


FINE = {"model": "m", "prices": {"input": "0.000000000002"}}


@pytest.mark.parametrize(
    ("entries", "terms", "paths"),
    [
        ([FINE], None, []),
        ([FINE], {}, []),
        ([FINE], {"discount": "50"}, []),
        ([FINE], {"discount": "75"}, ["list.entries[0]"]),
        ([entry(), FINE | {"adapter": "a"}], {"discount": "75"}, ["list.entries[1]"]),
        # a tier of a half takes the last decimal, so that the discount finds none
        (
            [FINE | {"serviceTiers": {"flex": {"multiplier": "0.5"}}}],
            {"discount": "50"},
            ["list.entries[0].serviceTiers.flex"],
        ),
        ([FINE], {"discount": "75", "overrides": [{"model": "m", "discount": "50"}]}, []),
        (
            [FINE],
            {"overrides": [{"model": "m", "discount": "75"}]},
            ["list.entries[0]", "overrides[0]"],
        ),
        # only the adapter has it
        (
            [FINE],
            {"overrides": [{"model": "m", "adapter": "a", "discount": "75"}]},
            ["overrides[0]"],
        ),
        (
            [FINE],
            {
                "discount": "50",
                "overrides": [{"model": "n", "prices": {"input": "0.000000000001"}}],
            },
            ["overrides[0]"],
        ),
        (
            [],
            {"overrides": [FINE | {"serviceTiers": {"flex": {"multiplier": "0.25"}}}]},
            ["overrides[0].serviceTiers.flex"],
        ),
        ([FINE], {"overrides": [{"model": "z", "discount": "1"}]}, ["overrides[0]"]),
        (
            [FINE],
            {"overrides": [{"model": "m", "allowance": {"input": 1, "image": 1}}]},
            ["overrides[0].allowance.image"],
        ),
    ],
)
def test_what_could_not_be_charged_is_told_when_it_is_written(
    entries: list[Any], terms: dict[str, Any] | None, paths: list[str]
) -> None:
    books = [a_book(*entries)] if entries else []
    found = pipeline.check(books, None if terms is None else a_contract(**terms))
    assert [problem.path for problem in found] == paths
    assert all("allowed: " in problem.said for problem in found)


# --- fingerprints


def test_rates_that_charge_the_same_have_one_fingerprint() -> None:
    one = rate(a_book(entry(price="2")))
    same = rate(a_book(entry(price="2.0"), entry("n", "7"), name="next"))
    assert one != same
    assert pipeline.fingerprint(one) == pipeline.fingerprint(same)
    others = [
        rate(a_book(entry(price="3"))),
        rate(a_book(entry(price="2"), currency="EUR")),
        rate(a_book(entry("n", "2")), model="n"),
        rate(a_book(entry(price="2", adapter="a")), adapter="a"),
        rate(a_book(entry(price="2", allowance={"input": 1}))),
        rate(a_book(entry(price="2", serviceTiers={"x": {"multiplier": "1"}})), tier="x"),
    ]
    for idle in ("charge", "absorb"):
        replica = {"coldStart": "charge", "idleTail": idle}
        named = {"prices": {"replicaSecond": "2"}, "replica": replica}
        others.append(rate(a_book({"model": "m", **named})))
    prints = {pipeline.fingerprint(found) for found in (one, *others)}
    assert len(prints) == len(others) + 1
    assert all(len(found) == 64 for found in prints)


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    """It is stored: a change of it would start every tenant's tiers anew."""
    found = rate(a_book({"model": "m", "prices": {"image": GRADUATED, "input": "1"}}))
    assert (
        pipeline.fingerprint(found)
        == "b83517079ebd4d4fa5235c0730df4be4b57add52bb141be961e8dcefc0083337"
    )


# --- properties

PER_MILLION = st.integers(0, 10**15).map(lambda n: f"{n // 10**9}.{n % 10**9:09d}")


@given(PER_MILLION, PER_MILLION, st.integers(0, 100), st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_discount_is_the_same_on_the_price_and_on_the_sum(
    input_: str, output: str, percent: int, prompt: int, completion: int
) -> None:
    listed = a_book({"model": "m", "prices": {"input": input_, "output": output}})
    used = Quantities(input=prompt, output=completion)
    full = pipeline.charge(rate(listed), used)
    less = pipeline.charge(rate(listed, of=a_contract(discount=str(percent))), used)
    assert full is not None
    assert less is not None
    assert less * 100 == full * (100 - percent)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=12))
def test_events_cost_what_their_total_costs(events: list[tuple[int, int]]) -> None:
    priced = {"model": "m", "prices": {"input": GRADUATED, "output": "2"}}
    found = rate(a_book(priced | {"allowance": {"input": 7, "output": 50}}))
    seen, charged = NOTHING, 0
    for prompt, completion in events:
        used = Quantities(input=prompt, output=completion)
        cost = pipeline.charge(found, used, seen)
        assert cost is not None
        charged += cost
        seen = meters.summed(seen, used)
    assert charged == pipeline.charge(found, seen)


# --- the whole pipeline, by fractions and single units


def by_hand(
    rows: list[tuple[int | None, str, str]], factor: str, percent: str, free: int, used: int
) -> Fraction:
    """What `used` images cost: no code of ours, and no integer of atto."""
    left = Fraction(factor) * (1 - Fraction(percent) / 100)
    total, entered = Fraction(0), set()
    for paid in range(1, used - free + 1):
        number = next(n for n, row in enumerate(rows) if row[0] is None or paid <= row[0])
        _, price, fee = rows[number]
        if number not in entered:
            entered.add(number)
            total += Fraction(fee) * left
        total += Fraction(price) * left
    return total


CENTS = st.integers(0, 10**4).map(lambda n: f"{n // 100}.{n % 100:02d}")


@st.composite
def rows(draw: st.DrawFn) -> list[tuple[int | None, str, str]]:
    ends = sorted(draw(st.sets(st.integers(1, 20), max_size=3)))
    return [(end, draw(CENTS), draw(CENTS)) for end in [*ends, None]]


@given(
    rows(),
    st.sampled_from(["0.5", "1", "1.25", "2"]),
    st.sampled_from(["0", "10", "12.5", "99.99", "100"]),
    st.integers(1, 9),
    st.integers(0, 40),
    st.booleans(),
)
def test_the_pipeline_is_what_it_says(
    table: list[tuple[int | None, str, str]],
    factor: str,
    percent: str,
    free: int,
    used: int,
    served: bool,
) -> None:
    tiers = [
        {"unitPrice": price, "flatFee": fee} | ({} if end is None else {"upTo": end})
        for end, price, fee in table
    ]
    priced = {
        "model": "m",
        "prices": {"image": {"kind": "graduated", "tiers": tiers}},
        "allowance": {"image": free},
        "serviceTiers": {"fast": {"multiplier": factor}},
    }
    found = rate(
        a_book(priced), of=a_contract(discount=percent), tier="fast" if served else "default"
    )
    cost = pipeline.charge(found, Quantities(image=used))
    assert cost is not None
    expected = by_hand(table, factor if served else "1", percent, 0 if served else free, used)
    assert Fraction(cost, 10**18) == expected
