"""Pots as the database has them now: balances from credit and from usage, leases from their table.

A pot is named by what it pays for and by when it began (`credit.pot`, `budgets.pot`); who asks about one
that has another name by now finds nothing in it. One that begins soon is told, and lent, ahead: routers'
clocks are not ours.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, delete, insert, select, update

from tidegate_billing import budgets, credit, leases, money
from tidegate_billing.budgeting import spent
from tidegate_billing.budgeting.tables import BUDGET
from tidegate_billing.budgets import Budget
from tidegate_billing.credit import NEVER, Purse
from tidegate_billing.leases import Lease, Pot, Pots
from tidegate_billing.lending.said import PotView
from tidegate_billing.lending.tables import LEASE
from tidegate_billing.prepaid import purses
from tidegate_billing.tables import TENANT

PREPAID: Final = "prepaid"
UNPRICED: Final = "USD"
"""Without any price there is a pot all the same: it says that the tenant is prepaid."""
AHEAD: Final = 60 * leases.SECOND
"""How long before its beginning a pot is told."""


class Place(NamedTuple):
    """A pot: as routers see it, and what is in it."""

    view: PotView
    pot: Pot


def base(name: str) -> str:
    """What a pot and those that follow it have in common."""
    return name.rpartition(":")[0]


def owners(connection: Connection, names: Iterable[str]) -> dict[str, set[str]]:
    """The tenants whose pots these are, each with the currencies that their credit is asked in."""
    found: dict[str, set[str]] = {}
    for name in names:
        kind, _, rest = name.partition(":")
        parts = rest.split(":")
        if kind == "credit" and len(parts) == 3:
            found.setdefault(parts[0], set()).add(parts[1])
        elif kind == "budget" and len(parts) == 2:
            # every tenant: whose budget it is, is the question
            whose = select(BUDGET.c.tenant).where(BUDGET.c.id == parts[0])
            if (tenant := connection.execute(whose).scalar()) is not None:
                found.setdefault(tenant, set())
    return found


def of_tenant(
    connection: Connection, tenant: str, now: int, currencies: Iterable[str] = ()
) -> list[Place]:
    """All pots that a tenant has now or soon. `currencies`: of prices, so that credit which isn't
    there is an empty pot, and not none."""
    lent = _lent(connection, tenant)
    found = []
    if _plan(connection, tenant) == PREPAID:
        own = {currency for _, currency in purses.purses_of(connection, [tenant])}
        for currency in sorted({*own, *currencies} or {UNPRICED}):
            found += _credit(purses.purse(connection, tenant, currency), tenant, now, lent)
    for budget in spent.hard(connection, tenant):
        found += _budget(connection, budget, now, lent)
    return found


def _plan(connection: Connection, tenant: str) -> str | None:
    return connection.execute(select(TENANT.c.plan).where(TENANT.c.id == tenant)).scalar()


def _lent(connection: Connection, tenant: str) -> dict[str, dict[str, Lease]]:
    rows = connection.execute(select(LEASE).where(LEASE.c.tenant == tenant))
    found: dict[str, dict[str, Lease]] = {}
    for row in rows:
        found.setdefault(row.pot, {})[row.router] = lease_of(row)
    return found


def lease_of(row: "Row[Any]") -> Lease:
    """A row as the core has it."""
    return Lease(
        row.granted_units * money.ATTO + row.granted_atto,
        row.consumed_units * money.ATTO + row.consumed_atto,
        row.ends,
    )


def _credit(
    purse: Purse, tenant: str, now: int, lent: Mapping[str, Mapping[str, Lease]]
) -> list[Place]:
    """A tenant's credit in one currency: its pot of now, and the one that follows soon."""
    found = []
    at = now
    while True:
        name = credit.pot(purse, tenant, at)
        since, until = credit.term(purse, at)
        # What is lent of older pots may still be spent, and comes out of the same purse.
        kept = sum(
            lease.outstanding
            for other, routers in lent.items()
            if other != name and base(other) == base(name)
            for lease in routers.values()
        )
        pot = Pot(credit.balance(purse, at) - kept, lent.get(name, {}), until)
        view = PotView(
            name=name,
            tenant=tenant,
            currency=purse.currency,
            since=since,
            limit=money.plain(sum(grant.amount for grant in credit.live(purse, at))),
            empty=pot.exhausted,
        )
        found.append(Place(view, pot))
        if until == NEVER or at != now or until > now + AHEAD:
            return found
        at = until


def _budget(
    connection: Connection, budget: Budget, now: int, lent: Mapping[str, Mapping[str, Lease]]
) -> list[Place]:
    """A hard budget: its window of now, and the one that follows soon."""
    found = []
    at = now
    while True:
        name = budgets.pot(budget, at)
        window = budgets.window(budget.kind, budget.zone, at)
        left = budgets.left(budget, spent.spent(connection, budget, window.start))
        pot = Pot(left, lent.get(name, {}), window.end)
        view = PotView(
            name=name,
            tenant=budget.tenant,
            currency=budget.currency,
            project=budget.subject if budget.scope == "project" else "",
            key_id=budget.subject if budget.scope == "key" else "",
            since=window.start,
            limit=money.plain(budget.limit),
            empty=pot.exhausted,
        )
        found.append(Place(view, pot))
        if window.end == budgets.FOREVER or at != now or window.end > now + AHEAD:
            return found
        at = window.end


def write(connection: Connection, tenant_of: Mapping[str, str], before: Pots, after: Pots) -> None:
    """Keep what has changed of leases."""
    for name, pot in after.items():
        old = before[name].leases if name in before else {}
        for router in {*old, *pot.leases}:
            if old.get(router) != pot.leases.get(router):
                _keep(
                    connection, (tenant_of[name], name, router), pot.leases.get(router), pot.until
                )


def _keep(
    connection: Connection, key: tuple[str, str, str], lease: Lease | None, until: int
) -> None:
    tenant, pot, router = key
    this = (LEASE.c.pot == pot, LEASE.c.router == router, LEASE.c.tenant == tenant)
    if lease is None:
        connection.execute(delete(LEASE).where(*this))
        return
    granted, consumed = divmod(lease.granted, money.ATTO), divmod(lease.consumed, money.ATTO)
    values = {
        "granted_units": granted[0],
        "granted_atto": granted[1],
        "consumed_units": consumed[0],
        "consumed_atto": consumed[1],
        "ends": lease.ends,
        "until": until,
    }
    if not connection.execute(update(LEASE).where(*this).values(values)).rowcount:
        connection.execute(insert(LEASE).values(pot=pot, router=router, tenant=tenant, **values))
