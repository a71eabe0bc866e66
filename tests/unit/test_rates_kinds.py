"""Price kinds at their boundaries, against sums written by hand and a loop over single units."""

from collections.abc import Callable
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_billing.rates import allowance, discount, service
from tidegate_billing.rates.allowance import Allowed, Kind, Price
from tidegate_billing.rates.exact import InexactError
from tidegate_billing.rates.flat import Flat
from tidegate_billing.rates.graduated import Graduated
from tidegate_billing.rates.package import Package
from tidegate_billing.rates.part import Part
from tidegate_billing.rates.service import ServiceTier
from tidegate_billing.rates.terms import UNPRICED, Book, Contract, Entry, Override
from tidegate_billing.rates.tiers import Tier, TierError
from tidegate_billing.rates.volume import Volume

ROWS = (Tier(10, 7), Tier(20, 5, 100), Tier(None, 3, 40))
"""10 units at 7; the next 10 at 5 and a fee of 100; the rest at 3 and a fee of 40."""


@pytest.mark.parametrize(
    ("quantity", "cost"),
    [
        (0, 0),
        (1, 7),
        (9, 63),
        (10, 70),
        (11, 175),  # 70 + 100 + 5
        (19, 215),  # 70 + 100 + 9 x 5
        (20, 220),  # 70 + 100 + 10 x 5
        (21, 263),  # 220 + 40 + 3
        (1_000_020, 3_000_260),  # 220 + 40 + 1,000,000 x 3
    ],
)
def test_graduated_at_its_boundaries(quantity: int, cost: int) -> None:
    assert Graduated(ROWS).cost(quantity) == cost


@pytest.mark.parametrize(
    ("quantity", "cost"),
    [
        (0, 0),
        (1, 7),
        (9, 63),
        (10, 70),
        (11, 155),  # 11 x 5 + 100
        (19, 195),
        (20, 200),
        (21, 103),  # 21 x 3 + 40: cheaper than 20
        (1_000_000, 3_000_040),
    ],
)
def test_volume_at_its_boundaries(quantity: int, cost: int) -> None:
    assert Volume(ROWS).cost(quantity) == cost


@pytest.mark.parametrize(
    ("quantity", "cost"),
    [(0, 0), (1, 9), (99, 9), (100, 9), (101, 18), (200, 18), (201, 27), (1_000_001, 90_009)],
)
def test_a_package_begun_is_paid(quantity: int, cost: int) -> None:
    assert Package(100, 9).cost(quantity) == cost


@pytest.mark.parametrize(("quantity", "cost"), [(0, 0), (1, 7), (1_000_000, 7_000_000)])
def test_flat_is_a_product(quantity: int, cost: int) -> None:
    assert Flat(7).cost(quantity) == cost


@pytest.mark.parametrize(
    ("then", "quantity", "cost"),
    [
        (Flat(7), 0, 0),
        (Flat(7), 1, 0),
        (Flat(7), 4, 0),
        (Flat(7), 5, 0),
        (Flat(7), 6, 7),
        (Flat(7), 1_005, 7_000),
        # the tiers count what is left: 10 paid units are 15 used ones
        (Graduated(ROWS), 15, 70),
        (Graduated(ROWS), 16, 175),
        (Volume(ROWS), 25, 200),
        (Volume(ROWS), 26, 103),
        (Package(100, 9), 5, 0),
        (Package(100, 9), 6, 9),
        (Package(100, 9), 105, 9),
        (Package(100, 9), 106, 18),
    ],
)
def test_an_allowance_is_in_front_of_the_price(then: Kind, quantity: int, cost: int) -> None:
    assert allowance.applied(then, 5).cost(quantity) == cost


def test_no_allowance_is_the_price_itself() -> None:
    assert allowance.applied(Flat(7), 0) == Flat(7)
    assert allowance.applied(Flat(7), 1) == Allowed(1, Flat(7))


def test_a_part_says_what_it_is_of() -> None:
    assert Flat(7).parts(3) == (Part(3, 3, 7),)
    assert Graduated(ROWS).parts(10) == (Part(10, 10, 7, tier=1),)
    assert Graduated(ROWS).parts(23) == (
        Part(10, 10, 7, tier=1),
        Part(10, 10, 5, fee=100, tier=2),
        Part(3, 3, 3, fee=40, tier=3),
    )
    assert Volume(ROWS).parts(23) == (Part(23, 23, 3, fee=40, tier=3),)
    assert Package(10, 9).parts(23) == (Part(23, 3, 9, size=10),)
    assert Allowed(5, Flat(7)).parts(3) == (Part(3, 3, 0, free=True),)
    assert Allowed(5, Flat(7)).parts(8) == (Part(5, 5, 0, free=True), Part(3, 3, 7))
    for price in (Flat(7), Graduated(ROWS), Volume(ROWS), Package(10, 9), Allowed(5, Flat(7))):
        assert price.parts(0) == ()


# --- the same, by a loop that looks at single units


def by_flat(price: Flat, quantity: int) -> Fraction:
    return sum((Fraction(price.unit) for _ in range(quantity)), Fraction(0))


def row_of(rows: tuple[Tier, ...], unit: int) -> int:
    return min(n for n, row in enumerate(rows) if row.up_to is None or unit <= row.up_to)


def by_graduated(price: Graduated, quantity: int) -> Fraction:
    total, entered = Fraction(0), set()
    for unit in range(1, quantity + 1):
        number = row_of(price.tiers, unit)
        if number not in entered:
            entered.add(number)
            total += price.tiers[number].fee
        total += price.tiers[number].unit
    return total


def by_volume(price: Volume, quantity: int) -> Fraction:
    if quantity == 0:
        return Fraction(0)
    row = price.tiers[row_of(price.tiers, quantity)]
    return sum((Fraction(row.unit) for _ in range(quantity)), Fraction(row.fee))


def by_package(price: Package, quantity: int) -> Fraction:
    total, left = Fraction(0), 0
    for _ in range(quantity):
        if left == 0:
            total, left = total + price.price, price.size
        left -= 1
    return total


ORACLES: dict[type[Kind], Callable[..., Fraction]] = {
    Flat: by_flat,
    Graduated: by_graduated,
    Volume: by_volume,
    Package: by_package,
}


def oracle(price: Price, quantity: int) -> Fraction:
    if isinstance(price, Allowed):
        paid = [unit for unit in range(1, quantity + 1) if unit > price.free]
        return oracle(price.then, len(paid))
    return ORACLES[type(price)](price, quantity)


MONEY = st.integers(0, 10**24)


@st.composite
def tables(draw: st.DrawFn) -> tuple[Tier, ...]:
    ends = sorted(draw(st.sets(st.integers(1, 60), max_size=4)))
    return tuple(Tier(end, draw(MONEY), draw(MONEY)) for end in [*ends, None])


KINDS: st.SearchStrategy[Kind] = st.one_of(
    st.builds(Flat, MONEY),
    st.builds(Graduated, tables()),
    st.builds(Volume, tables()),
    st.builds(Package, st.integers(1, 30), MONEY),
)
PRICES: st.SearchStrategy[Price] = KINDS | st.builds(Allowed, st.integers(1, 40), KINDS)


@given(PRICES, st.integers(0, 90))
def test_every_quantity_costs_what_its_units_cost(price: Price, quantity: int) -> None:
    assert price.cost(quantity) == oracle(price, quantity)


@given(PRICES, st.integers(0, 10**12))
def test_parts_add_up_to_the_quantity_and_to_the_cost(price: Price, quantity: int) -> None:
    parts = price.parts(quantity)
    assert sum(part.quantity for part in parts) == quantity
    assert sum(part.amount for part in parts) == price.cost(quantity)
    assert all(part.quantity > 0 for part in parts)
    assert all(0 <= part.blocks * part.size - part.quantity < part.size for part in parts)


@given(PRICES, st.lists(st.integers(0, 10**9) | st.integers(0, 30), max_size=12))
def test_events_add_up_to_the_total_in_any_order_and_cut(price: Price, events: list[int]) -> None:
    total = sum(events)
    for order in (events, sorted(events), sorted(events, reverse=True), [total]):
        seen = charged = 0
        for quantity in order:
            charged += allowance.marginal(price, seen, quantity)
            seen += quantity
        assert charged == price.cost(total)


@given(PRICES, st.integers(0, 200), st.integers(0, 200))
def test_more_never_costs_less_but_by_volume(price: Price, less: int, more: int) -> None:
    kind = price.then if isinstance(price, Allowed) else price
    if not isinstance(kind, Volume):
        assert price.cost(less) <= price.cost(less + more)


# --- tables that are none


@pytest.mark.parametrize(
    ("rows", "place", "said"),
    [
        ((), 0, "no tier"),
        ((Tier(10, 1),), 0, "last tier ends"),
        ((Tier(10, 1), Tier(20, 1)), 1, "last tier ends"),
        ((Tier(None, 1), Tier(None, 1)), 0, "does not rise"),
        ((Tier(0, 1), Tier(None, 1)), 0, "does not rise"),
        ((Tier(10, 1), Tier(10, 1), Tier(None, 1)), 1, "does not rise"),
        ((Tier(10, 1), Tier(9, 1), Tier(None, 1)), 1, "does not rise"),
        ((Tier(10, 1), Tier(None, 1), Tier(None, 1)), 1, "does not rise"),
    ],
)
@pytest.mark.parametrize("kind", [Graduated, Volume])
def test_a_table_prices_every_quantity_once(
    kind: type[Graduated | Volume], rows: tuple[Tier, ...], place: int, said: str
) -> None:
    with pytest.raises(TierError, match=rf"{said}.*allowed") as caught:
        kind(rows)
    assert caught.value.place == place
    assert said in str(caught.value).split(";", maxsplit=1)[0]
    assert not str(caught.value).startswith("(")


def test_a_package_holds_something() -> None:
    assert Package(1, 9).cost(3) == 27
    with pytest.raises(ValueError, match="allowed: a size from 1"):
        Package(0, 9)


# --- factors


@pytest.mark.parametrize(
    ("price", "half"),
    [
        (Flat(10), Flat(5)),
        (
            Graduated((Tier(9, 4, 8), Tier(None, 2, 6))),
            Graduated((Tier(9, 2, 4), Tier(None, 1, 3))),
        ),
        (Volume((Tier(9, 4, 8), Tier(None, 2, 6))), Volume((Tier(9, 2, 4), Tier(None, 1, 3)))),
        (Package(7, 10), Package(7, 5)),
    ],
)
def test_a_factor_is_on_money_and_not_on_quantities(price: Kind, half: Kind) -> None:
    assert price.scaled(Fraction(1, 2)) == half
    assert discount.applied(price, discount.parse("50")) == half
    assert service.applied(0, price, ServiceTier(Fraction(1, 2))) == half


@pytest.mark.parametrize(
    "price",
    [
        Flat(5),
        Graduated((Tier(9, 5), Tier(None, 2))),
        Graduated((Tier(9, 4), Tier(None, 2, 5))),
        Volume((Tier(9, 4, 5), Tier(None, 2))),
        Volume((Tier(9, 4), Tier(None, 5))),
        Package(8, 5),
    ],
)
def test_a_factor_that_leaves_a_rest_is_refused(price: Kind) -> None:
    with pytest.raises(InexactError, match=r"0\.000000000000000005 x 1/2 .*allowed"):
        price.scaled(Fraction(1, 2))


@given(KINDS, st.integers(0, 10_000), st.integers(0, 10**9))
def test_a_discount_is_exact_or_refused(price: Kind, hundredths: int, quantity: int) -> None:
    left = discount.parse(f"{hundredths // 100}.{hundredths % 100:02d}")
    assert left == 1 - Fraction(hundredths, 10_000)
    try:
        cheaper = discount.applied(price, left)
    except InexactError:
        return
    assert cheaper.cost(quantity) == price.cost(quantity) * left


@given(KINDS, st.integers(0, 99))
def test_whole_percents_of_whole_nano_prices_are_always_exact(price: Kind, percent: int) -> None:
    coarse = price.scaled(Fraction(10**9))
    assert discount.applied(coarse, discount.parse(str(percent))).cost(7) * 100 == (
        coarse.cost(7) * (100 - percent)
    )


@pytest.mark.parametrize("text", ["", "-1", "100.1", "101", "1e1", "ten", "٣", "1" * 4, "0100"])
def test_a_discount_is_a_percentage(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: a decimal string from 0 to 100"):
        discount.parse(text)


@pytest.mark.parametrize(("text", "left"), [("0", 1), ("100", 0), ("12.5", Fraction(7, 8))])
def test_a_discount_leaves_the_rest(text: str, left: Fraction) -> None:
    assert discount.parse(text) == left


@pytest.mark.parametrize("text", ["0", "0.0", "-1", "", "x", "1000000"])
def test_a_multiplier_is_above_zero(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: a decimal string above 0"):
        service.multiplier(text)


def test_a_service_tier_has_a_factor_or_prices_of_its_own() -> None:
    assert service.multiplier("1.5") == Fraction(3, 2)
    assert service.multiplier("999999") == 999_999
    own = ServiceTier(own={2: Flat(9)})
    assert service.applied(2, Flat(4), own) == Flat(9)
    assert service.applied(0, Flat(4), own) == Flat(4)
    assert service.applied(0, None, own) is None
    assert service.applied(0, None, ServiceTier(Fraction(2))) is None
    assert service.applied(0, Flat(4), ServiceTier(Fraction(2))) == Flat(8)


@pytest.mark.parametrize(
    "value",
    [
        Flat(1),
        Graduated((Tier(None, 1),)),
        Volume((Tier(None, 1),)),
        Package(1, 1),
        Allowed(1, Flat(1)),
        ServiceTier(),
        Entry(model="m", prices=UNPRICED),
        Book(name="b", currency="USD", entries=()),
        Override(model="m"),
        Contract(tenant="t", currency="USD"),
    ],
)
def test_terms_are_never_changed(value: msgspec.Struct) -> None:
    for field in value.__struct_fields__:
        with pytest.raises(AttributeError, match="immutable"):
            setattr(value, field, None)
