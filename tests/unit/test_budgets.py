"""Budgets: windows of real calendars, and alerts that come once.

The tables were written by hand from the zones' rules (UTC offsets as the tz database's own
commentary states them), not by running the code.
"""

import datetime as dt
import zoneinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_billing import budgets
from tidegate_billing.budgets import Alert, Budget, BudgetError, Kind, Window

HOUR = 3_600_000_000


def micros(text: str) -> int:
    """`2026-03-29T01:00` (UTC) in microseconds."""
    moment = dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)
    return int(moment.timestamp()) * 1_000_000


# zone, day (local), when it begins and ends in UTC, hours
DAYS = [
    ("UTC", "2026-01-01T12:00", "2026-01-01T00:00", "2026-01-02T00:00", 24),
    ("Europe/Berlin", "2026-01-01T12:00", "2025-12-31T23:00", "2026-01-01T23:00", 24),
    ("Europe/Berlin", "2026-03-29T12:00", "2026-03-28T23:00", "2026-03-29T22:00", 23),
    ("Europe/Berlin", "2026-10-25T12:00", "2026-10-24T22:00", "2026-10-25T23:00", 25),
    ("America/New_York", "2026-03-08T15:00", "2026-03-08T05:00", "2026-03-09T04:00", 23),
    ("America/New_York", "2026-11-01T15:00", "2026-11-01T04:00", "2026-11-02T05:00", 25),
    # offsets of half and three quarters of an hour
    ("Asia/Kolkata", "2026-06-01T00:00", "2026-05-31T18:30", "2026-06-01T18:30", 24),
    ("Asia/Kathmandu", "2026-06-01T00:00", "2026-05-31T18:15", "2026-06-01T18:15", 24),
    ("Australia/Eucla", "2026-06-01T00:00", "2026-05-31T15:15", "2026-06-01T15:15", 24),
    ("Pacific/Chatham", "2026-06-01T00:00", "2026-05-31T11:15", "2026-06-01T11:15", 24),
    ("Pacific/Chatham", "2026-04-05T00:00", "2026-04-04T10:15", "2026-04-05T11:15", 25),
    # summer time of half an hour
    ("Australia/Lord_Howe", "2026-04-05T00:00", "2026-04-04T13:00", "2026-04-05T13:30", 24.5),
    ("Australia/Lord_Howe", "2026-10-04T00:00", "2026-10-03T13:30", "2026-10-04T13:00", 23.5),
    # both sides of the date line, at one instant
    ("Pacific/Kiritimati", "2026-01-01T00:00", "2025-12-31T10:00", "2026-01-01T10:00", 24),
    ("Pacific/Pago_Pago", "2026-01-01T00:00", "2025-12-31T11:00", "2026-01-01T11:00", 24),
    # midnight is skipped: the day begins at 01:00
    ("America/Santiago", "2024-09-08T12:00", "2024-09-08T04:00", "2024-09-09T03:00", 23),
    ("Asia/Beirut", "2022-03-27T12:00", "2022-03-26T22:00", "2022-03-27T21:00", 23),
    # turned back at midnight to 23:00: that hour is still yesterday's
    ("America/Santiago", "2024-04-06T12:00", "2024-04-06T03:00", "2024-04-07T04:00", 25),
    ("America/Santiago", "2024-04-07T03:30", "2024-04-06T03:00", "2024-04-07T04:00", 25),
    # midnight comes twice: the first counts
    ("America/Havana", "2026-11-01T12:00", "2026-11-01T04:00", "2026-11-02T05:00", 25),
    # turned back at 00:01: what is yesterday again is today's
    ("America/St_Johns", "2010-11-07T02:40", "2010-11-07T02:30", "2010-11-08T03:30", 25),
    ("America/St_Johns", "2010-11-07T02:30", "2010-11-07T02:30", "2010-11-08T03:30", 25),
    # Samoa went from 29 to 31 December 2011
    ("Pacific/Apia", "2011-12-30T09:59", "2011-12-29T10:00", "2011-12-30T10:00", 24),
    ("Pacific/Apia", "2011-12-30T10:00", "2011-12-30T10:00", "2011-12-31T10:00", 24),
    # Kwajalein skipped 21 August 1993, from -12 to +12
    ("Pacific/Kwajalein", "1993-08-21T11:59", "1993-08-20T12:00", "1993-08-21T12:00", 24),
    ("Pacific/Kwajalein", "1993-08-21T12:00", "1993-08-21T12:00", "1993-08-22T12:00", 24),
]


@pytest.mark.parametrize(("zone", "at", "start", "end", "hours"), DAYS)
def test_a_day_is_the_zones_own(zone: str, at: str, start: str, end: str, hours: float) -> None:
    found = budgets.window("day", zone, micros(at))
    assert found == Window(micros(start), micros(end))
    assert found.end - found.start == hours * HOUR


WINDOWS: list[tuple[Kind, str, str, str, str]] = [
    # 2026-01-01 is a Thursday; its ISO week is the first of 2026 and began in 2025
    ("week", "UTC", "2026-01-01T00:00", "2025-12-29T00:00", "2026-01-05T00:00"),
    ("week", "UTC", "2026-01-04T23:59", "2025-12-29T00:00", "2026-01-05T00:00"),
    ("week", "UTC", "2026-01-05T00:00", "2026-01-05T00:00", "2026-01-12T00:00"),
    ("week", "Europe/Berlin", "2026-03-29T10:00", "2026-03-22T23:00", "2026-03-29T22:00"),
    ("week", "Asia/Kolkata", "2026-03-29T18:29", "2026-03-22T18:30", "2026-03-29T18:30"),
    ("month", "UTC", "2024-02-29T23:59", "2024-02-01T00:00", "2024-03-01T00:00"),
    ("month", "UTC", "2100-02-28T23:59", "2100-02-01T00:00", "2100-03-01T00:00"),
    ("month", "America/New_York", "2026-03-01T04:59", "2026-02-01T05:00", "2026-03-01T05:00"),
    ("month", "America/New_York", "2026-03-31T05:00", "2026-03-01T05:00", "2026-04-01T04:00"),
    ("month", "Pacific/Kiritimati", "2026-01-31T10:00", "2026-01-31T10:00", "2026-02-28T10:00"),
    ("month", "Pacific/Apia", "2011-12-15T00:00", "2011-12-01T10:00", "2011-12-31T10:00"),
    ("quarter", "UTC", "2026-12-31T23:59", "2026-10-01T00:00", "2027-01-01T00:00"),
    ("quarter", "Europe/Berlin", "2026-06-30T21:59", "2026-03-31T22:00", "2026-06-30T22:00"),
    ("quarter", "Europe/Berlin", "2026-06-30T22:00", "2026-06-30T22:00", "2026-09-30T22:00"),
    ("year", "UTC", "2024-12-31T23:59", "2024-01-01T00:00", "2025-01-01T00:00"),
    ("year", "Asia/Tokyo", "2025-12-31T15:00", "2025-12-31T15:00", "2026-12-31T15:00"),
    ("year", "Pacific/Pago_Pago", "2026-01-01T10:59", "2025-01-01T11:00", "2026-01-01T11:00"),
]


@pytest.mark.parametrize(("kind", "zone", "at", "start", "end"), WINDOWS)
def test_a_window_is_the_calendars(kind: Kind, zone: str, at: str, start: str, end: str) -> None:
    assert budgets.window(kind, zone, micros(at)) == Window(micros(start), micros(end))


def test_one_window_is_all_of_time() -> None:
    assert budgets.window("total", "UTC", micros("2026-01-01T00:00")) == Window(0, budgets.FOREVER)


def test_the_last_instant_is_the_old_windows_and_the_next_the_new_ones() -> None:
    midnight = micros("2026-03-28T23:00")
    assert budgets.window("day", "Europe/Berlin", midnight - 1).end == midnight
    assert budgets.window("day", "Europe/Berlin", midnight).start == midnight


ZONES = st.sampled_from(sorted(zone for zone in zoneinfo.available_timezones() if "/" in zone))
KINDS = st.sampled_from(["day", "week", "month", "quarter", "year"])


@given(ZONES, KINDS, st.integers(micros("1975-01-01T00:00"), micros("2037-01-01T00:00")))
def test_windows_have_no_gaps_and_no_overlaps(zone: str, kind: Kind, at: int) -> None:
    found = budgets.window(kind, zone, at)
    assert found.start <= at < found.end
    assert budgets.window(kind, zone, found.start) == found
    assert budgets.window(kind, zone, found.end - 1) == found
    assert budgets.window(kind, zone, found.end).start == found.end
    assert budgets.window(kind, zone, found.start - 1).end == found.start
    assert found.start % 60_000_000 == 0  # rollups of minutes can sum it up
    local = dt.datetime.fromtimestamp(found.start // 10**6, zoneinfo.ZoneInfo(zone))
    before = dt.datetime.fromtimestamp(found.start // 10**6 - 1, zoneinfo.ZoneInfo(zone))
    assert before.date() < local.date()


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "America", "../etc/passwd", "/etc/x", "a\0b"])
def test_what_is_no_zone_is_refused(zone: str) -> None:
    with pytest.raises(BudgetError, match="IANA"):
        budgets.window("day", zone, 0)


@pytest.mark.parametrize("at", [-1, budgets.LATEST + 1])
def test_what_is_no_time_is_refused(at: int) -> None:
    with pytest.raises(BudgetError, match="allowed"):
        budgets.window("day", "UTC", at)


def test_the_last_time_has_all_its_windows() -> None:
    assert budgets.window("year", "Pacific/Kiritimati", budgets.LATEST).end > budgets.LATEST
    assert budgets.window("month", "Pacific/Pago_Pago", 0).start < 0


MONTHLY = Budget("b1", "acme", "tenant", "acme", "month", "UTC", 1000, "USD")


@pytest.mark.parametrize(
    "bad",
    [
        MONTHLY._replace(limit=-1),
        MONTHLY._replace(zone="x"),
        MONTHLY._replace(subject="other"),
        MONTHLY._replace(thresholds=(80, 50)),
        MONTHLY._replace(thresholds=(0, 50)),
        MONTHLY._replace(thresholds=(50, 50)),
        MONTHLY._replace(thresholds=(1001,)),
    ],
)
def test_a_budget_that_cannot_work_is_refused(bad: Budget) -> None:
    with pytest.raises(BudgetError, match="allowed"):
        budgets.check(bad)


def test_a_budget_covers_its_own() -> None:
    project = MONTHLY._replace(id="b2", scope="project", subject="web")
    key = MONTHLY._replace(id="b3", scope="key", subject="k1")
    euro = MONTHLY._replace(id="b4", currency="EUR")
    other = MONTHLY._replace(id="b5", tenant="umbrella", scope="project", subject="web")
    every = [budgets.check(one) for one in (MONTHLY, project, key, euro, other)]

    def ids(*event: str) -> list[str]:
        return [one.id for one in budgets.covering(every, *event)]

    assert ids("acme", "web", "k1", "USD") == ["b1", "b2", "b3"]
    assert ids("acme", "app", "k2", "USD") == ["b1"]
    assert ids("acme", "app", "k1", "EUR") == ["b4"]
    assert ids("umbrella", "web", "k1", "USD") == ["b5"]


def test_a_pot_is_of_one_window() -> None:
    march, april = micros("2026-03-31T23:59"), micros("2026-04-01T00:00")
    assert budgets.pot(MONTHLY, march) != budgets.pot(MONTHLY, april)
    assert budgets.pot(MONTHLY, march) == f"budget:b1:{micros('2026-03-01T00:00')}"
    assert budgets.left(MONTHLY, 1001) == -1


@pytest.mark.parametrize(
    ("before", "after", "thresholds"),
    [
        (0, 499, ()),
        (0, 500, (50,)),
        (499, 500, (50,)),
        (500, 799, ()),
        (500, 1500, (80, 100)),
        (0, 1000, (50, 80, 100)),
        (900, 700, ()),
        (1000, 10**9, ()),
    ],
)
def test_thresholds_lie_between_two_amounts(
    before: int, after: int, thresholds: tuple[int, ...]
) -> None:
    assert budgets.crossed(MONTHLY, before, after) == thresholds


def test_of_nothing_anything_is_too_much() -> None:
    nothing = MONTHLY._replace(limit=0)
    assert budgets.reached(nothing, 0) == ()
    assert budgets.reached(nothing, 1) == (50, 80, 100)


def test_what_was_told_in_a_window_is_not_told_again() -> None:
    first = budgets.alerts(MONTHLY, 7, 810, ())
    assert first == (Alert("b1", 7, 50, 810, 1000), Alert("b1", 7, 80, 810, 1000))
    sent = {one.threshold for one in first}
    assert budgets.alerts(MONTHLY, 7, 700, sent) == ()  # a correction lowers
    assert budgets.alerts(MONTHLY, 7, 900, sent) == ()  # and it is crossed again
    raised = MONTHLY._replace(limit=2000)
    assert budgets.alerts(raised, 7, 1700, sent) == ()  # 80 % was told, of another limit
    assert budgets.alerts(raised, 7, 2000, sent) == (Alert("b1", 7, 100, 2000, 2000),)
    lowered = MONTHLY._replace(limit=500)
    assert budgets.alerts(lowered, 7, 700, sent) == (Alert("b1", 7, 100, 700, 500),)
    assert len(budgets.alerts(MONTHLY, 8, 810, ())) == 2  # a new window tells anew


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("cost"), st.integers(-400, 900)),
        st.tuples(st.just("limit"), st.integers(0, 2000)),
    )
)


@given(STEPS)
def test_every_threshold_that_was_ever_reached_is_told_exactly_once(
    steps: list[tuple[str, int]],
) -> None:
    budget, spent = MONTHLY, 0
    told: list[int] = []
    seen: set[int] = set()
    for what, amount in steps:
        before = spent
        if what == "cost":
            spent = max(0, spent + amount)
            if not budgets.crossed(budget, before, spent):
                assert not set(budgets.reached(budget, spent)) - set(told)
                continue
        else:
            budget = budget._replace(limit=amount)
        told += [one.threshold for one in budgets.alerts(budget, 0, spent, told)]
        seen |= set(budgets.reached(budget, spent))
    assert sorted(told) == sorted(seen)
