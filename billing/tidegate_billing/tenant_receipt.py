"""A request's receipt from the ledger, by its id and its tenant."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, select

from tidegate_billing import adjust, receipt, tariff
from tidegate_billing.receipt import Asked, Entry
from tidegate_billing.tables import EVENT

_MOST = 500
"""Rows that one request can have: each attempt has up to three."""


def find(connection: Connection, tenant: str, given: str) -> dict[str, object] | None:
    """The receipt of a request. None alike: unknown, another tenant's, under way, or long gone."""
    asked = receipt.asked(given)
    if asked is not None and asked.attempt:
        asked = _request(connection, tenant, asked)
    if asked is None:
        return None
    rows = receipt.settled(_rows(connection, tenant, asked))
    return receipt.receipt(_priced(connection, rows)) if rows else None


def _rows(connection: Connection, tenant: str, asked: Asked) -> Sequence[Any]:
    """Whatever the ledger has of a tenant's request.

    Two steps: a database without statistics would rather look through all that the tenant ever did
    than for the request. Months as a range leave it no other index, and PostgreSQL its partitions."""
    # every tenant: only numbers of rows, of which the next query takes the tenant's
    months = EVENT.c.attempt_month.between(*asked.months)
    numbers = select(EVENT.c.id).where(EVENT.c.request_id == f"req-{asked.uuid}", months)
    return connection.execute(
        select(EVENT).where(
            EVENT.c.tenant == tenant,
            months,
            EVENT.c.id.in_(connection.execute(numbers.limit(_MOST)).scalars().all()),
        )
    ).all()


def _request(connection: Connection, tenant: str, asked: Asked) -> Asked | None:
    """The request that made an attempt."""
    found = connection.execute(
        select(EVENT.c.request_id).where(
            EVENT.c.tenant == tenant,
            EVENT.c.attempt_month == asked.months[0],
            EVENT.c.event_id == f"{asked.uuid}:settlement",
        )
    ).scalar()
    return None if found is None else receipt.asked(found)


def _priced(connection: Connection, rows: list[Any]) -> list[Entry]:
    added = adjust.costs(connection, rows)
    costs = {
        event_id: rating.worth(added[event_id][0])
        for event_id, rating in adjust.ratings(connection, rows).items()
    }
    models = {
        (costs[row.event_id].rated_version, row.model) for row in rows if row.event_id in costs
    }
    rates = tariff.tariffs(connection, models)
    found = []
    for row in rows:
        cost = costs.get(row.event_id)
        found.append(Entry(row, cost, None if cost is None else rates[cost.rated_version].rate))
    return found
