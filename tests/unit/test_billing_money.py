"""Prices and invoices: exact until the line, rounded once there."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_billing import invoice, price
from tidegate_billing.invoice import Rated
from tidegate_billing.links import Pricing
from tidegate_billing.price import Price, PriceError, Quantities
from tidegate_billing.usage import Usage, uuid7

TOKENS = st.integers(0, 2**53)
MONEY = st.decimals(min_value=0, max_value=10**11, places=12, allow_nan=False)
PRICES = st.builds(Price, st.just("USD"), MONEY, MONEY, st.none() | MONEY)


def event(**values: object) -> Usage:
    base: dict[str, object] = {
        "attempt_id": uuid7(),
        "kind": "settlement",
        "request_id": "r",
        "tenant": "t",
        "project": "p",
        "key_id": "k",
        "model": "m",
        "deployment": "d/m",
        "endpoint": "chat",
        "started_at": 1,
        "billed": True,
    }
    return Usage(**{**base, **values})  # type: ignore[arg-type]


@given(prompt=TOKENS, cached=TOKENS, completion=TOKENS, known=st.booleans(), at=PRICES)
def test_every_token_bills_once(
    prompt: int, cached: int, completion: int, known: bool, at: Price
) -> None:
    used = event(
        prompt_tokens=prompt, cached_tokens=cached, cached_known=known, completion_tokens=completion
    )
    split = price.split(used, at)
    assert split.input + split.cached_input == prompt
    assert split.output == completion
    assert min(split) >= 0
    if not known or at.cached_input is None:
        assert split.cached_input == 0


@given(quantities=st.builds(Quantities, TOKENS, TOKENS, TOKENS), at=PRICES)
def test_amounts_are_exact(quantities: Quantities, at: Price) -> None:
    cached = at.input if at.cached_input is None else at.cached_input
    expected = (
        quantities.input * Fraction(at.input)
        + quantities.cached_input * Fraction(cached)
        + quantities.output * Fraction(at.output)
    ) / 1_000_000
    amount = price.amount(quantities, at)
    assert Fraction(amount) == expected
    assert Fraction(price.plain(amount)) == expected
    assert "E" not in price.plain(amount)


@given(parts=st.lists(st.builds(Quantities, TOKENS, TOKENS, TOKENS), max_size=20), at=PRICES)
def test_the_cost_of_a_sum_is_the_sum_of_costs(parts: list[Quantities], at: Price) -> None:
    whole = Quantities(*(sum(column) for column in zip((0, 0, 0), *parts, strict=True)))
    total = Decimal(0)
    for part in parts:
        total = price.add(total, price.amount(part, at))
    assert price.amount(whole, at) == total


@pytest.mark.parametrize(
    ("pricing", "field"),
    [
        (Pricing(currency="usd"), "currency"),
        (Pricing(currency="DOLLAR"), "currency"),
        (Pricing(input_per_million="-1"), "inputPerMillion"),
        (Pricing(output_per_million="1e3"), "outputPerMillion"),
        (Pricing(output_per_million="NaN"), "outputPerMillion"),
        (Pricing(input_per_million=""), "inputPerMillion"),
        (Pricing(input_per_million="1."), "inputPerMillion"),
        (Pricing(input_per_million="0." + "1" * 13), "inputPerMillion"),
        (Pricing(cached_input_per_million="٣"), "cachedInputPerMillion"),
    ],
)
def test_a_price_that_cannot_be_used_is_named(pricing: Pricing, field: str) -> None:
    with pytest.raises(PriceError, match=rf"pricing\.{field} .*allowed:"):
        price.parse(pricing)


def test_the_worked_example() -> None:
    at = price.parse(Pricing(input_per_million="0.10", output_per_million="0.40"))
    used = event(prompt_tokens=7, cached_tokens=3, cached_known=True, completion_tokens=16)
    # 7 x 0.0000001 + 16 x 0.0000004
    assert price.plain(price.amount(price.split(used, at), at)) == "0.0000071"


@pytest.mark.parametrize(
    ("exact", "currency", "expected"),
    [
        ("0.005", "USD", "0.00"),
        ("0.015", "USD", "0.02"),
        ("0.025", "USD", "0.02"),
        ("0.0250000001", "USD", "0.03"),
        ("2.5", "JPY", "2"),
        ("3.5", "JPY", "4"),
        ("0.0005", "KWD", "0.000"),
        ("0", "USD", "0.00"),
    ],
)
def test_rounding_is_half_to_even_in_the_smallest_unit(
    exact: str, currency: str, expected: str
) -> None:
    assert format(invoice.rounded(Decimal(exact), currency), "f") == expected


def test_an_invoice_adds_up_as_printed() -> None:
    old = Price("USD", Decimal(1), Decimal(2), Decimal("0.5"))
    new = Price("USD", Decimal(3), Decimal(2), Decimal("0.5"))
    usage = [
        Rated("b", old, Quantities(5_000, 0, 5_000)),
        Rated("a", old, Quantities(15_000, 30_000, 7_500)),
        Rated("a", new, Quantities(5_000, 0, 7_500)),
        Rated("a", Price("EUR", Decimal(1), Decimal(1)), Quantities(1, 1, 1)),
    ]
    made = invoice.as_json(invoice.build("t", "2026-01", "USD", usage))
    assert made == {
        "tenant": "t",
        "period": "2026-01",
        "currency": "USD",
        "lines": [
            _line("a", "input", 15_000, "1", "0.015", "0.02"),
            _line("a", "input", 5_000, "3", "0.015", "0.02"),
            _line("a", "cached_input", 30_000, "0.5", "0.015", "0.02"),
            _line("a", "output", 15_000, "2", "0.03", "0.03"),
            _line("b", "input", 5_000, "1", "0.005", "0.00"),
            _line("b", "output", 5_000, "2", "0.01", "0.01"),
        ],
        "total": "0.10",
    }


def _line(
    model: str, kind: str, quantity: int, unit: str, exact: str, amount: str
) -> dict[str, object]:
    return {
        "model": model,
        "kind": kind,
        "quantity": quantity,
        "unit_price_per_million": unit,
        "amount_exact": exact,
        "amount": amount,
    }


def test_nothing_used_is_an_invoice_over_nothing() -> None:
    assert invoice.as_json(invoice.build("t", "2026-01", "USD", []))["total"] == "0.00"
