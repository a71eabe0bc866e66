"""Money: exact both ways, and rounded once, half to even."""

from decimal import ROUND_HALF_EVEN, Context, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_billing import money

WIDE = Context(prec=80)
AMOUNTS = st.integers(-(10**36), 10**36)


@pytest.mark.parametrize(
    ("text", "atto"),
    [
        ("0", 0),
        ("1", 10**18),
        ("0.000000000000000001", 1),
        ("12.50", 125 * 10**17),
        ("999999999999.999999999999999999", 10**30 - 1),
    ],
)
def test_a_decimal_string_is_read_exactly(text: str, atto: int) -> None:
    assert money.parse(text) == atto


@pytest.mark.parametrize(
    "text",
    ["", ".", "-1", "1e3", "+1", "1.0000000000000000001", "٣", " 1", "nan", "1" * 13, "1.", ".5"],
)
def test_what_is_no_exact_amount_is_refused(text: str) -> None:
    with pytest.raises(money.MoneyError, match="allowed"):
        money.parse(text)


def test_a_sign_is_taken_only_where_it_is_asked_for() -> None:
    assert money.parse("-0.5", signed=True) == -5 * 10**17
    with pytest.raises(money.MoneyError, match="from 0"):
        money.parse("-0.5")


@given(AMOUNTS)
def test_text_and_columns_lead_back(amount: int) -> None:
    text = money.plain(amount)
    assert Decimal(text).scaleb(18, WIDE) == amount
    assert money.parse(text, digits=40, signed=True) == amount
    nano, rest = money.halves(amount)
    assert 0 <= rest < 10**9
    assert money.whole(nano, rest) == amount


@given(st.lists(AMOUNTS))
def test_columns_may_be_summed_apart(amounts: list[int]) -> None:
    parts = [money.halves(amount) for amount in amounts]
    total = money.whole(sum(p.nano for p in parts), sum(p.rest for p in parts))
    assert total == sum(amounts)


@given(AMOUNTS, st.sampled_from(["USD", "JPY", "KWD"]))
def test_rounding_is_what_decimal_says(amount: int, currency: str) -> None:
    places = {"USD": 2, "JPY": 0, "KWD": 3}[currency]
    exact = Decimal(amount).scaleb(-18, WIDE)
    expected = exact.quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN, WIDE)
    got = money.rounded(amount, currency)
    assert Decimal(got).scaleb(-18, WIDE) == expected
    assert Decimal(money.printed(got, currency)) == expected
    assert len(money.printed(got, currency).partition(".")[2]) == places


@pytest.mark.parametrize(
    ("text", "currency", "expected"),
    [
        ("0.005", "USD", "0.00"),
        ("0.015", "USD", "0.02"),
        ("0.025", "USD", "0.02"),
        ("-0.005", "USD", "0.00"),
        ("-0.015", "USD", "-0.02"),
        ("0.5", "JPY", "0"),
        ("1.5", "JPY", "2"),
        ("0.0005", "KWD", "0.000"),
        ("0.0015", "KWD", "0.002"),
    ],
)
def test_ties_go_to_even(text: str, currency: str, expected: str) -> None:
    amount = money.rounded(money.parse(text, signed=True), currency)
    assert money.printed(amount, currency) == expected


def test_what_is_not_rounded_is_not_printed() -> None:
    with pytest.raises(money.MoneyError, match="not rounded"):
        money.printed(1, "USD")


@pytest.mark.parametrize("code", ["usd", "US", "USDT", "", "U$D", "ÜSD"])
def test_a_currency_is_three_capitals(code: str) -> None:
    with pytest.raises(money.MoneyError, match="ISO 4217"):
        money.check_currency(code)
