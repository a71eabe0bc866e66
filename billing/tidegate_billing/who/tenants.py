"""Tenants: who pays. Only the platform suspends one, moves it to another organization, or says
whether it pays before or after."""

from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType
from sqlalchemy import Connection, Row, update
from starlette.responses import Response

from tidegate_billing import accounts
from tidegate_billing.accounts import tenant_view
from tidegate_billing.frame import Call, Done, News, Operation, Query, etag, forbidden, show
from tidegate_billing.tables import TENANT
from tidegate_billing.web import ApiError, reply
from tidegate_billing.who import audit, organizations, reach, views
from tidegate_billing.who.fields import Slug, Words, Zone, check_name, check_slug, check_zone
from tidegate_billing.who.roles import Action
from tidegate_billing.who.tables import DEFAULT, SERVICE_ACCOUNT

Plan = Literal["postpaid", "prepaid"]
RESERVED: Final[tuple[tuple[str, Action], ...]] = (
    ("suspended", "tenant.suspend"),
    ("organization", "tenant.move"),
    ("plan", "tenant.plan"),
)
"""Fields that only the platform changes."""


class NewTenant(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /api/v1/tenants`. A service account's organization is its own."""

    name: Slug
    organization: Slug | UnsetType = UNSET
    display_name: Words = ""
    time_zone: Zone = "UTC"
    plan: Plan = "postpaid"


class TenantChange(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `PATCH /api/v1/tenants/{id}`; what is left out stays."""

    organization: Slug | UnsetType = UNSET
    display_name: Words | UnsetType = UNSET
    time_zone: Zone | UnsetType = UNSET
    suspended: bool | UnsetType = UNSET
    plan: Plan | UnsetType = UNSET


def _check(wanted: NewTenant | TenantChange) -> None:
    if wanted.display_name is not UNSET:
        check_name("display_name", wanted.display_name)
    if wanted.time_zone is not UNSET:
        check_zone("time_zone", wanted.time_zone)


async def make(call: Call) -> Response:
    """Make a tenant: postpaid and without limits, unless the platform says otherwise."""
    wanted: NewTenant = call.body
    check_slug("name", wanted.name)
    _check(wanted)
    actor = call.actor
    if wanted.plan != "postpaid" and not actor.may("tenant.plan"):
        raise forbidden(actor, "tenant.plan")
    if actor.tenant is not None:
        allowed = "an account of the organization"
        raise ApiError(403, "forbidden", f"an account of one tenant makes none; allowed: {allowed}")

    def transaction(connection: Connection) -> Done:
        name = DEFAULT if actor.role is None else actor.organization
        if wanted.organization is not UNSET:
            name = organizations.find(connection, actor, wanted.organization).id
        made = accounts.ensure_tenant(
            connection,
            wanted.name,
            call.at,
            actor=actor.id,
            organization=name,
            display_name=wanted.display_name,
            time_zone=wanted.time_zone,
            plan=wanted.plan,
        )
        if not made:
            raise ApiError(409, "tenant_exists", f"name: tenant {wanted.name!r} exists", "name")
        row = reach.tenant(connection, actor, wanted.name)
        return Done(
            tenant_view(row),
            etag(row.revision),
            201,
            news=News(tenants=[row.id]),
            limits=limits(None, row),
        )

    return await call.change(transaction)


async def listed(call: Call) -> Response:
    """Tenants, in the order they were made."""
    within = reach.of_organization(call.actor, TENANT.c.organization, TENANT.c.id)
    organization = call.given("organization")
    filters = [] if organization is None else [TENANT.c.organization == organization]
    rows, more = await call.read(
        lambda connection: reach.page(connection, call, TENANT, within, filters)
    )
    return reply(views.Page([tenant_view(row) for row in rows], more))


async def one(call: Call) -> Response:
    """One tenant."""
    row = await call.read(
        lambda connection: reach.tenant(connection, call.actor, call.part("id"), "id")
    )
    return show(tenant_view(row), etag(row.revision))


async def change(call: Call) -> Response:
    """Change a tenant; where that suspends it, connected routers refuse its keys when answered."""
    wanted: TenantChange = call.body
    _check(wanted)
    for field, action in RESERVED:
        if getattr(wanted, field) is not UNSET and not call.actor.may(action):
            raise forbidden(call.actor, action)

    def transaction(connection: Connection) -> Done:
        old = reach.tenant(connection, call.actor, call.part("id"), "id")
        call.check_match(old.revision)
        row = write(connection, call, old, wanted)
        return Done(
            tenant_view(row), etag(row.revision), news=news(old, row), limits=limits(old, row)
        )

    return await call.change(transaction)


def write(connection: Connection, call: Call, old: "Row[Any]", wanted: TenantChange) -> "Row[Any]":
    """Change a tenant's row where it is to be another."""
    values = _values(connection, call, wanted, old)
    if not values:
        return old
    values["revision"] = old.revision + 1
    connection.execute(update(TENANT).where(TENANT.c.id == old.id).values(values))
    row = reach.tenant(connection, call.actor, old.id)
    if row.organization != old.organization:
        _move_accounts(connection, row)
    _recorded(connection, call, old, row)
    return row


def _values(
    connection: Connection, call: Call, wanted: TenantChange, old: "Row[Any]"
) -> dict[str, object]:
    """The columns that get another value."""
    given: dict[str, object] = {
        name: getattr(wanted, name)
        for name in ("display_name", "time_zone", "plan")
        if getattr(wanted, name) is not UNSET
    }
    if wanted.organization is not UNSET:
        found = organizations.find(connection, call.actor, wanted.organization)
        given["organization"] = found.id
    if wanted.suspended is not UNSET and wanted.suspended != (old.suspended_at is not None):
        given["suspended_at"] = call.at if wanted.suspended else None
    return {name: value for name, value in given.items() if value != getattr(old, name)}


def _move_accounts(connection: Connection, row: "Row[Any]") -> None:
    """A tenant's own service accounts go where it goes."""
    connection.execute(
        update(SERVICE_ACCOUNT)
        .where(SERVICE_ACCOUNT.c.tenant == row.id)
        .values(organization=row.organization)
    )


def _recorded(connection: Connection, call: Call, old: "Row[Any]", row: "Row[Any]") -> None:
    audit.record(
        connection,
        actor=call.actor.id,
        at=call.at,
        action="tenant.update",
        object_id=row.id,
        organization=row.organization,
        tenant=row.id,
        before=tenant_view(old),
        after=tenant_view(row),
    )


def news(old: "Row[Any]", row: "Row[Any]") -> News | None:
    """What routers must hear of a change."""
    was, is_now = old.suspended_at is not None, row.suspended_at is not None
    if was == is_now:
        return None
    return News(suspended=[row.id]) if is_now else News(resumed=[row.id])


def limits(old: "Row[Any] | None", row: "Row[Any]") -> frozenset[str]:
    """The tenant, where what it may spend has changed, or when its days begin."""
    if old is None:
        changed = row.plan != "postpaid"
    else:
        changed = (row.plan, row.time_zone) != (old.plan, old.time_zone)
    return frozenset({row.id} if changed else ())


_PATH = "/tenants"
_ONE = "/tenants/{id}"
_QUERY = (Query("organization", "only of this organization", reach.TEXT), *reach.PAGE)
OPERATIONS = (
    Operation("POST", _PATH, make, "tenant.create", "Make a tenant",
              views.Tenant, NewTenant, status=201, versioned=True),
    Operation("GET", _PATH, listed, "tenant.read", "List tenants",
              views.Page[views.Tenant], query=_QUERY),
    Operation("GET", _ONE, one, "tenant.read", "Read a tenant", views.Tenant, versioned=True),
    Operation("PATCH", _ONE, change, "tenant.update", "Change a tenant, suspend or move it",
              views.Tenant, TenantChange, versioned=True),
)  # fmt: skip
