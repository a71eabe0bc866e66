"""Invoice lines: their exact sum is what events cost, and each is rounded once."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_billing import money
from tidegate_billing.rates import book, commitment, lines, meters, pipeline
from tidegate_billing.rates.lines import Total
from tidegate_billing.rates.meters import METERS, NOTHING, Quantities
from tidegate_billing.rates.part import Part
from tidegate_billing.rates.pipeline import Rate

TIME = "2026-01-01T00:00:00Z"


def a_rate(prices: dict[str, Any], *, currency: str = "USD", tier: str = "", **more: Any) -> Rate:
    entry = {"model": "m", "prices": prices, **more}
    made = book.parse(
        {"name": "b", "currency": currency, "effectiveFrom": TIME, "entries": [entry]}
    )
    found = pipeline.rate(entry["model"], more.get("adapter", ""), tier, books=[made])
    assert found is not None
    return found


def atto(text: str) -> int:
    return money.parse(text)


TEXT = a_rate({"input": "1", "cachedInput": "0.5", "output": "2"})
TABLE = [
    {"upTo": 10, "unitPrice": "1"},
    {"upTo": 20, "unitPrice": "0.5", "flatFee": "3"},
    {"unitPrice": "0.255"},
]
IMAGES = a_rate({"image": {"kind": "graduated", "tiers": TABLE}}, allowance={"image": 2})


def shown(bill: lines.Bill) -> list[tuple[object, ...]]:
    return [
        (line.kind, line.part.quantity, money.plain(line.exact), money.printed(line.rounded, "USD"))
        for line in bill.lines
    ]


def test_a_line_for_each_meter_that_was_used() -> None:
    bill = lines.bill([Total(4, TEXT, Quantities(15_000, 30_000, 7_500))], "USD")
    assert shown(bill) == [
        ("input", 15_000, "0.015", "0.02"),
        ("cached_input", 30_000, "0.015", "0.02"),
        ("output", 7_500, "0.015", "0.02"),
    ]
    assert bill.total == atto("0.06")
    assert {(x.model, x.adapter, x.service, x.version) for x in bill.lines} == {
        ("m", "", "default", 4)
    }


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        (0, []),
        (1, [(1, "0", True, 0)]),
        (2, [(2, "0", True, 0)]),
        (3, [(2, "0", True, 0), (1, "1", False, 1)]),
        (12, [(2, "0", True, 0), (10, "10", False, 1)]),
        (13, [(2, "0", True, 0), (10, "10", False, 1), (1, "3.5", False, 2)]),
        (22, [(2, "0", True, 0), (10, "10", False, 1), (10, "8", False, 2)]),
        (
            23,
            [(2, "0", True, 0), (10, "10", False, 1), (10, "8", False, 2), (1, "0.255", False, 3)],
        ),
    ],
)
def test_a_line_for_each_tier_that_is_reached(used: int, expected: list[Any]) -> None:
    bill = lines.bill([Total(1, IMAGES, Quantities(image=used))], "USD")
    found = [(x.part.quantity, money.plain(x.exact), x.part.free, x.part.tier) for x in bill.lines]
    assert found == expected


def test_lines_are_in_the_order_of_model_version_and_meter() -> None:
    other = TEXT._replace(model="a")
    adapter = TEXT._replace(adapter="x")
    priority = TEXT._replace(service="priority")
    used = Quantities(1, 0, 1)
    totals = [Total(n, r, used) for n, r in [(2, TEXT), (1, TEXT), (9, adapter), (8, priority)]]
    bill = lines.bill([*totals, Total(7, other, used)], "USD")
    assert [(x.model, x.adapter, x.service, x.version, x.kind) for x in bill.lines] == [
        (model, name, tier, version, kind)
        for model, name, tier, version in [
            ("a", "", "default", 7),
            ("m", "", "default", 1),
            ("m", "", "default", 2),
            ("m", "", "priority", 8),
            ("m", "x", "default", 9),
        ]
        for kind in ("input", "output")
    ]


def test_what_is_counted_together_is_tiered_together() -> None:
    parts = [Total(1, IMAGES, Quantities(image=n)) for n in (5, 8, 10)]
    whole = [Total(1, IMAGES, Quantities(image=23))]
    assert lines.bill(parts, "USD") == lines.bill(whole, "USD")
    apart = [Total(n, IMAGES, Quantities(image=5)) for n in (1, 2)]
    assert [x.part.quantity for x in lines.bill(apart, "USD").lines] == [2, 3, 2, 3]


def test_one_version_has_one_rate() -> None:
    other = TEXT._replace(prices=IMAGES.prices)
    with pytest.raises(ValueError, match="version 1 of m has two rates"):
        lines.bill([Total(1, TEXT, NOTHING), Total(1, other, NOTHING)], "USD")


def test_usage_without_a_price_is_on_no_invoice() -> None:
    assert (
        lines.bill([Total(1, TEXT, Quantities(1, 0, 0, request=3))], "USD").lines[0].exact == 10**12
    )
    with pytest.raises(ValueError, match="image of m has no price"):
        lines.bill([Total(1, TEXT, Quantities(image=1))], "USD")


def test_an_invoice_is_in_one_currency() -> None:
    yen = a_rate({"image": "0.5"}, currency="JPY")
    totals = [Total(1, yen, Quantities(image=3)), Total(2, TEXT, Quantities(1_000_000))]
    bill = lines.bill(totals, "JPY")
    assert [(x.kind, x.exact, x.rounded) for x in bill.lines] == [("image", atto("1.5"), atto("2"))]
    assert lines.bill(totals, "USD").total == atto("1")
    assert lines.bill(totals, "EUR") == lines.Bill("EUR", (), 0)


@pytest.mark.parametrize(
    ("used", "minimum", "line", "total"),
    [
        (0, "0", None, "0"),
        (0, "10", "10", "10"),
        (9, "10", "1", "10"),
        (10, "10", None, "10"),
        (11, "10", None, "11"),
    ],
)
def test_a_commitment_fills_up(used: int, minimum: str, line: str | None, total: str) -> None:
    rate = a_rate({"image": "1"})
    bill = lines.bill([Total(1, rate, Quantities(image=used))], "USD", atto(minimum))
    found = [x for x in bill.lines if x.kind == lines.COMMITMENT]
    assert [x.rounded for x in found] == ([] if line is None else [atto(line)])
    assert bill.total == atto(total)
    if found:
        assert bill.lines[-1] == found[0]
        assert found[0].exact == found[0].rounded
        assert found[0].part == Part(0, 1, found[0].exact)


def test_a_commitment_is_on_what_is_printed() -> None:
    rate = a_rate({"image": "0.005", "request": "0.005"})
    bill = lines.bill([Total(1, rate, Quantities(image=1, request=1))], "USD", atto("0.01"))
    # two lines of half a cent go to even, to nothing: the exact sum would miss no cent
    assert [money.printed(x.rounded, "USD") for x in bill.lines] == ["0.00", "0.00", "0.01"]
    assert bill.total == atto("0.01")


@pytest.mark.parametrize(
    ("minimum", "currency"), [("500", "JPY"), ("0.01", "USD"), ("0.001", "KWD"), ("0", "USD")]
)
def test_a_minimum_can_be_paid(minimum: str, currency: str) -> None:
    commitment.check(atto(minimum), currency)


@pytest.mark.parametrize(
    ("minimum", "currency"), [("0.5", "JPY"), ("0.015", "USD"), ("0.0001", "KWD")]
)
def test_a_minimum_that_cannot_be_paid_is_refused(minimum: str, currency: str) -> None:
    with pytest.raises(money.MoneyError, match=f"{minimum} {currency} cannot be paid; allowed"):
        commitment.check(atto(minimum), currency)


def test_as_json() -> None:
    rate = a_rate(
        {
            "input": {"kind": "graduated", "tiers": [{"upTo": 1_000_000, "unitPrice": "0.1", "flatFee": "1"}, {"unitPrice": "0.05"}]},
            "audioSecond": "0.006",
            "image": {"kind": "package", "size": 100, "price": "2"},
            "replicaSecond": {"kind": "package", "size": 60, "price": "0.06"},
            "request": "0.001",
        },
        allowance={"request": 1},
        replica={"coldStart": "charge", "idleTail": "charge"},
        adapter="a",
    )  # fmt: skip
    used = Quantities(1_000_001, 0, 0, 0, 1_500, 101, 1, 6_050_000)
    found = lines.as_json(lines.bill([Total(3, rate, used)], "USD", atto("10")))

    def line(kind: str, exact: str, amount: str, **more: Any) -> dict[str, Any]:
        base = {"model": "m", "adapter": "a", "service_tier": "default", "price_version": 3}
        return {**base, "kind": kind, **more, "amount_exact": exact, "amount": amount}

    def per(quantity: int, units: str, unit: str, price: str, of: str, **more: Any) -> Any:
        base = {"quantity": quantity, "units": units, "unit": unit, "tier": 0, "free": False}
        return {**base, "fee": "0", "unit_price": price, "unit_price_per": of, **more}

    million = {"unit_price_per_million": "0.1"}
    assert found == {
        "currency": "USD",
        "lines": [
            line("input", "1.1", "1.10",
                 **per(1_000_000, "1000000", "token", "0.1", "million tokens", tier=1, fee="1", **million)),
            line("input", "0.00000005", "0.00",
                 **per(1, "1", "token", "0.05", "million tokens", tier=2, unit_price_per_million="0.05")),
            line("audio_second", "0.009", "0.01", **per(1_500, "1.5", "second", "0.006", "second")),
            line("image", "4", "4.00",
                 **per(101, "101", "image", "2", "100 images, begun", packages=2)),
            line("request", "0", "0.00", **per(1, "1", "request", "0", "request", free=True)),
            line("replica_second", "0.12", "0.12",
                 **per(6_050_000, "60.5", "second", "0.06", "60 seconds, begun", packages=2)),
            {"model": "", "adapter": "", "service_tier": "", "price_version": 0,
             "kind": "commitment", "amount_exact": "4.77", "amount": "4.77"},
        ],
        "total": "10.00",
    }  # fmt: skip
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("size", "price", "per"),
    [(1, "2", "image"), (2, "2", "2 images, begun"), (3, "2", "3 images, begun")],
)
def test_a_package_of_one_is_a_unit(size: int, price: str, per: str) -> None:
    rate = a_rate({"image": {"kind": "package", "size": size, "price": price}})
    found = lines.as_json(lines.bill([Total(1, rate, Quantities(image=6))], "USD"))["lines"]
    assert isinstance(found, list)
    assert (found[0]["unit_price"], found[0]["unit_price_per"]) == (price, per)
    assert found[0].get("packages", 6) == 6 // size


# --- properties

MONEY = st.integers(0, 10**12).map(lambda n: f"{n // 10**6}.{n % 10**6:06d}")


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["graduated", "volume"]))
    ends = sorted(draw(st.sets(st.integers(1, 300), max_size=3)))
    rows = [{"upTo": end, "unitPrice": draw(MONEY), "flatFee": draw(MONEY)} for end in ends]
    return {"kind": kind, "tiers": [*rows, {"unitPrice": draw(MONEY), "flatFee": draw(MONEY)}]}


PACKAGES = st.fixed_dictionaries(
    {"kind": st.just("package"), "size": st.integers(1, 50), "price": MONEY}
)
PRICES = MONEY | tables() | PACKAGES
EVENTS = st.lists(st.builds(Quantities, *[st.integers(0, 10**6)] * 8), max_size=6)


@given(st.fixed_dictionaries({m.field: PRICES for m in METERS}), st.integers(1, 500), EVENTS)
def test_lines_events_and_the_total_agree(
    prices: dict[str, Any], free: int, events: list[Quantities]
) -> None:
    rate = a_rate(
        prices,
        allowance={"input": free, "image": free},
        replica={"coldStart": "charge", "idleTail": "charge"},
    )
    seen, charged = NOTHING, 0
    for event in events:
        cost = pipeline.charge(rate, event, seen)
        assert cost is not None
        charged += cost
        seen = meters.summed(seen, event)
    bill = lines.bill([Total(1, rate, event) for event in events], "USD")
    assert sum(line.exact for line in bill.lines) == charged
    assert bill.total == sum(line.rounded for line in bill.lines)
    for line in bill.lines:
        assert line.rounded == money.rounded(line.exact, "USD")
    for place, meter in enumerate(METERS):
        shown = sum(line.part.quantity for line in bill.lines if line.meter == meter)
        assert shown == seen[place]


@given(st.lists(st.integers(0, 10**6), max_size=5), st.integers(0, 10**6))
def test_a_total_is_never_under_the_minimum(images: list[int], cents: int) -> None:
    rate = a_rate({"image": "0.001234"})
    totals = [Total(n, rate, Quantities(image=count)) for n, count in enumerate(images)]
    free = lines.bill(totals, "USD").total
    minimum = cents * 10**16
    assert lines.bill(totals, "USD", minimum).total == max(free, minimum)
