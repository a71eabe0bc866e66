"""The demo's closing arithmetic: a settlement dropped or doubled anywhere makes it fail."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_operator.cli.demo.closing import (
    Bill,
    Readings,
    Settlement,
    Tokens,
    gaps,
    shares,
    total,
)

PROBE = Settlement("probe", False, Tokens(1, 1))
FIRST = Settlement("a", True, Tokens(6, 16))
SECOND = Settlement("b", True, Tokens(3, 16))


def closed(
    settlements: tuple[Settlement, ...] = (PROBE, FIRST, SECOND), *, truth: bool = True
) -> Readings:
    """Readings whose numbers close over the given settlements."""
    billed = [s for s in settlements if s.billed]
    ledger = total(s.tokens for s in billed)
    exact = Decimal(ledger.prompt) / 10 + Decimal(ledger.completion) / 5
    return Readings(
        asked=len(billed),
        answered=len(billed),
        engine=total(s.tokens for s in settlements),
        ledger=ledger,
        settlements=settlements,
        truth={s.attempt_id: s.tokens for s in settlements} if truth else None,
        unshipped=0,
        unexplained=0,
        unverified=0,
        invoiced=ledger,
        bill=Bill("USD", round(exact, 2), exact),
        usage_exact=exact,
    )


def settled(readings: Readings, settlements: tuple[Settlement, ...]) -> Readings:
    """The same engines and questions, with other settlements: all of billing follows those."""
    other = closed(settlements)
    return readings._replace(
        settlements=settlements,
        ledger=other.ledger,
        invoiced=other.invoiced,
        bill=other.bill,
        usage_exact=other.usage_exact,
    )


@pytest.mark.parametrize("truth", [True, False])
def test_numbers_that_agree_close(truth: bool) -> None:
    assert gaps(closed(truth=truth)) == []


@pytest.mark.parametrize("truth", [True, False])
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_dropped_settlement_is_a_gap(victim: int, truth: bool) -> None:
    whole = closed(truth=truth)
    left = tuple(s for n, s in enumerate(whole.settlements) if n != victim)
    assert gaps(settled(whole, left))


@pytest.mark.parametrize("truth", [True, False])
@pytest.mark.parametrize("victim", [0, 1, 2])
@pytest.mark.parametrize("same_id", [True, False])
def test_a_doubled_settlement_is_a_gap(victim: int, truth: bool, same_id: bool) -> None:
    whole = closed(truth=truth)
    twice = whole.settlements[victim]
    if not same_id:
        twice = twice._replace(attempt_id="another")
    assert gaps(settled(whole, (*whole.settlements, twice)))


def test_one_dropped_and_one_doubled_do_not_hide_each_other() -> None:
    third = Settlement("c", True, Tokens(6, 16))
    whole = closed((PROBE, FIRST, SECOND, third))
    swapped = (PROBE, FIRST, SECOND, FIRST._replace(attempt_id="a"))
    assert total(s.tokens for s in swapped) == whole.engine
    found = gaps(settled(whole, swapped))
    assert any("settled 2 times" in gap for gap in found)
    assert any("never settled" in gap for gap in found)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("answered", 1),
        ("unshipped", 1),
        ("unexplained", 1),
        ("unverified", 1),
        ("engine", Tokens(10, 34)),
        ("invoiced", Tokens(9, 31)),
        ("usage_exact", Decimal("0.1")),
    ],
)
def test_every_reading_counts(field: str, value: object) -> None:
    assert gaps(closed()._replace(**{field: value}))


def test_a_failed_probe_that_no_engine_saw_is_no_gap() -> None:
    assert gaps(closed((PROBE, FIRST, Settlement("refused", False, Tokens())))) == []


def test_percentiles_are_values_that_were_seen() -> None:
    assert shares([]) == (0, 0.0, 0.0, 0.0)
    assert shares([3.0]) == (1, 3.0, 3.0, 3.0)
    assert shares(float(n) for n in range(1, 201)) == (200, 100.0, 198.0, 200.0)


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_percentiles_are_ordered(values: list[float]) -> None:
    found = shares(values)
    assert found.n == len(values)
    assert min(values) <= found.p50 <= found.p99 <= found.max == max(values)
