"""Budgets as rows, and back."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Select, select

from tidegate_billing import money
from tidegate_billing.budgeting.tables import BUDGET
from tidegate_billing.budgets import Budget
from tidegate_billing.tables import TENANT

CHUNK = 500
"""Tenants named in one statement."""


def budget_of(row: "Row[Any]") -> Budget:
    """A row of `with_zone` as the core has it: its zone is the tenant's where it has none."""
    return Budget(
        row.id,
        row.tenant,
        row.scope,
        row.subject,
        row.kind,
        row.zone or row.tenant_zone,
        money.whole(row.limit_nano, row.limit_atto),
        row.currency,
        row.hard,
        tuple(msgspec.json.decode(row.thresholds, type=list[int])),
    )


def with_zone() -> Select[Any]:
    """Budgets that were not removed, with their tenants' zones; the caller says whose."""
    # every tenant: the caller's conditions say which
    return (
        select(BUDGET, TENANT.c.time_zone.label("tenant_zone"))
        .join_from(BUDGET, TENANT, TENANT.c.id == BUDGET.c.tenant)
        .where(BUDGET.c.removed_at.is_(None))
    )


def live(connection: Connection, tenants: Iterable[str]) -> Mapping[Budget, int]:
    """The budgets of these tenants, and when each was made (microseconds)."""
    named = sorted(set(tenants))
    found: dict[Budget, int] = {}
    for place in range(0, len(named), CHUNK):
        # every tenant: those that the caller names
        query = with_zone().where(BUDGET.c.tenant.in_(named[place : place + CHUNK]))
        for row in connection.execute(query.order_by(BUDGET.c.seq)):
            found[budget_of(row)] = row.created
    return found
