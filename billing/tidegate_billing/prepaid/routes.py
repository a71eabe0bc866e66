"""The routes of credit: grants are made, refunded and voided; purses and entries are read."""

import datetime as dt
import secrets
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from sqlalchemy import Connection, Row, select
from starlette.responses import Response

from tidegate_billing import credit, money
from tidegate_billing.answers import Money
from tidegate_billing.budgeting import telling
from tidegate_billing.budgets import LATEST
from tidegate_billing.credit import Entry, Grant, Purse
from tidegate_billing.frame import Call, Done, Operation, Query
from tidegate_billing.prepaid import purses
from tidegate_billing.prepaid.tables import ENTRY, GRANT
from tidegate_billing.web import ApiError, bad, cursor, limit, reply
from tidegate_billing.who import audit, reach, views

Note = Annotated[str, Meta(max_length=500)]
Amount = Annotated[str, Meta(max_length=40, extra_json_schema={"pattern": r"^[0-9]+(\.[0-9]+)?$"})]
DIGITS = 9
"""Before the point: a purse of a thousand million stays far within the database's integers."""


class NewGrant(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /api/v1/credit-grants`. `priority`: lower burns first."""

    tenant: str
    amount: Amount
    currency: str = "USD"
    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    starts_at: dt.datetime | None = None
    expires_at: dt.datetime | None = None
    note: Note = ""


class Refund(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /api/v1/credit-grants/{id}/refund`."""

    amount: Amount
    note: Note


class Void(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /api/v1/credit-grants/{id}/void`. `reclaim`: what it has paid for, too."""

    note: Note
    reclaim: bool = False


class GrantView(msgspec.Struct, frozen=True, kw_only=True):
    """A grant, and what is left of it."""

    id: str
    tenant: str
    currency: str
    amount: Money
    left: Money
    priority: int
    starts_at: views.Time
    expires_at: views.Time | None
    created_at: views.Time
    note: str


class PurseView(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's credit in one currency. `balance`: what may be spent; below zero, what is owed."""

    tenant: str
    currency: str
    balance: Money
    granted: Money
    burned: Money
    owed: Money
    expired: Money
    refunded: Money
    voided: Money


class Purses(msgspec.Struct, frozen=True):
    """A tenant's credit, by currency."""

    data: list[PurseView]


class EntryView(msgspec.Struct, frozen=True, kw_only=True):
    """One side of a movement; a movement's entries sum to zero."""

    id: int
    movement: str
    kind: str
    tenant: str
    currency: str
    account: str
    grant: str
    amount: Money
    posted_at: views.Time
    actor: str
    note: str


def _micros(moment: dt.datetime | None) -> int | None:
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise bad("expires_at", "has no time zone; allowed: RFC 3339, as 2030-01-01T00:00:00Z")
    micros = (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)
    if not 0 <= micros <= LATEST:
        raise bad("expires_at", "is out of range; allowed: times of the years 1970 to 9891")
    return micros


def _amount(text: str) -> int:
    try:
        return money.parse(text, digits=DIGITS)
    except money.MoneyError as error:
        raise bad("amount", str(error)) from error


async def make(call: Call) -> Response:
    """Give a tenant credit; what it owes is paid out of it first."""
    wanted: NewGrant = call.body
    try:
        currency = money.check_currency(wanted.currency)
    except money.MoneyError as error:
        raise bad("currency", str(error)) from error
    starts = _micros(wanted.starts_at)
    grant = Grant(
        "grant_" + secrets.token_hex(10),
        _amount(wanted.amount),
        currency,
        wanted.priority,
        call.at if starts is None else starts,
        _micros(wanted.expires_at),
        call.at,
    )

    def transaction(connection: Connection) -> Done:
        reach.tenant(connection, call.actor, wanted.tenant)
        try:
            purses.issue(connection, wanted.tenant, grant, wanted.note, call.actor.id, call.at)
        except credit.CreditError as error:
            raise ApiError(400, "invalid_grant", str(error), "amount") from error
        return _done(connection, call, "credit.grant", wanted.tenant, grant.id, status=201)

    return await call.change(transaction)


def _done(
    connection: Connection, call: Call, action: str, tenant: str, grant: str, status: int = 200
) -> Done:
    row = connection.execute(
        select(GRANT).where(GRANT.c.id == grant, GRANT.c.tenant == tenant)
    ).one()
    held = purses.purse(connection, tenant, row.currency)
    telling.credit_fell(connection, tenant, held, call.at)
    shown = _view(row, held)
    audit.record(
        connection,
        actor=call.actor.id,
        at=call.at,
        action=action,
        object_id=grant,
        organization=None,
        tenant=tenant,
        before=call.body,
        after=shown,
    )
    return Done(shown, status=status, limits=frozenset({tenant}))


def _view(row: "Row[Any]", purse: Purse) -> GrantView:
    return GrantView(
        id=row.id,
        tenant=row.tenant,
        currency=row.currency,
        amount=money.plain(money.whole(row.amount_nano, row.amount_atto)),
        left=money.plain(purse.of("grant", row.id)),
        priority=row.priority,
        starts_at=views.shown(row.starts),
        expires_at=views.shown_or_null(row.expires),
        created_at=views.shown(row.created),
        note=row.note,
    )


async def refund(call: Call) -> Response:
    """Write down that a part of what is left of a grant was paid back."""
    wanted: Refund = call.body
    amount = _amount(wanted.amount)
    return await _move(
        call,
        "refund",
        wanted.note,
        lambda purse, grant: credit.refund(purse, grant, amount, call.at),
    )


async def void(call: Call) -> Response:
    """Take a grant back that should not have been."""
    wanted: Void = call.body
    return await _move(
        call,
        "void",
        wanted.note,
        lambda purse, grant: credit.void(purse, grant, reclaim=wanted.reclaim),
    )


async def _move(
    call: Call, kind: str, note: str, move: Callable[[Purse, str], tuple[Entry, ...]]
) -> Response:
    def transaction(connection: Connection) -> Done:
        row = _find(connection, call)
        purse = purses.purse(connection, row.tenant, row.currency)
        try:
            entries = move(purse, row.id)
        except credit.CreditError as error:
            raise ApiError(409, f"not_{kind}ed", str(error), "amount") from error
        why = purses.Why(kind, call.actor.id, note)
        purses.post(connection, row.tenant, row.currency, entries, why, call.at)
        return _done(connection, call, f"credit.{kind}", row.tenant, row.id)

    return await call.change(transaction)


def _find(connection: Connection, call: Call) -> "Row[Any]":
    name = call.part("id")  # every tenant: within the actor's reach
    within = reach.of_tenant(call.actor, GRANT.c.tenant)
    row = connection.execute(select(GRANT).where(GRANT.c.id == name, within)).first()
    if row is None:
        raise reach.missing("credit grant", name)
    return row


async def listed(call: Call) -> Response:
    """Grants, in the order they were made."""
    filters = []
    if call.given("tenant") is not None:
        filters.append(GRANT.c.tenant == call.given("tenant"))
    within = reach.of_tenant(call.actor, GRANT.c.tenant)

    def query(connection: Connection) -> tuple[list[GrantView], bool]:
        rows, more = reach.page(connection, call, GRANT, within, filters)
        held = {
            key: purses.purse(connection, *key)
            for key in {(row.tenant, row.currency) for row in rows}
        }
        return [_view(row, held[row.tenant, row.currency]) for row in rows], more

    rows, more = await call.read(query)
    return reply(views.Page(rows, more))


async def balance(call: Call) -> Response:
    """What a tenant may still spend, and where its credit went."""
    tenant = call.given("tenant")
    if tenant is None:
        raise bad("tenant", "is missing; allowed: a tenant's name")

    def query(connection: Connection) -> Purses:
        reach.tenant(connection, call.actor, tenant)
        owned = sorted(purses.purses_of(connection, [tenant]))
        return Purses([_purse(tenant, purses.purse(connection, *key), call.at) for key in owned])

    return reply(await call.read(query))


def _purse(tenant: str, purse: Purse, now: int) -> PurseView:
    def total(account: credit.Account) -> str:
        return money.plain(purse.total(account))

    return PurseView(
        tenant=tenant,
        currency=purse.currency,
        balance=money.plain(credit.balance(purse, now)),
        granted=money.plain(-purse.total("issued")),
        burned=total("revenue"),
        owed=money.plain(-purse.total("overdraft")),
        expired=total("expired"),
        refunded=total("refund"),
        voided=total("void"),
    )


async def entries(call: Call) -> Response:
    """Credit's entries, oldest first."""
    size, after = limit(call.request, 100, 1000), cursor(call.request, "a row's id")
    # every tenant: within the actor's reach
    within = reach.of_tenant(call.actor, ENTRY.c.tenant)
    query = select(ENTRY).where(ENTRY.c.id > after, within)
    if call.given("tenant") is not None:
        query = query.where(ENTRY.c.tenant == call.given("tenant"))
    query = query.order_by(ENTRY.c.id).limit(size + 1)
    rows = await call.read(lambda connection: connection.execute(query).all())
    return reply(views.Page([_entry(row) for row in rows[:size]], len(rows) > size))


def _entry(row: "Row[Any]") -> EntryView:
    return EntryView(
        id=row.id,
        movement=row.movement,
        kind=row.kind,
        tenant=row.tenant,
        currency=row.currency,
        account=row.account,
        grant=row.grant_id,
        amount=money.plain(money.whole(row.amount_nano, row.amount_atto)),
        posted_at=views.shown(row.posted_at),
        actor=row.actor,
        note=row.note,
    )


_OF = Query("tenant", "only of this tenant", reach.TEXT)
_TENANT = (Query("tenant", "a tenant's name", reach.TEXT, required=True),)
_ENTRIES = (
    _OF,
    reach.PAGE[0],
    Query("after", "go on after this id", {"type": "integer", "minimum": 0}),
)
OPERATIONS = (
    Operation("POST", "/credit-grants", make, "credit.update", "Give a tenant credit",
              GrantView, NewGrant, status=201),
    Operation("GET", "/credit-grants", listed, "credit.read", "List grants of credit",
              views.Page[GrantView], query=(_OF, *reach.PAGE)),
    Operation("POST", "/credit-grants/{id}/refund", refund, "credit.update",
              "Pay back a part of a grant", GrantView, Refund),
    Operation("POST", "/credit-grants/{id}/void", void, "credit.update", "Take a grant back",
              GrantView, Void),
    Operation("GET", "/credit", balance, "credit.read", "What a tenant may still spend",
              Purses, query=_TENANT),
    Operation("GET", "/credit-entries", entries, "credit.read", "List credit's entries",
              views.Page[EntryView], query=_ENTRIES),
)  # fmt: skip
