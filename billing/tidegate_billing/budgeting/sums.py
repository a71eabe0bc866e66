"""What was spent in a window, from the rollups: days where whole days fit, then hours, then minutes.

A minute belongs to the window that it begins in, so windows split no minute: zones whose offset has
seconds are all of before 1973.
"""

from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, func, select

from tidegate_billing import money
from tidegate_billing.budgets import FOREVER, LATEST, Budget, Window
from tidegate_billing.rollup import DAY_MINUTES
from tidegate_billing.tables import ROLLUP_DAY, ROLLUP_HOUR, ROLLUP_MINUTE, SERIES

MINUTE = 60_000_000
HOUR_MINUTES = 60
LAST_MINUTE = LATEST // MINUTE // DAY_MINUTES * DAY_MINUTES
"""What is dated after this (the year 9892, by a clock that is wrong) is of no window."""
Part = tuple[Table, int, int]
"""A rollup, its first bucket, and the one that is not in it any more."""


def parts(window: Window) -> list[Part]:
    """The buckets that together are a window, and no other."""
    first = -(-window.start // MINUTE)
    if window.end == FOREVER:
        return [(ROLLUP_DAY, first // DAY_MINUTES, LAST_MINUTE // DAY_MINUTES)]
    return _between(first, -(-window.end // MINUTE))


def _between(first: int, last: int) -> list[Part]:
    """The buckets of minutes from `first` up to before `last`."""
    found: list[Part] = []
    for table, width, wider in (
        (ROLLUP_MINUTE, 1, HOUR_MINUTES),
        (ROLLUP_HOUR, HOUR_MINUTES, DAY_MINUTES),
    ):
        up, down = -(-first // wider) * wider, last // wider * wider
        if up >= down:
            return [*found, *_part(table, width, first, last)]
        found += [*_part(table, width, first, up), *_part(table, width, down, last)]
        first, last = up, down
    return [*found, *_part(ROLLUP_DAY, DAY_MINUTES, first, last)]


def _part(table: Table, width: int, first: int, last: int) -> list[Part]:
    return [(table, first // width, last // width)] if first < last else []


def computed(connection: Connection, budget: Budget, window: Window) -> int:
    """What the rollups say was spent (atto)."""
    total = 0
    mine = covered(budget)
    for table, first, last in parts(window):
        # Whole units by themselves: SQLite's sum of nano-units has an end that a year may reach.
        nano = table.c.amount_nano
        sums = [func.sum(part) for part in (nano // money.NANO, nano % money.NANO)]
        sums.append(func.sum(table.c.amount_atto))
        query = (
            select(*sums)
            .join_from(SERIES, table, table.c.series == SERIES.c.id)
            .where(
                SERIES.c.tenant == budget.tenant,
                *mine,
                table.c.bucket >= first,
                table.c.bucket < last,
            )
        )
        units, nanos, rest = (int(part or 0) for part in connection.execute(query).one())
        total += units * money.ATTO + money.whole(nanos, rest)
    return total


def covered(budget: Budget) -> list[ColumnElement[Any]]:
    """The series that count, among those of the budget's tenant."""
    mine: list[ColumnElement[Any]] = [SERIES.c.currency == budget.currency]
    if budget.scope == "project":
        mine.append(SERIES.c.project == budget.subject)
    elif budget.scope == "key":
        mine.append(SERIES.c.key_id == budget.subject)
    return mine
