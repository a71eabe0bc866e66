"""Meters: each token, millisecond, image and request once, whatever is priced apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_billing import money
from tidegate_billing.rates import meters
from tidegate_billing.rates.meters import FREE, METERS, PLACES, Apart, Quantities, Shares, Used

COUNTS = st.integers(0, 2**53)
USED = st.builds(Used, COUNTS, st.none() | COUNTS, *[COUNTS] * 8)
SHARES = st.builds(Shares, st.integers(0, 100), st.integers(0, 100))
APART = st.builds(Apart, st.booleans(), st.booleans(), SHARES)


def test_a_quantity_for_each_meter_in_its_place() -> None:
    assert Quantities._fields == tuple(meter.name for meter in METERS)
    assert list(PLACES) == [meter.field for meter in METERS]
    named = {"input": 0, "cached_input": 1, "output": 2, "reasoning": 3}
    named |= {"audio_second": 4, "image": 5, "request": 6, "replica_second": 7}
    assert {meter.name: place for place, meter in enumerate(METERS)} == named
    assert (meters.INPUT, meters.CACHED_INPUT, meters.OUTPUT, meters.REASONING) == (0, 1, 2, 3)
    assert (meters.AUDIO, meters.IMAGE, meters.REQUEST, meters.REPLICA) == (4, 5, 6, 7)


def test_nothing_is_used_by_default() -> None:
    assert meters.quantities(Used(), Apart(True, True, Shares(100, 100))) == meters.NOTHING
    assert set(meters.NOTHING) == {0}
    assert Used().cached is None


def test_twelve_decimals_are_whole_atto_for_one_of_the_counted() -> None:
    finest = money.parse("0.000000000001")
    assert [finest % meter.shift for meter in METERS] == [0] * len(METERS)
    assert [meter.shift for meter in METERS] == [10**6] * 4 + [1000, 1, 1, 100_000]


@pytest.mark.parametrize(
    ("used", "apart", "expected"),
    [
        # the parts have prices
        (Used(10, 4, 6, 5), Apart(True, True), Quantities(6, 4, 1, 5)),
        # neither has: the whole bills at the whole's price
        (Used(10, 4, 6, 5), Apart(False, False), Quantities(10, 0, 6, 0)),
        (Used(10, 4, 6, 5), Apart(True, False), Quantities(6, 4, 6, 0)),
        (Used(10, 4, 6, 5), Apart(False, True), Quantities(10, 0, 1, 5)),
        # the engine did not say: plain input
        (Used(10, None, 6), Apart(True, True), Quantities(10, 0, 6, 0)),
        # it said none
        (Used(10, 0, 6), Apart(True, True), Quantities(10, 0, 6, 0)),
        # a part that is more than its whole
        (Used(10, 11, 6, 7), Apart(True, True), Quantities(0, 10, 0, 6)),
        # the rest stand apart
        (
            Used(audio_ms=1_500, images=2, requests=1),
            Apart(True, True),
            Quantities(audio_second=1_500, image=2, request=1),
        ),
    ],
)
def test_quantities(used: Used, apart: Apart, expected: Quantities) -> None:
    assert meters.quantities(used, apart) == expected


@given(USED, APART)
def test_every_token_is_counted_once(used: Used, apart: Apart) -> None:
    found = meters.quantities(used, apart)
    assert min(found) >= 0
    assert found.input + found.cached_input == used.prompt
    assert found.output + found.reasoning == used.completion
    assert found[4:7] == (used.audio_ms, used.images, used.requests)


@pytest.mark.parametrize(
    ("shares", "customer", "ours"),
    [
        # 3 ms cold, 10 ms serving, 5 ms idle: hundredths of a millisecond
        (Shares(100, 100), 1_800, 0),
        (Shares(0, 0), 1_000, 800),
        (Shares(100, 0), 1_300, 500),
        (Shares(0, 100), 1_500, 300),
        (Shares(50, 25), 1_275, 525),  # 150 + 1,000 + 125; 150 + 375
    ],
)
def test_a_phase_is_the_customers_ours_or_shared(shares: Shares, customer: int, ours: int) -> None:
    used = Used(cold_start_ms=3, serving_ms=10, idle_tail_ms=5)
    assert meters.quantities(used, Apart(False, False, shares)).replica_second == customer
    assert meters.absorbed(used, shares) == ours


def test_who_prices_no_replica_carries_its_start_and_tail() -> None:
    used = Used(cold_start_ms=3, serving_ms=10, idle_tail_ms=5)
    assert meters.absorbed(used, FREE) == 800
    assert meters.quantities(used, Apart(False, False)).replica_second == 1_000


@given(USED, SHARES)
def test_no_millisecond_is_lost(used: Used, shares: Shares) -> None:
    customer = meters.quantities(used, Apart(False, False, shares)).replica_second
    time = used.cold_start_ms + used.serving_ms + used.idle_tail_ms
    assert customer + meters.absorbed(used, shares) == 100 * time


@given(st.lists(st.integers(1, 1_000), min_size=1), SHARES)
def test_a_split_does_not_depend_on_the_cut(cuts: list[int], shares: Shares) -> None:
    def carried(ms: int) -> int:
        used = Used(cold_start_ms=ms)
        return meters.quantities(used, Apart(False, False, shares)).replica_second

    assert sum(map(carried, cuts)) == carried(sum(cuts))


def test_quantities_add_up_by_meter() -> None:
    left, right = Quantities(*range(8)), Quantities(*range(10, 18))
    assert meters.summed(left, right) == Quantities(10, 12, 14, 16, 18, 20, 22, 24)
