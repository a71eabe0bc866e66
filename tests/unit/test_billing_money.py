"""Prices and invoices: exact until the line, rounded once there."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_billing import invoice, money, price
from tidegate_billing.invoice import Rated
from tidegate_billing.links import Pricing
from tidegate_billing.price import Price, PriceError, Quantities
from tidegate_billing.usage import Usage, uuid7

TOKENS = st.integers(0, 2**53)
MONEY = st.integers(0, 10**24)
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
    ) / 10**18
    text = money.plain(price.amount(quantities, at))
    assert Fraction(text) == expected
    assert "E" not in text


@given(parts=st.lists(st.builds(Quantities, TOKENS, TOKENS, TOKENS), max_size=20), at=PRICES)
def test_the_cost_of_a_sum_is_the_sum_of_costs(parts: list[Quantities], at: Price) -> None:
    whole = Quantities(*(sum(column) for column in zip((0, 0, 0), *parts, strict=True)))
    assert price.amount(whole, at) == sum(price.amount(part, at) for part in parts)


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
    assert money.plain(price.amount(price.split(used, at), at)) == "0.0000071"


def test_an_invoice_adds_up_as_printed() -> None:
    old = Price("USD", 10**12, 2 * 10**12, 5 * 10**11)
    new = Price("USD", 3 * 10**12, 2 * 10**12, 5 * 10**11)
    usage = [
        Rated("b", old, Quantities(5_000, 0, 5_000)),
        Rated("a", old, Quantities(15_000, 30_000, 7_500)),
        Rated("a", new, Quantities(5_000, 0, 7_500)),
        Rated("a", Price("EUR", 1, 1), Quantities(1, 1, 1)),
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
