"""A tenant's usage and costs from the rollups, in as few queries as a page has kinds of buckets.

Every query names the tenant. What is counted is what is on the bill: billed and priced, as in
`ledger.usage`; so the kinds of usage together are the costs' tokens.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Select, func, select
from sqlalchemy.engine import Row

from tidegate_billing import ledger, line_items, money, tariff, tenant_page
from tidegate_billing.tables import ROLLUP_DAY, ROLLUP_HOUR, ROLLUP_MINUTE, SERIES, SUMS
from tidegate_billing.tenant_page import MOST_RESULTS, Cost, Found, Piece
from tidegate_billing.tenant_query import CLAIMED, DAY, HOUR, MINUTE, QueryError, Question

_ROLLUPS: Final = {MINUTE: ROLLUP_MINUTE, HOUR: ROLLUP_HOUR, DAY: ROLLUP_DAY}
_GROUPS: Final = {
    "project_id": SERIES.c.project,
    "api_key_id": SERIES.c.key_id,
    "model": SERIES.c.model,
}
_FILTERS: Final = {
    "project_ids": SERIES.c.project,
    "api_key_ids": SERIES.c.key_id,
    "models": SERIES.c.model,
}


def answer(connection: Connection, tenant: str, question: Question) -> dict[str, object]:
    """The page that answers a tenant's question. Raises QueryError where it would be too large."""
    if question.kind.money:
        return _costs(connection, tenant, question)
    rows = _rows(connection, tenant, question, [_GROUPS[name] for name in question.groups])
    found = (
        Found(start, _named(question, row), {name: int(getattr(row, name)) for name in SUMS})
        for start, row in rows
    )
    results = ((one.start, tenant_page.usage_result(question, one)) for one in found)
    return _page(question, rows, results)


def _costs(connection: Connection, tenant: str, question: Question) -> dict[str, object]:
    by_item = "line_item" in question.groups or "line_items" in question.filters
    groups = [_GROUPS[name] for name in question.groups if name in _GROUPS]
    items = [SERIES.c.model, SERIES.c.rated_version] if by_item else []
    rows = _rows(connection, tenant, question, [*groups, *items, SERIES.c.currency])
    if by_item:
        costs = _itemized(connection, question, rows)
    else:
        costs = [
            Cost(start, _named(question, row), row.currency, _cost(row)) for start, row in rows
        ]
    results = (
        (one.start, tenant_page.cost_result(question, one)) for one in _merged(question, costs)
    )
    return _page(question, rows, results)


def _page(
    question: Question,
    rows: Sequence[tuple[int, "Row[Any]"]],
    results: Iterable[tuple[int, dict[str, object]]],
) -> dict[str, object]:
    shown, full = tenant_page.cut(question, (start for start, _ in rows))
    if full:
        raise QueryError(
            "group_by", f"makes more than {MOST_RESULTS} results in a bucket; allowed: fewer groups"
        )
    return tenant_page.page(question, shown, results)


def _rows(
    connection: Connection, tenant: str, question: Question, group: list[Any]
) -> list[tuple[int, "Row[Any]"]]:
    """Sums by bucket and group, each with the start of its bucket, in that order.

    No more are read than a page may have and one, which tells that there are more."""
    found: list[tuple[int, Row[Any]]] = []
    for piece in tenant_page.pieces(tenant_page.buckets(question), question.width):
        query = _piece(tenant, question, piece, group).limit(MOST_RESULTS + 1 - len(found))
        found += [
            (row.at * piece.width if piece.into is None else piece.into, row)
            for row in connection.execute(query)
        ]
        if len(found) > MOST_RESULTS:
            break
    return found


def _piece(tenant: str, question: Question, piece: Piece, group: list[Any]) -> "Select[Any]":
    table = _ROLLUPS[piece.width]
    sums = [func.sum(table.c[name]).label(name) for name in SUMS]
    at = func.min(table.c.bucket).label("at")
    keys = group if piece.into is not None else [table.c.bucket, *group]
    # Tiers may leave money in a bucket whose every event was priced again; so both are looked at.
    something = (func.sum(table.c.requests) != 0) | (func.sum(table.c.amount_nano) != 0)
    something |= func.sum(table.c.amount_atto) != 0
    query = (
        select(at, *group, *sums)
        .join_from(SERIES, table, table.c.series == SERIES.c.id)
        .where(
            SERIES.c.tenant == tenant,
            SERIES.c.billed,
            SERIES.c.rated_version > 0,
            table.c.bucket.between(piece.first, piece.last),
            *_filters(question),
        )
    )
    return query.group_by(*keys).order_by(*keys).having(something)


def _filters(question: Question) -> list[Any]:
    endpoints = question.kind.endpoints
    found: list[Any] = [
        column.in_(question.filters[name])
        for name, column in _FILTERS.items()
        if name in question.filters
    ]
    if endpoints is not None:
        found.append(SERIES.c.endpoint.in_(sorted(endpoints)))
    elif not question.kind.money:
        # A replica's time came by no endpoint: it is money, and nobody's usage.
        found.append(SERIES.c.endpoint.not_in(["", *sorted(CLAIMED)]))
    return found


def _named(question: Question, row: "Row[Any]") -> dict[str, str]:
    return {name: getattr(row, _GROUPS[name].name) for name in question.groups if name in _GROUPS}


def _cost(row: "Row[Any]") -> int:
    return money.whole(int(row.amount_nano), int(row.amount_atto))


def _itemized(
    connection: Connection, question: Question, rows: Sequence[tuple[int, "Row[Any]"]]
) -> list[Cost]:
    rates = tariff.tariffs(connection, {(row.rated_version, row.model) for _, row in rows})
    wanted = question.filters.get("line_items")
    found = []
    for start, row in rows:
        rate, model = rates[row.rated_version].rate, row.model
        for item in line_items.split(model, rate, ledger.metered(row, rate), _cost(row)):
            if wanted is None or item.name in wanted:
                group = {**_named(question, row), "line_item": item.name}
                found.append(Cost(start, group, row.currency, *item[1:]))
    return found


def _merged(question: Question, costs: Iterable[Cost]) -> list[Cost]:
    """One of each group and currency: a price that changed makes no second line of the same name."""
    found: dict[tuple[object, ...], Cost] = {}
    for cost in costs:
        group = {name: cost.group[name] for name in question.groups}
        key = (cost.start, *group.values(), cost.currency)
        seen = found.get(key)
        found[key] = _sum(cost._replace(group=group), seen)
    whole = "line_item" in question.groups
    return [found[key] if whole else found[key]._replace(unit=None) for key in sorted(found)]


def _sum(cost: Cost, seen: Cost | None) -> Cost:
    if seen is None:
        return cost
    unit = cost.unit if cost.unit == seen.unit else None
    return cost._replace(
        amount=cost.amount + seen.amount, quantity=cost.quantity + seen.quantity, unit=unit
    )
