"""Which version is in force: the last that has begun, from its first microsecond on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_billing.rates.select import Timeline, Version

FIRST = Version(1, 1_000, "first")
SECOND = Version(2, 2_000, "second")
GONE = Version(3, 3_000, None)
BACKDATED = Version(4, 1_500, "backdated")
CORRECTED = Version(5, 2_000, "corrected")


@pytest.mark.parametrize(
    ("versions", "when", "expected"),
    [
        ([], 1_000, None),
        ([FIRST], 999, None),
        ([FIRST], 1_000, FIRST),
        ([FIRST], 10**18, FIRST),
        ([FIRST, SECOND], 1_999, FIRST),
        ([FIRST, SECOND], 2_000, SECOND),
        ([FIRST, SECOND], 2_001, SECOND),
        ([SECOND, FIRST], 1_999, FIRST),
        ([SECOND, FIRST], 2_000, SECOND),
        # withdrawn: a version without terms, which is not the same as none
        ([FIRST, GONE], 2_999, FIRST),
        ([FIRST, GONE], 3_000, GONE),
        # written late, in force from its date
        ([FIRST, SECOND, BACKDATED], 1_499, FIRST),
        ([FIRST, SECOND, BACKDATED], 1_500, BACKDATED),
        ([FIRST, SECOND, BACKDATED], 2_000, SECOND),
        # of two with one time the later written
        ([FIRST, SECOND, CORRECTED], 2_000, CORRECTED),
        ([CORRECTED, SECOND], 2_000, CORRECTED),
    ],
)
def test_in_force(versions: list[Version[str]], when: int, expected: Version[str] | None) -> None:
    assert Timeline(versions).at(when) == expected


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=8), st.integers(-1, 21))
def test_it_is_the_greatest_that_is_not_later(written: list[tuple[int, bool]], when: int) -> None:
    versions = [
        Version(n, start, "x" if priced else None) for n, (start, priced) in enumerate(written)
    ]
    expected = None
    for version in versions:  # in the order of their numbers
        if version.effective_from <= when and (
            expected is None or version.effective_from >= expected.effective_from
        ):
            expected = version
    assert Timeline(reversed(versions)).at(when) == expected
