"""The routes of budgets: what may be spent in a window, and how far it is."""

import secrets
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType
from sqlalchemy import ColumnElement, Connection, Row, func, insert, literal, select, update
from starlette.responses import Response

from tidegate_billing import budgets, money
from tidegate_billing.answers import Money
from tidegate_billing.budgeting import rows, spent
from tidegate_billing.budgeting.tables import BUDGET
from tidegate_billing.frame import Call, Done, Operation, Query, etag, show
from tidegate_billing.prepaid.routes import DIGITS, Amount
from tidegate_billing.tables import API_KEY, PROJECT
from tidegate_billing.web import ApiError, bad, reply
from tidegate_billing.who import audit, reach, views
from tidegate_billing.who.fields import Slug, Zone, check_zone

MOST = 1000
"""Budgets of a tenant: each batch of its usage looks at them all."""
Thresholds = Annotated[list[Annotated[int, Meta(ge=1, le=1000)]], Meta(max_length=20)]
Scope = Literal["tenant", "project", "key"]
Period = Literal["day", "week", "month", "quarter", "year", "total"]


class NewBudget(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /api/v1/budgets`. `subject`: the project's name or the key's id; a tenant's budget
    needs none. `time_zone` null: the tenant's, whatever that is."""

    tenant: Slug
    period: Period
    limit: Amount
    scope: Scope = "tenant"
    subject: str | UnsetType = UNSET
    currency: str = "USD"
    time_zone: Zone | None = None
    hard: bool = False
    thresholds: Thresholds = msgspec.field(default_factory=lambda: list(budgets.THRESHOLDS))


class BudgetChange(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `PATCH /api/v1/budgets/{id}`; what is left out stays."""

    limit: Amount | UnsetType = UNSET
    time_zone: Zone | UnsetType | None = UNSET
    hard: bool | UnsetType = UNSET
    thresholds: Thresholds | UnsetType = UNSET


class BudgetView(msgspec.Struct, frozen=True, kw_only=True):
    """A budget. `time_zone` null: the tenant's. Thresholds are percents of the limit."""

    id: str
    tenant: str
    scope: Scope
    subject: str
    period: Period
    time_zone: str | None
    limit: Money
    currency: str
    hard: bool
    thresholds: list[int]
    created_at: views.Time


class WindowView(msgspec.Struct, frozen=True):
    """From `start` on, and no longer at `end`; null: for ever."""

    start: views.Time
    end: views.Time | None


class BudgetState(BudgetView, frozen=True, kw_only=True):
    """A budget and its window of now. `left` below zero: it was overrun."""

    window: WindowView
    spent: Money
    left: Money
    reached: list[int]


def _amount(text: str) -> int:
    try:
        return money.parse(text, digits=DIGITS)
    except money.MoneyError as error:
        raise bad("limit", str(error)) from error


def _thresholds(values: list[int]) -> str:
    if values != sorted(set(values)):
        raise bad("thresholds", f"{values} do not rise; allowed: different percents, rising")
    return msgspec.json.encode(values).decode()


def _view(row: "Row[Any]") -> BudgetView:
    return BudgetView(
        id=row.id,
        tenant=row.tenant,
        scope=row.scope,
        subject=row.subject,
        period=row.kind,
        time_zone=row.zone,
        limit=money.plain(money.whole(row.limit_nano, row.limit_atto)),
        currency=row.currency,
        hard=row.hard,
        thresholds=msgspec.json.decode(row.thresholds, type=list[int]),
        created_at=views.shown(row.created),
    )


def _find(connection: Connection, call: Call) -> "Row[Any]":
    name = call.part("id")
    within = reach.of_tenant(call.actor, BUDGET.c.tenant)  # every tenant: within the actor's reach
    row = connection.execute(rows.with_zone().where(BUDGET.c.id == name, within)).first()
    if row is None:
        raise reach.missing("budget", name)
    return row


def _check_subject(connection: Connection, wanted: NewBudget) -> str:
    """What events call that which a budget covers. Raises ApiError where it is not the tenant's."""
    subject = wanted.tenant if wanted.subject is UNSET else wanted.subject
    if wanted.scope == "tenant":
        if subject != wanted.tenant:
            raise bad("subject", f"is not needed; allowed: {wanted.tenant!r}, or nothing")
        return subject
    if wanted.subject is UNSET:
        what = "a project's name" if wanted.scope == "project" else "a key's id"
        raise bad("subject", f"is missing; allowed: {what}")
    if wanted.scope == "project":
        mine = select(PROJECT.c.id).where(
            PROJECT.c.tenant == wanted.tenant, PROJECT.c.name == subject
        )
    else:
        mine = select(API_KEY.c.id).where(
            API_KEY.c.tenant == wanted.tenant, API_KEY.c.id == subject
        )
    if connection.execute(mine).first() is None:
        kind = wanted.scope
        allowed = f"a {kind} of tenant {wanted.tenant}"
        raise bad("subject", f"there is no {kind} {subject[:80]!r}; allowed: {allowed}")
    return subject


def _check_number(connection: Connection, tenant: str) -> None:
    mine = select(func.count()).where(BUDGET.c.tenant == tenant, BUDGET.c.removed_at.is_(None))
    if connection.execute(mine).scalar_one() >= MOST:
        message = f"tenant: {tenant!r} has {MOST} budgets, which is the most"
        raise ApiError(409, "too_many_budgets", message, "tenant")


async def make(call: Call) -> Response:
    """Make a budget; what was spent in its window already counts, and is told."""
    wanted: NewBudget = call.body
    try:
        currency = money.check_currency(wanted.currency)
    except money.MoneyError as error:
        raise bad("currency", str(error)) from error
    if wanted.time_zone is not None:
        check_zone("time_zone", wanted.time_zone)
    nano, rest = money.halves(_amount(wanted.limit))
    values: dict[str, object] = {
        "id": "budget_" + secrets.token_hex(10),
        "tenant": wanted.tenant,
        "scope": wanted.scope,
        "kind": wanted.period,
        "zone": wanted.time_zone,
        "limit_nano": nano,
        "limit_atto": rest,
        "currency": currency,
        "hard": wanted.hard,
        "thresholds": _thresholds(wanted.thresholds),
        "created": call.at,
    }

    def transaction(connection: Connection) -> tuple[Done, bool]:
        reach.tenant(connection, call.actor, wanted.tenant)
        values["subject"] = _check_subject(connection, wanted)
        _check_number(connection, wanted.tenant)
        connection.execute(insert(BUDGET).values(values))
        mine = (BUDGET.c.tenant == wanted.tenant, BUDGET.c.id == values["id"])
        row = connection.execute(rows.with_zone().where(*mine)).one()
        return _done(connection, call, "create", None, row), wanted.hard

    return await _change(call, transaction)


async def _change(call: Call, transaction: Callable[[Connection], tuple[Done, bool]]) -> Response:
    """Make a change, which says whether a hard budget is in it: routers hear that before the answer."""

    def write(connection: Connection) -> Done:
        done, hard = transaction(connection)
        assert isinstance(done.view, BudgetView)
        return done._replace(limits=frozenset({done.view.tenant} if hard else ()))

    return await call.change(write)


def _done(
    connection: Connection, call: Call, action: str, old: "Row[Any] | None", row: "Row[Any]"
) -> Done:
    """Write a change down, and tell what it reaches."""
    tenant = reach.tenant(connection, call.actor, row.tenant)
    audit.record(
        connection,
        actor=call.actor.id,
        at=call.at,
        action=f"budget.{action}",
        object_id=row.id,
        organization=tenant.organization,
        tenant=row.tenant,
        before=None if old is None else _view(old),
        after=None if action == "delete" else _view(row),
    )
    if action != "delete":
        spent.review(connection, rows.budget_of(row), call.at)
    return Done(_view(row), etag(row.revision), 201 if old is None else 200)


async def listed(call: Call) -> Response:
    """Budgets, in the order they were made."""
    filters: list[ColumnElement[bool]] = [BUDGET.c.removed_at.is_(None)]
    if call.given("tenant") is not None:
        filters.append(BUDGET.c.tenant == call.given("tenant"))
    within = reach.of_tenant(call.actor, BUDGET.c.tenant)
    found, more = await call.read(
        lambda connection: reach.page(connection, call, BUDGET, within, filters)
    )
    return reply(views.Page([_view(row) for row in found], more))


async def one(call: Call) -> Response:
    """One budget, and how far its window of now is."""

    def query(connection: Connection) -> tuple[BudgetState, str]:
        row = _find(connection, call)
        budget = rows.budget_of(row)
        window = budgets.window(budget.kind, budget.zone, call.at)
        amount = spent.spent(connection, budget, window.start)
        state = BudgetState(
            **msgspec.structs.asdict(_view(row)),
            window=WindowView(
                views.shown(window.start),
                None if window.end == budgets.FOREVER else views.shown(window.end),
            ),
            spent=money.plain(amount),
            left=money.plain(budgets.left(budget, amount)),
            reached=list(budgets.reached(budget, amount)),
        )
        return state, etag(row.revision, window.start, amount)

    state, tag = await call.read(query)
    return show(state, tag)


async def change(call: Call) -> Response:
    """Change a budget; a limit that is lowered may be reached at once, and that is told."""
    values = _values(call.body)

    def transaction(connection: Connection) -> tuple[Done, bool]:
        old = _find(connection, call)
        call.check_match(old.revision)
        changed = {name: value for name, value in values.items() if value != getattr(old, name)}
        if not changed:
            return Done(_view(old), etag(old.revision)), False
        row = _write(connection, old, changed)
        return _done(connection, call, "update", old, row), old.hard or row.hard

    return await _change(call, transaction)


def _values(wanted: BudgetChange) -> dict[str, object]:
    """The columns that a body names. Raises ApiError."""
    values: dict[str, object] = {}
    if wanted.limit is not UNSET:
        values["limit_nano"], values["limit_atto"] = money.halves(_amount(wanted.limit))
    if wanted.time_zone is not UNSET:
        if wanted.time_zone is not None:
            check_zone("time_zone", wanted.time_zone)
        values["zone"] = wanted.time_zone
    if wanted.hard is not UNSET:
        values["hard"] = wanted.hard
    if wanted.thresholds is not UNSET:
        values["thresholds"] = _thresholds(wanted.thresholds)
    return values


def _write(connection: Connection, old: "Row[Any]", values: dict[str, object]) -> "Row[Any]":
    mine = (BUDGET.c.tenant == old.tenant, BUDGET.c.id == old.id)
    connection.execute(update(BUDGET).where(*mine).values({**values, "revision": old.revision + 1}))
    with_zone = select(BUDGET, literal(old.tenant_zone).label("tenant_zone"))
    return connection.execute(with_zone.where(*mine)).one()


async def remove(call: Call) -> Response:
    """End a budget: it counts, tells and stops nothing any more."""

    def transaction(connection: Connection) -> tuple[Done, bool]:
        old = _find(connection, call)
        call.check_match(old.revision)
        row = _write(connection, old, {"removed_at": call.at})
        return _done(connection, call, "delete", old, row), old.hard

    return await _change(call, transaction)


_PATH = "/budgets"
_ONE = "/budgets/{id}"
_QUERY = (Query("tenant", "only of this tenant", reach.TEXT), *reach.PAGE)
OPERATIONS = (
    Operation("POST", _PATH, make, "budget.update", "Make a budget",
              BudgetView, NewBudget, status=201, versioned=True),
    Operation("GET", _PATH, listed, "budget.read", "List budgets",
              views.Page[BudgetView], query=_QUERY),
    Operation("GET", _ONE, one, "budget.read", "Read a budget, and what was spent of it",
              BudgetState, versioned=True),
    Operation("PATCH", _ONE, change, "budget.update", "Change a budget",
              BudgetView, BudgetChange, versioned=True),
    Operation("DELETE", _ONE, remove, "budget.update", "End a budget", BudgetView, versioned=True),
)  # fmt: skip
