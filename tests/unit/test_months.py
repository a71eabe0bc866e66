"""Calendar months, held against the calendar itself."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_billing import months

DAYS = st.dates(dt.date(1970, 1, 1), dt.date(2999, 12, 1))


@pytest.mark.parametrize(
    ("month", "by", "other"),
    [("2026-12", 1, "2027-01"), ("2026-01", -1, "2025-12"), ("2026-05", 0, "2026-05"),
     ("2026-02", -3, "2025-11"), ("2024-11", 26, "2027-01")],
)  # fmt: skip
def test_moved(month: str, by: int, other: str) -> None:
    assert months.moved(month, by) == other
    assert months.moved(other, -by) == month


@pytest.mark.parametrize(("month", "last"), [("2024-02", 29), ("2026-02", 28), ("2026-12", 31)])
def test_days(month: str, last: int) -> None:
    assert months.days(month) == (f"{month}-01", f"{month}-{last}")


@given(day=DAYS)
def test_a_day_is_in_its_month_and_in_no_other(day: dt.date) -> None:
    month = day.isoformat()[:7]
    first, after = months.numbers(month)
    number = (day - months.EPOCH).days
    assert first <= number < after
    assert months.days(month)[0] <= day.isoformat() <= months.days(month)[1]
    assert months.numbers(months.moved(month, 1))[0] == after


def test_listed() -> None:
    assert months.listed("2026-11", "2027-02") == ["2026-11", "2026-12", "2027-01", "2027-02"]
    assert months.listed("2026-11", "2026-11") == ["2026-11"]
