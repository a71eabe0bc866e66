"""Budgets: how much may be spent in a window of the calendar, and who is told when it nears.

A budget covers a tenant, one of its projects or one of its keys. Its windows are days, ISO weeks
(from Monday), months, quarters or years as the tenant's own calendar has them, or all of time. An
event belongs to the window that its attempt began in, whenever it arrives; money is in the budget's currency.

**Where a day begins.** At the first instant at which the zone's date is that day. Mostly that is
midnight, but there are zones whose clocks skip midnight (Santiago, Beirut: the day begins at 01:00),
pass it twice (Havana: the first counts; St. John's turned back at 00:01, and the hour that
was yesterday again belongs to today), or skip the day (Samoa's 30 December 2011 has no instants). So
windows have no gaps and no overlaps, and a day has 23, 24 or 25 hours, or 24.5 on Lord Howe.

A hard budget is a pot (`leases`) per window, with `limit - spent` in it. A soft one only tells.

Times are microseconds since the epoch, amounts are atto (`money`).
"""

import datetime as dt
import functools
import zoneinfo
from collections.abc import Collection, Iterable
from typing import Final, Literal, NamedTuple

Kind = Literal["day", "week", "month", "quarter", "year", "total"]
Scope = Literal["tenant", "project", "key"]
FOREVER: Final = 2**63 - 1
THRESHOLDS: Final = (50, 80, 100)
"""Percent of the limit at which a budget tells, unless it says otherwise."""
LATEST: Final = 250_000_000_000_000_000
"""No time is after this (the year 9892): a window's end must still be a date."""
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_SECOND: Final = dt.timedelta(seconds=1)
_MONTHS: Final = {"month": 1, "quarter": 3, "year": 12}


class BudgetError(ValueError):
    """A budget can't be; the message says what is allowed."""


class Window(NamedTuple):
    """From `start` on, and no longer at `end`."""

    start: int
    end: int


class Budget(NamedTuple):
    """`subject`: the id of the tenant, project or key that it covers."""

    id: str
    tenant: str
    scope: Scope
    subject: str
    kind: Kind
    zone: str
    limit: int
    currency: str
    hard: bool = False
    thresholds: tuple[int, ...] = THRESHOLDS


class Alert(NamedTuple):
    """A threshold (percent) was reached. Its three names are unique: there is one such alert, ever."""

    budget: str
    start: int
    threshold: int
    spent: int
    limit: int


def check(budget: Budget) -> Budget:
    """The budget itself. Raises BudgetError where it can't work."""
    _zone(budget.zone)
    if budget.limit < 0:
        raise BudgetError("a limit below 0; allowed: 0 and more")
    if budget.scope == "tenant" and budget.subject != budget.tenant:
        raise BudgetError("a tenant's budget for somebody else; allowed: the tenant as its subject")
    if list(budget.thresholds) != sorted({t for t in budget.thresholds if 0 < t <= 1000}):
        raise BudgetError(
            f"thresholds {list(budget.thresholds)!r}; allowed: percents from 1 to 1000, rising"
        )
    return budget


@functools.lru_cache(maxsize=256)
def _zone(name: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BudgetError(
            f"{name[:80]!r} is not a time zone; allowed: an IANA name like Europe/Berlin"
        ) from error


def window(kind: Kind, zone: str, at: int) -> Window:
    """The window of the calendar that an instant lies in. Raises BudgetError."""
    if not 0 <= at <= LATEST:
        raise BudgetError(f"a time of {at}; allowed: microseconds from 1970 to 9892")
    if kind == "total":
        return Window(0, FOREVER)
    local = (_EPOCH + dt.timedelta(microseconds=at)).astimezone(_zone(zone))
    first = _first(kind, local.date())
    start, end = _begins(zone, first), _begins(zone, _next(kind, first))
    while at >= end:  # an hour that is yesterday again, or a day that has no instants
        first = _next(kind, first)
        start, end = end, _begins(zone, _next(kind, first))
    return Window(start, end)


def _first(kind: Kind, day: dt.date) -> dt.date:
    """The first day of the window that a day lies in."""
    if kind == "day":
        return day
    if kind == "week":
        return day - dt.timedelta(days=day.weekday())
    months = _MONTHS[kind]
    return day.replace(month=(day.month - 1) // months * months + 1, day=1)


def _next(kind: Kind, first: dt.date) -> dt.date:
    """The first day of the window after the one that begins on `first`."""
    if kind in {"day", "week"}:
        return first + dt.timedelta(days=1 if kind == "day" else 7)
    months = first.month - 1 + _MONTHS[kind]
    return first.replace(year=first.year + months // 12, month=months % 12 + 1)


@functools.lru_cache(maxsize=4096)
def _begins(zone: str, day: dt.date) -> int:
    """The first instant at which the zone's date is `day`, or past it."""
    where = _zone(zone)
    midnight = dt.datetime(day.year, day.month, day.day, tzinfo=where)
    first, second = (midnight.replace(fold=fold).astimezone(dt.UTC) for fold in (0, 1))
    if first > second:  # midnight is skipped, and lies between these readings of it
        first = _jump(where, second, first)
    return (first - _EPOCH) // dt.timedelta(microseconds=1)


def _jump(where: zoneinfo.ZoneInfo, before: dt.datetime, after: dt.datetime) -> dt.datetime:
    """When, after `before` and by `after`, the zone's offset becomes that of `after`."""
    offset = after.astimezone(where).utcoffset()
    while after - before > _SECOND:
        middle = before + ((after - before) // 2 // _SECOND or 1) * _SECOND
        if middle.astimezone(where).utcoffset() == offset:
            after = middle
        else:
            before = middle
    return after


def covers(budget: Budget, tenant: str, project: str, key_id: str, currency: str) -> bool:
    """Whether what this key spends counts against a budget."""
    if budget.tenant != tenant or budget.currency != currency:
        return False
    return budget.subject == {"tenant": tenant, "project": project, "key": key_id}[budget.scope]


def covering(
    budgets: Iterable[Budget], tenant: str, project: str, key_id: str, currency: str
) -> list[Budget]:
    """The budgets that what this key spends counts against."""
    return [one for one in budgets if covers(one, tenant, project, key_id, currency)]


def pot(budget: Budget, at: int) -> str:
    """The name of a hard budget's pot in the window of an instant: a new window is a new pot, so
    that what began before midnight is paid for by the day it began in."""
    return f"budget:{budget.id}:{window(budget.kind, budget.zone, at).start}"


def left(budget: Budget, spent: int) -> int:
    """What is left of a window's limit; below zero it was overrun."""
    return budget.limit - spent


def reached(budget: Budget, spent: int) -> tuple[int, ...]:
    """The thresholds that `spent` has come up to. Of a limit of 0 anything is more than all."""
    if not budget.limit:
        return budget.thresholds if spent > 0 else ()
    return tuple(one for one in budget.thresholds if spent * 100 >= budget.limit * one)


def crossed(budget: Budget, before: int, after: int) -> tuple[int, ...]:
    """The thresholds that lie between two spent amounts: mostly none, and then nothing else need be
    looked up."""
    known = reached(budget, before)
    return tuple(one for one in reached(budget, after) if one not in known)


def alerts(budget: Budget, start: int, spent: int, sent: Collection[int]) -> tuple[Alert, ...]:
    """What is to be told, rising. `sent`: thresholds told already in this window (the one that begins at
    `start`), whatever the limit was then.

    To be asked after every change of `spent` that crosses something, and after every change of the
    budget: one event may cross several; after a correction that lowers, what is crossed again is
    known; a limit that is lowered may be reached at once, and one that is raised tells only what
    was not told before.
    """
    return tuple(
        Alert(budget.id, start, one, spent, budget.limit)
        for one in reached(budget, spent)
        if one not in sent
    )
