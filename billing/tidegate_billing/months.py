"""Calendar months (UTC) as `YYYY-MM`, and what is in them: the one place of their arithmetic."""

import datetime as dt
from typing import Final

EPOCH: Final = dt.date(1970, 1, 1)


def moved(month: str, by: int) -> str:
    """The month so many months later; below 0: earlier."""
    year, number = map(int, month.split("-"))
    months = year * 12 + number - 1 + by
    return f"{months // 12:04d}-{months % 12 + 1:02d}"


def listed(first: str, last: str) -> list[str]:
    """The months from `first` to `last`, both included."""
    found = [first]
    while found[-1] < last:
        found.append(moved(found[-1], 1))
    return found


def numbers(month: str) -> tuple[int, int]:
    """A month's first day in days since the epoch, and that of the month after it."""
    first, after = (
        (dt.date.fromisoformat(f"{one}-01") - EPOCH).days for one in (month, moved(month, 1))
    )
    return first, after


def days(month: str) -> tuple[str, str]:
    """The first and the last day of a month, `YYYY-MM-DD`."""
    _, after = numbers(month)
    return f"{month}-01", (EPOCH + dt.timedelta(days=after - 1)).isoformat()
