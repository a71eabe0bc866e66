"""The desk: what routers ask, give back and say of leases, each as one transaction on the database.

The decisions are `leases`'; here is what they are decided on, and where they are kept.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from sqlalchemy import Connection, delete, insert, select, update

from tidegate_billing import leases, money
from tidegate_billing.leases import BLOCKED, SECOND, Answer, Pot, Pots, Want
from tidegate_billing.lending import pots
from tidegate_billing.lending.said import LeaseAsk, LeaseBack, LeaseKept, LeaseRenewal, LeaseWord
from tidegate_billing.lending.tables import LEASE, SESSION

DIGITS: Final = 18
"""Before an amount's point: whole units fit a column of the database."""
FORGOTTEN: Final = 86_400 * SECOND
"""A router that says nothing for a day is no more; should it come back, it begins anew."""


class SessionOver(Exception):
    """A router speaks in a session that is not its own any more; it has to begin a new one."""


def parsed(amounts: Mapping[str, str]) -> dict[str, int]:
    """Amounts in atto. Raises MoneyError."""
    return {name: money.parse(text, digits=DIGITS) for name, text in amounts.items()}


def shown(amounts: Mapping[str, int]) -> dict[str, str]:
    """Amounts as they are said."""
    return {name: money.plain(amount) for name, amount in amounts.items()}


def ask(
    connection: Connection, asked: LeaseAsk, now: int, *, routers: int, recalled: bool = False
) -> Answer:
    """Lend, or say who shall give back first, or no. Raises SessionOver, MoneyError."""
    _check(connection, asked.router, asked.session)
    wants = {
        name: Want(money.parse(need, digits=DIGITS), money.parse(least, digits=DIGITS))
        for name, (need, least) in asked.wants.items()
    }
    found, tenant_of = _named(connection, wants, now)
    after, answer = leases.ask(
        found, asked.router, wants, now, routers=routers, recalled=recalled, ahead=asked.ahead
    )
    pots.write(connection, tenant_of, found, after)
    return answer


def _named(connection: Connection, names: Iterable[str], now: int) -> tuple[Pots, dict[str, str]]:
    """These pots, where they exist, and whose they are."""
    wanted = set(names)
    found: dict[str, Pot] = {}
    tenant_of: dict[str, str] = {}
    for tenant, currencies in sorted(pots.owners(connection, wanted).items()):
        for place in pots.of_tenant(connection, tenant, now, currencies):
            if place.view.name in wanted:
                found[place.view.name] = place.pot
                tenant_of[place.view.name] = tenant
    return found, tenant_of


def _check(connection: Connection, router: str, session: int) -> None:
    if _session(connection, router) != session:
        raise SessionOver(router)


def _session(connection: Connection, router: str) -> int | None:
    """The session that a router speaks in; None: it has not begun one."""
    known = connection.execute(select(SESSION.c.session).where(SESSION.c.router == router))
    return known.scalar()


def _held(connection: Connection, router: str) -> tuple[Pots, dict[str, str]]:
    """What a router was lent; balances are not looked at, so nothing can be lent of these."""
    # every tenant: a router serves all of them
    rows = connection.execute(select(LEASE).where(LEASE.c.router == router)).all()
    found = {row.pot: Pot(0, {router: pots.lease_of(row)}, row.until) for row in rows}
    return found, {row.pot: row.tenant for row in rows}


def back(connection: Connection, said: LeaseBack) -> None:
    """A router holds less. Raises SessionOver, MoneyError."""
    _check(connection, said.router, said.session)
    before, tenant_of = _held(connection, said.router)
    after = before
    for name, amount in parsed(said.back).items():
        if name in before:
            after = leases.give_back(after, said.router, name, amount)
    pots.write(connection, tenant_of, before, after)


def renew(connection: Connection, said: LeaseRenewal, now: int) -> dict[str, int]:
    """Prolong what a router holds; when each ends. Raises SessionOver."""
    _check(connection, said.router, said.session)
    connection.execute(update(SESSION).where(SESSION.c.router == said.router).values(seen=now))
    before, _ = _held(connection, said.router)
    _, ends = leases.renew(before, said.router, now)
    # Said as two statements: a router may hold leases of a thousand tenants.
    # every tenant: a router serves all of them
    mine = (LEASE.c.router == said.router, LEASE.c.ends > now - BLOCKED, LEASE.c.until > now)
    term = now + leases.TERM
    connection.execute(update(LEASE).where(*mine, LEASE.c.until > term).values(ends=term))
    soon = update(LEASE).where(*mine, LEASE.c.until <= term)
    connection.execute(soon.values(ends=LEASE.c.until))
    return {name: end - now for name, end in ends.items()}


def heard(connection: Connection, word: LeaseWord, now: int) -> LeaseKept | None:
    """What a router says with its usage, which is in the ledger by now. Raises MoneyError."""
    if word.holds is not None:
        return _begin(connection, word.router, word.session, parsed(word.holds), now)
    if word.spent and _session(connection, word.router) == word.session:
        before, tenant_of = _held(connection, word.router)
        after = leases.agree(before, word.router, parsed(word.spent))
        pots.write(connection, tenant_of, before, after)
    return None


def _begin(
    connection: Connection, router: str, session: int, holds: Mapping[str, int], now: int
) -> LeaseKept:
    """A router's leases begin anew with what it holds. Said again, it is as it was: a batch may come twice,
    and late."""
    if _session(connection, router) == session:
        had, _ = _held(connection, router)
        left = {name: pot.leases[router].outstanding for name, pot in had.items()}
        return LeaseKept(kept=shown(left), ends_in=leases.TERM)
    own, tenant_of = _held(connection, router)
    found, whose = _named(connection, {*own, *holds}, now)
    # Of what is over by now nothing is lent, but what runs on it may keep what it has.
    over = {name: pot._replace(balance=pot.outstanding) for name, pot in own.items()}
    before = {**over, **found}
    after, kept = leases.returned(before, router, holds, now)
    pots.write(connection, {**tenant_of, **whose}, before, after)
    values = {"session": session, "seen": now}
    this = SESSION.c.router == router
    if not connection.execute(update(SESSION).where(this).values(values)).rowcount:
        connection.execute(insert(SESSION).values(router=router, **values))
    return LeaseKept(kept=shown(kept), ends_in=leases.TERM)


def expire(connection: Connection, now: int) -> list[tuple[str, str, int]]:
    """Forget leases whose routers are lost for good; pot, router, and what came back."""
    # every tenant: time passes for all of them
    rows = connection.execute(select(LEASE).where(LEASE.c.ends <= now - BLOCKED)).all()
    gone = []
    for row in rows:
        before = {row.pot: Pot(0, {row.router: pots.lease_of(row)}, row.until)}
        after, lost = leases.expire(before, now)
        pots.write(connection, {row.pot: row.tenant}, before, after)
        gone += lost
    connection.execute(delete(SESSION).where(SESSION.c.seen <= now - FORGOTTEN))
    return gone
