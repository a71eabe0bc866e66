"""Purses in the database: read whole, moved by entries, in the transaction of what moves them.

There is one writer at a time (ADR 11), so a purse that was read does not change before its
entries are written. Usage of one transaction is one movement: its events are burned one after
the other, each as of its own time, and their entries are added up by account and grant.
"""

import secrets
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, func, insert, select, update

from tidegate_billing import bulk, credit, money
from tidegate_billing.budgeting import telling
from tidegate_billing.credit import Entry, Grant, Purse
from tidegate_billing.prepaid.tables import ENTRY, GRANT, SUM

LATE = 630_000_000
"""Microseconds after a grant's end at which its rest is moved to `expired`: usage that began before
may come until then (a lost router's lease, ADR 13). The balance is without it at once."""
SYSTEM = "system"
_COLUMNS = (
    *("movement", "kind", "tenant", "currency", "account", "grant_id"),
    *("amount_nano", "amount_atto", "posted_at", "actor", "note"),
)


class Charge(NamedTuple):
    """What usage cost a tenant. `at`: when it was, in microseconds; `amount`: atto, below zero: less."""

    tenant: str
    currency: str
    at: int
    amount: int


class Why(NamedTuple):
    """What kind of movement it is, who made it, and why."""

    kind: str
    actor: str = SYSTEM
    note: str = ""


def grant_of(row: "Row[Any]") -> Grant:
    """A row as the core has it."""
    return Grant(
        row.id,
        money.whole(row.amount_nano, row.amount_atto),
        row.currency,
        row.priority,
        row.starts,
        row.expires,
        row.created,
    )


def purse(connection: Connection, tenant: str, currency: str) -> Purse:
    """A tenant's purse in a currency."""
    grants = connection.execute(
        select(GRANT)
        .where(GRANT.c.tenant == tenant, GRANT.c.currency == currency)
        .order_by(GRANT.c.seq)
    )
    found = tuple(grant_of(row) for row in grants)
    rows = connection.execute(select(SUM).where(SUM.c.tenant == tenant, SUM.c.currency == currency))
    sums = {
        (row.account, row.grant_id): money.whole(int(row.amount_nano), int(row.amount_atto))
        for row in rows
    }
    return Purse(currency, found, sums)


def purses_of(connection: Connection, tenants: Iterable[str]) -> set[tuple[str, str]]:
    """Which of these tenants have a purse, by tenant and currency."""
    named = sorted(set(tenants))
    if not named:
        return set()
    # every tenant: those that the caller names
    rows = connection.execute(
        select(GRANT.c.tenant, GRANT.c.currency).where(GRANT.c.tenant.in_(named)).distinct()
    )
    return {(row.tenant, row.currency) for row in rows}


def burn(
    connection: Connection,
    owners: set[tuple[str, str]],
    charges: Sequence[Charge],
    why: Why,
    now: int,
) -> None:
    """Take what usage cost out of the purses that there are (`purses_of`)."""
    for tenant, currency in sorted(owners):
        mine = [
            charge
            for charge in charges
            if (charge.tenant, charge.currency) == (tenant, currency) and charge.amount
        ]
        if not mine:
            continue
        held = purse(connection, tenant, currency)
        moved: list[Entry] = []
        for charge in sorted(mine, key=lambda one: one.at):
            entries = credit.burn(held, charge.amount, charge.at).entries
            held = credit.apply(held, entries)
            moved += entries
        post(connection, tenant, currency, moved, why, now)
        telling.credit_fell(connection, tenant, held, now)


def post(
    connection: Connection,
    tenant: str,
    currency: str,
    entries: Iterable[Entry],
    why: Why,
    now: int,
) -> str:
    """Write a movement, its entries added up by account and grant; its name. "": nothing moved."""
    sums: dict[tuple[credit.Account, str], int] = {}
    for account, grant, amount in entries:
        sums[account, grant] = sums.get((account, grant), 0) + amount
    moved = {key: amount for key, amount in sums.items() if amount}
    if sum(moved.values()):
        raise credit.CreditError("a movement's entries don't sum to zero; nothing was written")
    if not moved:
        return ""
    movement = "mov_" + secrets.token_hex(10)
    rows = [
        (movement, why.kind, tenant, currency, account, grant, *money.halves(amount), now, *why[1:])
        for (account, grant), amount in sorted(moved.items())
    ]
    bulk.insert_rows(connection, ENTRY, _COLUMNS, rows)
    for (account, grant), amount in sorted(moved.items()):
        _add(connection, (tenant, currency, account, grant), amount)
    return movement


def _add(connection: Connection, key: tuple[str, str, str, str], amount: int) -> None:
    tenant, currency, account, grant = key
    this = (
        SUM.c.tenant == tenant,
        SUM.c.currency == currency,
        SUM.c.account == account,
        SUM.c.grant_id == grant,
    )
    nano, rest = money.halves(amount)
    done = connection.execute(
        update(SUM)
        .where(*this)
        .values(amount_nano=SUM.c.amount_nano + nano, amount_atto=SUM.c.amount_atto + rest)
    )
    if not done.rowcount:
        connection.execute(
            insert(SUM).values(
                tenant=tenant,
                currency=currency,
                account=account,
                grant_id=grant,
                amount_nano=nano,
                amount_atto=rest,
            )
        )


def issue(
    connection: Connection, tenant: str, grant: Grant, note: str, actor: str, now: int
) -> None:
    """Put a grant into a tenant's purse. Raises CreditError."""
    held = purse(connection, tenant, grant.currency)
    _, entries = credit.issue(held, grant, now)
    nano, rest = money.halves(grant.amount)
    connection.execute(
        insert(GRANT).values(
            id=grant.id,
            tenant=tenant,
            currency=grant.currency,
            amount_nano=nano,
            amount_atto=rest,
            priority=grant.priority,
            starts=grant.starts,
            expires=grant.expires,
            created=grant.created,
            note=note,
        )
    )
    post(connection, tenant, grant.currency, entries, Why("issue", actor, note), now)


def pay(connection: Connection, now: int) -> int:
    """Pay what is owed out of grants that are there by now, and were not when it came to be owed; how
    many purses that changed."""
    # every tenant: time passes for all of them
    owing = connection.execute(
        select(SUM.c.tenant, SUM.c.currency).where(
            SUM.c.account == "overdraft", (SUM.c.amount_nano < 0) | (SUM.c.amount_atto != 0)
        )
    ).all()
    changed = 0
    for tenant, currency in owing:
        entries = credit.pay(purse(connection, tenant, currency), now)
        changed += bool(post(connection, tenant, currency, entries, Why("pay"), now))
    return changed


def expire(connection: Connection, now: int) -> int:
    """Move the rests of grants that ended a while ago; how many purses that changed."""
    # every tenant: time passes for all of them
    due = connection.execute(
        select(GRANT.c.tenant, GRANT.c.currency)
        .join_from(GRANT, SUM, SUM.c.grant_id == GRANT.c.id)
        .where(
            GRANT.c.expires <= now - LATE,
            SUM.c.account == "grant",
            (SUM.c.amount_nano != 0) | (SUM.c.amount_atto != 0),
        )
        .distinct()
    ).all()
    changed = 0
    for tenant, currency in due:
        held = purse(connection, tenant, currency)
        moved: list[Entry] = []
        for grant in sorted(held.grants, key=lambda one: one.expires or credit.NEVER):
            # What was owed while it was there it would have paid, had anybody looked then.
            if grant.expires is not None and grant.expires <= now - LATE:
                paid = credit.pay(held, grant.expires - 1)
                held = credit.apply(held, paid)
                moved += paid
        entries = [*moved, *credit.expire(held, now - LATE)]
        changed += bool(post(connection, tenant, currency, entries, Why("expire"), now))
    return changed


def drift(connection: Connection) -> list[tuple[str, str, str, str]]:
    """Accounts whose stored sum is not the sum of their entries: none, unless something is broken."""
    # every tenant: the platform's own check
    key = ("tenant", "currency", "account", "grant_id")
    sums = [func.sum(ENTRY.c[name]).label(name) for name in ("amount_nano", "amount_atto")]
    columns = [ENTRY.c[name] for name in key]
    added = {
        tuple(row[:4]): money.whole(int(row[4]), int(row[5]))
        for row in connection.execute(select(*columns, *sums).group_by(*columns))
    }
    kept = {
        tuple(row[:4]): money.whole(int(row[4]), int(row[5]))
        for row in connection.execute(
            select(*[SUM.c[name] for name in key], SUM.c.amount_nano, SUM.c.amount_atto)
        )
    }
    return sorted(k for k in {*added, *kept} if added.get(k, 0) != kept.get(k, 0))
