"""Organizations: what tenants belong to together. The platform's admin makes them."""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from sqlalchemy import Connection, Row, insert, select, true, update
from starlette.responses import Response

from tidegate_billing.frame import Call, Done, Operation, etag, show
from tidegate_billing.web import ApiError, reply
from tidegate_billing.who import audit, views
from tidegate_billing.who.actor import Actor
from tidegate_billing.who.fields import Slug, Words, check_name, check_slug
from tidegate_billing.who.reach import PAGE, missing, page
from tidegate_billing.who.tables import ORGANIZATION


class NewOrganization(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /api/v1/organizations`."""

    name: Slug
    display_name: Words = ""


class OrganizationChange(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `PATCH /api/v1/organizations/{id}`; what is left out stays."""

    display_name: Words | UnsetType = UNSET


def view(row: "Row[Any]") -> views.Organization:
    """A row, as it is shown."""
    return views.Organization(
        id=row.id,
        name=row.id,
        display_name=row.display_name,
        created_at=views.shown(row.created_at),
    )


def find(
    connection: Connection, actor: Actor, name: str, param: str = "organization"
) -> "Row[Any]":
    """An organization within reach. Raises ApiError (404)."""
    row = connection.execute(select(ORGANIZATION).where(ORGANIZATION.c.id == name)).first()
    if row is None or not actor.covers(row.id, None):
        raise missing("organization", name, param)
    return row


def _recorded(
    connection: Connection, call: Call, row: "Row[Any]", before: views.Organization | None
) -> None:
    audit.record(
        connection,
        actor=call.actor.id,
        at=call.at,
        action="organization.update" if before else "organization.create",
        object_id=row.id,
        organization=row.id,
        tenant=None,
        before=before,
        after=view(row),
    )


async def make(call: Call) -> Response:
    """Make an organization."""
    wanted: NewOrganization = call.body
    check_slug("name", wanted.name)
    check_name("display_name", wanted.display_name)

    def transaction(connection: Connection) -> Done:
        name = wanted.name
        known = select(ORGANIZATION.c.seq).where(ORGANIZATION.c.id == name)
        if connection.execute(known).scalar() is not None:
            raise ApiError(409, "organization_exists", f"name: there is {name!r} already", "name")
        values = {"id": name, "display_name": wanted.display_name, "created_at": call.at}
        connection.execute(insert(ORGANIZATION).values(values))
        row = find(connection, call.actor, name)
        _recorded(connection, call, row, None)
        return Done(view(row), etag(row.revision), 201)

    return await call.change(transaction)


async def listed(call: Call) -> Response:
    """Organizations, in the order they were made."""
    actor = call.actor
    within = true() if actor.role is None else ORGANIZATION.c.id == actor.organization
    if actor.tenant is not None:  # its organization is not within its tenant
        within = ORGANIZATION.c.id.is_(None)
    rows, more = await call.read(lambda connection: page(connection, call, ORGANIZATION, within))
    return reply(views.Page([view(row) for row in rows], more))


async def one(call: Call) -> Response:
    """One organization."""
    row = await call.read(lambda connection: find(connection, call.actor, call.part("id"), "id"))
    return show(view(row), etag(row.revision))


async def change(call: Call) -> Response:
    """Change what an organization is called for people."""
    wanted: OrganizationChange = call.body
    if wanted.display_name is not UNSET:
        check_name("display_name", wanted.display_name)

    def transaction(connection: Connection) -> Done:
        old = find(connection, call.actor, call.part("id"), "id")
        call.check_match(old.revision)
        if wanted.display_name in {UNSET, old.display_name}:
            return Done(view(old), etag(old.revision))
        connection.execute(
            update(ORGANIZATION)
            .where(ORGANIZATION.c.id == old.id)
            .values(display_name=wanted.display_name, revision=old.revision + 1)
        )
        row = find(connection, call.actor, old.id)
        _recorded(connection, call, row, view(old))
        return Done(view(row), etag(row.revision))

    return await call.change(transaction)


_PATH = "/organizations"
_ONE = "/organizations/{id}"
OPERATIONS = (
    Operation("POST", _PATH, make, "organization.create", "Make an organization",
              views.Organization, NewOrganization, status=201, versioned=True),
    Operation("GET", _PATH, listed, "organization.read", "List organizations",
              views.Page[views.Organization], query=PAGE),
    Operation("GET", _ONE, one, "organization.read", "Read an organization",
              views.Organization, versioned=True),
    Operation("PATCH", _ONE, change, "organization.update", "Change an organization",
              views.Organization, OrganizationChange, versioned=True),
)  # fmt: skip
