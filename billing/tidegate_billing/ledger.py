"""Questions to the ledger: usage, invoices and single events.

Usage and invoices read the rollups only (`rollup`), whose amounts SQL can sum exactly (`money`). An
event shows what it costs now: its first rating, or what its newest adjustment says.
"""

import datetime as dt
from collections.abc import Collection
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, func, or_, select

from tidegate_billing import adjust, money, months, tariff
from tidegate_billing.months import EPOCH
from tidegate_billing.rates import lines, meters
from tidegate_billing.rates.lines import Total
from tidegate_billing.rates.meters import Quantities
from tidegate_billing.rates.pipeline import Rate
from tidegate_billing.tables import EVENT, JOURNAL, PARKED, ROLLUP_DAY, SERIES
from tidegate_billing.usage import DAY_MS, attempt_month

DIMENSIONS = ("model", "key", "day")
_COLUMN = {"model": SERIES.c.model, "key": SERIES.c.key_id, "day": ROLLUP_DAY.c.bucket}
_SUMMED = (
    "requests",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "amount_nano",
    "amount_atto",
)
EVENT_FIELDS = [
    "event_id",
    "attempt_id",
    "request_id",
    "kind",
    "tenant",
    "project",
    "key_id",
    "model",
    "adapter",
    "billed",
    "reason",
    "source",
    "outcome",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "cold_start_ms",
    "serving_ms",
    "idle_tail_ms",
    "started_at",
    "finished_at",
    "deployment",
    "replica",
    "client_request_id",
    "endpoint",
    "price_version",
]
_RATING = "attempt_month rated_version cached_billed reasoning_billed amount_nano amount_atto currency".split()  # noqa: SIM905 - as above


class EventFilter(NamedTuple):
    """Which events to list; None: any. `kind` always says one."""

    kind: str = "settlement"
    tenant: str | None = None
    request_id: str | None = None
    reason: str | None = None


def _billed(tenant: str, first: str, last: str, columns: list[Any]) -> "Select[Any]":
    """Columns of a tenant's billed and rated days, from `first` to `last`, both included."""
    return (
        select(*columns)
        .join_from(SERIES, ROLLUP_DAY, ROLLUP_DAY.c.series == SERIES.c.id)
        .where(
            SERIES.c.tenant == tenant,
            SERIES.c.billed,
            SERIES.c.rated_version > 0,
            ROLLUP_DAY.c.bucket.between(day_number(first), day_number(last)),
        )
    )


def _sum(name: str) -> Any:
    return func.sum(ROLLUP_DAY.c[name]).label(name)


def day_number(day: str) -> int:
    """Days since the epoch of `YYYY-MM-DD`."""
    return (dt.date.fromisoformat(day) - EPOCH).days


def day_text(number: int) -> str:
    """`YYYY-MM-DD` of days since the epoch."""
    return (EPOCH + dt.timedelta(days=number)).isoformat()


def usage(
    connection: Connection, *, tenant: str, first: str, last: str, by: Collection[str]
) -> list[dict[str, object]]:
    """Billed usage from day `first` to day `last`, both included, grouped by some DIMENSIONS."""
    chosen = [name for name in DIMENSIONS if name in by]
    group = [*(_COLUMN[name] for name in chosen), SERIES.c.currency]
    query = _billed(tenant, first, last, [*group, *(_sum(name) for name in _SUMMED)])
    # A series that was rated and later re-rated is left with nothing in it, or, under tiers, with
    # money and no requests: what is left of the month got dearer or cheaper.
    query = (
        query.group_by(*group)
        .order_by(*group)
        .having(or_(*(_sum(name) != 0 for name in ("requests", "amount_nano", "amount_atto"))))
    )
    return [_usage_row(chosen, row) for row in connection.execute(query)]


def _usage_row(chosen: list[str], row: Any) -> dict[str, object]:
    named = dict(zip(chosen, row, strict=False))
    day = named.get("day")
    return {
        "model": named.get("model"),
        "key_id": named.get("key"),
        "day": None if day is None else day_text(day),
        **{name: int(getattr(row, name)) for name in _SUMMED[:5]},
        "amount_exact": money.plain(money.whole(int(row.amount_nano), int(row.amount_atto))),
        "currency": row.currency,
    }


def totals(connection: Connection, tenant: str, month: str) -> list[Total]:
    """What a tenant's invoice for `month` (`YYYY-MM`) is made of: quantities by rate."""
    first, last = months.days(month)
    group = [SERIES.c.rated_version]
    sums = [func.min(SERIES.c.model).label("model"), *(_sum(name) for name in _METERED)]
    query = _billed(tenant, first, last, [*group, *sums])
    rows = connection.execute(query.group_by(*group).order_by(*group)).all()
    rates = tariff.tariffs(connection, {(row.rated_version, row.model) for row in rows})
    found = []
    for row in rows:
        rate = rates[row.rated_version].rate
        found.append(Total(row.rated_version, rate, metered(row, rate)))
    return found


_METERED = (
    *("requests", "prompt_tokens", "completion_tokens", "audio_ms", "images"),
    *("cold_start_ms", "serving_ms", "idle_tail_ms", "cached_billed", "reasoning_billed"),
)


def metered(row: Any, rate: Rate) -> Quantities:
    """The quantities of a rollup's sums as they were billed by `rate`, each once."""
    cached, reasoning = int(row.cached_billed), int(row.reasoning_billed)
    time = meters.replica_time(
        rate.apart.shares, int(row.cold_start_ms), int(row.serving_ms), int(row.idle_tail_ms)
    )
    return Quantities(
        input=int(row.prompt_tokens) - cached,
        cached_input=cached,
        output=int(row.completion_tokens) - reasoning,
        reasoning=reasoning,
        audio_second=int(row.audio_ms),
        image=int(row.images),
        request=int(row.requests),
        replica_second=time,
    )


def invoice(
    connection: Connection, tenant: str, month: str, currency: str, found: list[Total]
) -> dict[str, object]:
    """A tenant's invoice for a month in one of its currencies, in the shape of the API.

    The committed minimum is that of the contract in force at the month's end."""
    _, after = months.numbers(month)
    terms = tariff.contract(connection, tenant, after * DAY_MS * 1000 - 1)
    minimum = terms.minimum if terms is not None and terms.currency == currency else 0
    bill = lines.bill(found, currency, minimum)
    return {"tenant": tenant, "period": month, **lines.as_json(bill)}


def parked(connection: Connection, tenant: str | None = None) -> int:
    """How many billed events wait for a price."""
    # every tenant: the platform's own count, unless one is named
    query = select(func.count()).select_from(PARKED)
    if tenant is not None:
        query = query.where(PARKED.c.tenant == tenant)
    return int(connection.execute(query).scalar_one())


def unshipped(connection: Connection) -> int:
    """Records that routers said they hold and have not shipped, by their newest word."""
    return int(connection.execute(select(func.sum(JOURNAL.c.unshipped))).scalar() or 0)


def events(
    connection: Connection, which: EventFilter, *, limit: int, after: str | None
) -> list[dict[str, object]] | None:
    """Events in the order they came; None: no event is `after`."""
    # every tenant: for the platform's operators, unless one is named
    columns = [EVENT.c[name] for name in (*EVENT_FIELDS, *_RATING)]
    query = select(*columns).where(EVENT.c.kind == which.kind).order_by(EVENT.c.id).limit(limit)
    for name in ("tenant", "request_id", "reason"):
        value = getattr(which, name)
        if value is not None:
            query = query.where(EVENT.c[name] == value)
    if after is not None:
        try:
            month = attempt_month(after.partition(":")[0])
        except ValueError:
            return None
        seen = connection.execute(
            select(EVENT.c.id).where(EVENT.c.attempt_month == month, EVENT.c.event_id == after)
        ).scalar()
        if seen is None:
            return None
        query = query.where(EVENT.c.id > seen)
    rows = connection.execute(query).all()
    costs = adjust.costs(connection, rows)
    listed = []
    for row in rows:
        cost = costs.get(row.event_id)
        listed.append(
            {
                **{name: getattr(row, name) for name in EVENT_FIELDS},
                "amount_exact": None if cost is None else money.plain(cost[0]),
                "currency": None if cost is None else cost[1],
            }
        )
    return listed
