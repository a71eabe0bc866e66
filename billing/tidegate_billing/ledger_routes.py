"""The routes by which the platform's operators look after the ledger: what drifts, what was refused."""

import datetime as dt
from typing import Any

import msgspec
from sqlalchemy import Connection, func, select
from starlette.responses import Response

from tidegate_billing import conserve, money
from tidegate_billing.conserve import Drift, Held
from tidegate_billing.frame import Call, Operation, Query
from tidegate_billing.tables import PARKED, REFUSED
from tidegate_billing.web import bad, cursor, day, limit, reply
from tidegate_billing.who import reach, views

MOST_DAYS = 62


class Sums(msgspec.Struct, frozen=True):
    """What one place holds of a model's day."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    replica_ms: int
    amount: str


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A place that parts from the ledger, in numbers and in words."""

    place: str
    model: str
    day: str
    ledger: Sums
    held: Sums
    tokens: int
    says: str


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """The ledger's rows of some days against every rollup; no `data`: they agree."""

    first: str
    last: str
    data: list[Part]


class RefusedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event that could not be kept."""

    id: int
    at: views.Time
    journal: str
    event_id: str
    reason: str
    event: dict[str, Any]


class ParkedEvents(msgspec.Struct, frozen=True, kw_only=True):
    """How many billed events of a deployment wait for a price, and since which month."""

    deployment: str
    events: int
    first_month: str


def _sums(held: Held) -> Sums:
    return Sums(
        requests=held.requests,
        prompt_tokens=held.prompt_tokens,
        completion_tokens=held.completion_tokens,
        replica_ms=held.replica_ms,
        amount=money.plain(held.amount),
    )


def part(one: Drift) -> Part:
    """A drift, as it is shown."""
    return Part(
        place=one.place,
        model=one.model,
        day=one.day,
        ledger=_sums(one.ledger),
        held=_sums(one.held),
        tokens=one.tokens,
        says=one.says,
    )


async def days(call: Call) -> Response:
    """Compare the rollups of some days with the ledger's own rows."""
    today = dt.datetime.fromtimestamp(call.at // 1_000_000, dt.UTC).date()
    last = day(call.request, "to") or today
    first = day(call.request, "from") or max(last, dt.date(2, 1, 1)) - dt.timedelta(days=1)
    if not (first.year >= 2000 and last.year < 3000):
        raise bad("to", f"{last} is out of range; allowed: days of the years 2000 to 2999")
    if not 0 <= (last - first).days < MOST_DAYS:
        raise bad("from", f"{first} to {last} is not a period; allowed: 1 to {MOST_DAYS} days")

    def query(connection: Connection) -> list[Drift]:
        return conserve.compare(connection, first.isoformat(), last.isoformat())

    found = await call.read(query)
    call.service.metrics.compared(conserve.by_place(found))
    return reply(
        Compared(first=first.isoformat(), last=last.isoformat(), data=[part(one) for one in found])
    )


async def refused(call: Call) -> Response:
    """Events that were refused, oldest first."""
    size, after = limit(call.request, 100, 1000), cursor(call.request, "a row's id")
    query = select(REFUSED).where(REFUSED.c.id > after).order_by(REFUSED.c.id).limit(size + 1)
    rows = await call.read(lambda connection: connection.execute(query).all())
    shown = [
        RefusedEvent(
            id=row.id,
            at=views.shown(row.at),
            journal=row.journal,
            event_id=row.event_id,
            reason=row.reason,
            event=msgspec.json.decode(row.body),
        )
        for row in rows[:size]
    ]
    return reply(views.Page(shown, len(rows) > size))


async def parked(call: Call) -> Response:
    """Deployments whose usage waits for a price."""
    size = limit(call.request, 100, 1000)
    # every tenant: for the platform, by deployment
    query = (
        select(PARKED.c.deployment, func.count(), func.min(PARKED.c.attempt_month))
        .where(PARKED.c.deployment > (call.given("after") or ""))
        .group_by(PARKED.c.deployment)
        .order_by(PARKED.c.deployment)
        .limit(size + 1)
    )
    rows = await call.read(lambda connection: connection.execute(query).all())
    shown = [ParkedEvents(deployment=d, events=int(n), first_month=m) for d, n, m in rows[:size]]
    return reply(views.Page(shown, len(rows) > size))


_DATE = {"type": "string", "format": "date"}
_DAYS = (
    Query("from", "first day, YYYY-MM-DD, UTC; default: the day before `to`", _DATE),
    Query("to", "last day, included; default: today", _DATE),
)
_REFUSED = (
    reach.PAGE[0],
    Query("after", "go on after this id", {"type": "integer", "minimum": 0}),
)
OPERATIONS = (
    Operation("GET", "/conservation/days", days, "platform.read",
              "The ledger against its rollups, by model and day", Compared, query=_DAYS),
    Operation("GET", "/refused", refused, "platform.read", "List events that were refused",
              views.Page[RefusedEvent], query=_REFUSED),
    Operation("GET", "/parked", parked, "platform.read", "Deployments whose usage has no price",
              views.Page[ParkedEvents], query=reach.PAGE),
)  # fmt: skip
