"""Questions to the ledger: usage, invoices and single events.

Amounts are never summed in SQL, whose numbers are not exact: tokens are summed by price version,
and money is computed from the sums. That equals the sum over events, because a price is linear.
"""

from collections.abc import Collection, Iterator
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, func, select

from tidegate_billing import price, pricebook
from tidegate_billing.invoice import Rated
from tidegate_billing.price import Price, Quantities
from tidegate_billing.tables import EVENT, JOURNAL

DIMENSIONS = ("model", "key", "day")
_COLUMN = {"model": EVENT.c.model, "key": EVENT.c.key_id, "day": EVENT.c.day}
_ON_INVOICES = and_(
    EVENT.c.kind == "settlement", EVENT.c.billed, EVENT.c.rated_version.is_not(None)
)
EVENT_FIELDS = (
    "event_id attempt_id request_id kind tenant project key_id model adapter billed reason source"
    " outcome prompt_tokens cached_tokens completion_tokens reasoning_tokens amount currency"
    " started_at finished_at deployment replica client_request_id endpoint price_version"
)


class _Sums(NamedTuple):
    group: tuple[str, ...]
    version: int
    requests: int
    prompt: int
    cached: int
    completion: int
    reasoning: int
    cached_billed: int


class EventFilter(NamedTuple):
    """Which events to list; None: any. `kind` always says one."""

    kind: str = "settlement"
    tenant: str | None = None
    request_id: str | None = None
    reason: str | None = None


def _sums(
    connection: Connection, group: list[ColumnElement[str]], where: ColumnElement[bool]
) -> Iterator[_Sums]:
    sums = [
        func.count(),
        func.sum(EVENT.c.prompt_tokens),
        func.sum(EVENT.c.cached_tokens),
        func.sum(EVENT.c.completion_tokens),
        func.sum(EVENT.c.reasoning_tokens),
        func.sum(EVENT.c.cached_billed),
    ]
    query = (
        select(EVENT.c.rated_version, *sums, *group)
        .where(_ON_INVOICES, where)
        .group_by(EVENT.c.rated_version, *group)
    )
    for row in connection.execute(query):
        version, *numbers = (int(value) for value in row[:7])
        yield _Sums(tuple(row[7:]), version, *numbers)


def _quantities(sums: _Sums) -> Quantities:
    return Quantities(sums.prompt - sums.cached_billed, sums.cached_billed, sums.completion)


def _prices(connection: Connection, sums: list[_Sums]) -> dict[int, Price]:
    found = pricebook.versions(connection, {one.version for one in sums})
    return {number: one.price for number, one in found.items() if one.price is not None}


def usage(
    connection: Connection, *, tenant: str, first: str, last: str, by: Collection[str]
) -> list[dict[str, object]]:
    """Billed usage from day `first` to day `last`, both included, grouped by some DIMENSIONS."""
    chosen = [name for name in DIMENSIONS if name in by]
    where = and_(
        EVENT.c.tenant == tenant,
        EVENT.c.attempt_month.between(first[:7], last[:7]),
        EVENT.c.day.between(first, last),
    )
    sums = list(_sums(connection, [_COLUMN[name] for name in chosen], where))
    prices = _prices(connection, sums)
    totals: dict[tuple[tuple[str, ...], str], list[_Sums]] = {}
    for one in sums:
        totals.setdefault((one.group, prices[one.version].currency), []).append(one)
    rows = []
    for (group, currency), parts in sorted(totals.items()):
        named = dict(zip(chosen, group, strict=True))
        rows.append(_usage_row(named, currency, parts, prices))
    return rows


def _usage_row(
    named: dict[str, str], currency: str, parts: list[_Sums], prices: dict[int, Price]
) -> dict[str, object]:
    cost = Decimal(0)
    for part in parts:
        cost = price.add(cost, price.amount(_quantities(part), prices[part.version]))
    return {
        "model": named.get("model"),
        "key_id": named.get("key"),
        "day": named.get("day"),
        "requests": sum(part.requests for part in parts),
        "prompt_tokens": sum(part.prompt for part in parts),
        "cached_tokens": sum(part.cached for part in parts),
        "completion_tokens": sum(part.completion for part in parts),
        "reasoning_tokens": sum(part.reasoning for part in parts),
        "amount_exact": price.plain(cost),
        "currency": currency,
    }


def rated(connection: Connection, tenant: str, month: str) -> list[Rated]:
    """What a tenant's invoice for `month` (`YYYY-MM`) is made of."""
    where = and_(EVENT.c.tenant == tenant, EVENT.c.attempt_month == month)
    sums = list(_sums(connection, [EVENT.c.model], where))
    prices = _prices(connection, sums)
    return [Rated(one.group[0], prices[one.version], _quantities(one)) for one in sums]


def parked(connection: Connection, tenant: str | None = None) -> int:
    """How many billed events wait for a price."""
    query = select(func.count()).select_from(EVENT).where(EVENT.c.billed, EVENT.c.amount.is_(None))
    if tenant is not None:
        query = query.where(EVENT.c.tenant == tenant)
    return int(connection.execute(query).scalar_one())


def unshipped(connection: Connection) -> int:
    """Records that routers said they hold and have not shipped, by their newest word."""
    return int(connection.execute(select(func.sum(JOURNAL.c.unshipped))).scalar() or 0)


def events(
    connection: Connection, which: EventFilter, *, limit: int, after: str | None
) -> list[dict[str, object]] | None:
    """Events in the order they came; None: no event is `after`."""
    columns = [EVENT.c[name] for name in EVENT_FIELDS.split()]
    query = select(*columns).where(EVENT.c.kind == which.kind).order_by(EVENT.c.id).limit(limit)
    for name in ("tenant", "request_id", "reason"):
        value = getattr(which, name)
        if value is not None:
            query = query.where(EVENT.c[name] == value)
    if after is not None:
        seen = connection.execute(select(EVENT.c.id).where(EVENT.c.event_id == after)).scalar()
        if seen is None:
            return None
        query = query.where(EVENT.c.id > seen)
    listed = []
    for row in connection.execute(query):
        shown = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented way to a dict
        shown["amount_exact"] = shown.pop("amount")
        listed.append(shown)
    return listed
