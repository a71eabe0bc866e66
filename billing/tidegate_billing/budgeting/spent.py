"""What was spent of budgets, kept beside the rollups and never behind them.

A row of `budget_spent` is a window of a budget. It is made by adding up the rollups when somebody
first asks for it, and from then on every entry of the ledger adds to it in its own transaction.
So the table may be emptied at any time. What was told is in `budget_alert`, and stays.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, bindparam, insert, select, update

from tidegate_billing import budgets, money
from tidegate_billing.budgeting import rows, sums, telling
from tidegate_billing.budgeting.tables import BUDGET, BUDGET_SPENT
from tidegate_billing.budgets import Budget, Window
from tidegate_billing.rollup import Totals
from tidegate_billing.tables import SUMS

_NANO, _ATTO = SUMS.index("amount_nano"), SUMS.index("amount_atto")
CHUNK = 500
"""Budgets named in one statement."""


class Change(NamedTuple):
    """What was spent in a window, before and after. `fresh`: it has no row yet; `current`: it is one of
    the budget's zone of now."""

    budget: Budget
    window: Window
    before: int
    after: int
    fresh: bool
    current: bool


class Drift(NamedTuple):
    """A window whose row is not what the rollups say. Amounts are atto."""

    budget: str
    start: int
    kept: int
    computed: int


Subject = tuple[str, str, str, str]
"""Tenant, currency, scope and subject."""
Amounts = dict[int, int]
"""Atto by the minute (since the epoch) that they were spent in."""


def post(connection: Connection, totals: Totals, now: int) -> None:
    """Add to the windows of every budget what was just added to the rollups, and tell what that
    reaches. To be called after `rollup.post`, with the same totals."""
    amounts = _by_subject(totals)
    if not amounts:
        return
    live = rows.live(connection, {tenant for tenant, *_ in amounts})
    spent = {one: mine for one in live if (mine := amounts.get(_subject(one)))}
    if not spent:
        return
    kept = _kept(connection, spent)
    changes = [
        change
        for budget, mine in spent.items()
        for change in _changes(connection, budget, mine, kept.get(budget.id, []))
    ]
    _write(connection, changes)
    for change in changes:
        budget, window = change.budget, change.window
        # What was over before a budget was made is nothing that it has to tell.
        told = change.current and window.end > live[budget]
        if told and budgets.crossed(budget, change.before, change.after):
            telling.tell(connection, budget, window, change.after, now)


def _by_subject(totals: Totals) -> dict[Subject, Amounts]:
    """What was spent, by all that a budget may be of (`budgets.covers`)."""
    found: dict[Subject, Amounts] = {}
    for (series, minute), values in totals.items():
        amount = money.whole(values[_NANO], values[_ATTO])
        if amount and minute < sums.LAST_MINUTE:
            for scope, subject in (
                ("tenant", series.tenant),
                ("project", series.project),
                ("key", series.key_id),
            ):
                mine = found.setdefault((series.tenant, series.currency, scope, subject), {})
                mine[minute] = mine.get(minute, 0) + amount
    return found


def _subject(budget: Budget) -> Subject:
    return (budget.tenant, budget.currency, budget.scope, budget.subject)


def _kept(connection: Connection, spent: Mapping[Budget, Amounts]) -> "dict[str, list[Row[Any]]]":
    """Rows that may have to change, by budget."""
    ids = sorted(budget.id for budget in spent)
    minutes = [minute for mine in spent.values() for minute in mine]
    first, last = min(minutes) * sums.MINUTE, max(minutes) * sums.MINUTE
    found: dict[str, list[Row[Any]]] = {}
    for place in range(0, len(ids), CHUNK):
        query = select(BUDGET_SPENT).where(
            BUDGET_SPENT.c.budget.in_(ids[place : place + CHUNK]),
            BUDGET_SPENT.c.start <= last,
            BUDGET_SPENT.c.finish > first,
        )
        for row in connection.execute(query):
            found.setdefault(row.budget, []).append(row)
    return found


def _changes(
    connection: Connection, budget: Budget, mine: Amounts, kept: "Sequence[Row[Any]]"
) -> list[Change]:
    """The windows of one budget that change."""
    known = {Window(row.start, row.finish): _amount(row) for row in kept}
    current = _windows(budget, mine)
    found = []
    for window in sorted({*current, *known}):
        more = sum(a for minute, a in mine.items() if _in(window, minute * sums.MINUTE))
        before = known.get(window)
        if before is None:  # the rollups have it already
            after = sums.computed(connection, budget, window)
            found.append(Change(budget, window, after - more, after, fresh=True, current=True))
        elif more:
            there = window in current
            found.append(Change(budget, window, before, before + more, fresh=False, current=there))
    return found


def _write(connection: Connection, changes: Iterable[Change]) -> None:
    fresh: list[dict[str, object]] = []
    more: list[dict[str, object]] = []
    for change in changes:
        units, atto = divmod(change.after, money.ATTO)
        key = {"b": change.budget.id, "s": change.window.start, "f": change.window.end}
        (fresh if change.fresh else more).append({**key, "u": units, "a": atto})
    keys: dict[str, Any] = {
        "budget": bindparam("b"),
        "start": bindparam("s"),
        "finish": bindparam("f"),
    }
    amounts: dict[str, Any] = {"units": bindparam("u"), "atto": bindparam("a")}
    if fresh:
        connection.execute(insert(BUDGET_SPENT).values({**keys, **amounts}), fresh)
    if more:
        mine = [BUDGET_SPENT.c[name] == value for name, value in keys.items()]
        connection.execute(update(BUDGET_SPENT).where(*mine).values(amounts), more)


def _windows(budget: Budget, minutes: Iterable[int]) -> set[Window]:
    """The windows, as the budget has them now, that minutes lie in."""
    found: set[Window] = set()
    last = Window(0, 0)
    for minute in sorted(minutes):
        at = minute * sums.MINUTE
        if not _in(last, at):
            last = budgets.window(budget.kind, budget.zone, at)
            found.add(last)
    return found


def _in(window: Window, at: int) -> bool:
    return window.start <= at < window.end


def _amount(row: "Row[Any]") -> int:
    return int(row.units) * money.ATTO + int(row.atto)


def spent(connection: Connection, budget: Budget, start: int) -> int:
    """What was spent (atto) in the window of a budget that begins at `start` (microseconds)."""
    window = budgets.window(budget.kind, budget.zone, max(start, 0))
    row = connection.execute(
        select(BUDGET_SPENT).where(
            BUDGET_SPENT.c.budget == budget.id,
            BUDGET_SPENT.c.start == window.start,
            BUDGET_SPENT.c.finish == window.end,
        )
    ).first()
    return sums.computed(connection, budget, window) if row is None else _amount(row)


def hard(connection: Connection, tenant: str) -> list[Budget]:
    """The hard budgets of a tenant, of its projects and of its keys."""
    query = rows.with_zone().where(BUDGET.c.tenant == tenant, BUDGET.c.hard)
    found = connection.execute(query.order_by(BUDGET.c.seq))
    return [rows.budget_of(row) for row in found]


def review(connection: Connection, budget: Budget, now: int) -> None:
    """Tell what a budget's window of now has reached: it was made or changed over usage."""
    window = budgets.window(budget.kind, budget.zone, now)
    telling.tell(connection, budget, window, spent(connection, budget, window.start), now)


def drift(connection: Connection, since: int = 0) -> list[Drift]:
    """Windows that were not over at `since` (microseconds) and whose rows are not what the rollups
    say: none, unless something is broken."""
    # every tenant: the platform's own check
    live = {row.id: rows.budget_of(row) for row in connection.execute(rows.with_zone())}
    kept = connection.execute(select(BUDGET_SPENT).where(BUDGET_SPENT.c.finish > since)).all()
    found = []
    for row in kept:
        if row.budget in live:
            window = Window(row.start, row.finish)
            computed = sums.computed(connection, live[row.budget], window)
            if computed != _amount(row):
                found.append(Drift(row.budget, row.start, _amount(row), computed))
    return found
