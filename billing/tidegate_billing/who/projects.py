"""Projects: the parts of a tenant that keys belong to. One is archived and never deleted, because
events and invoices name it."""

import secrets
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from sqlalchemy import Connection, Row, func, insert, or_, select, update
from starlette.responses import Response

from tidegate_billing.frame import Call, Done, Operation, Query, etag, show
from tidegate_billing.tables import API_KEY, PROJECT
from tidegate_billing.web import ApiError, bad, reply
from tidegate_billing.who import audit, reach, views
from tidegate_billing.who.fields import Slug, Words, check_name, check_slug


class NewProject(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /api/v1/projects`."""

    tenant: Slug
    name: Slug
    display_name: Words = ""


class ProjectChange(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `PATCH /api/v1/projects/{id}`; what is left out stays."""

    display_name: Words | UnsetType = UNSET
    archived: bool | UnsetType = UNSET


def view(row: "Row[Any]") -> views.Project:
    """A row, as it is shown."""
    return views.Project(
        id=row.id,
        tenant=row.tenant,
        name=row.name,
        display_name=row.display_name,
        created_at=views.shown(row.created_at),
        archived=row.archived_at is not None,
    )


def named(connection: Connection, tenant: str, name: str) -> "Row[Any] | None":
    """A tenant's project by its name."""
    query = select(PROJECT).where(PROJECT.c.tenant == tenant, PROJECT.c.name == name)
    return connection.execute(query).first()


def insert_project(
    connection: Connection, call: Call, tenant: "Row[Any]", name: str, display_name: str = ""
) -> "Row[Any]":
    """Make a project that is not there yet."""
    made = "proj_" + secrets.token_hex(10)
    connection.execute(
        insert(PROJECT).values(
            id=made, tenant=tenant.id, name=name, display_name=display_name, created_at=call.at
        )
    )
    mine = PROJECT.c.tenant == tenant.id
    row = connection.execute(select(PROJECT).where(PROJECT.c.id == made, mine)).one()
    _recorded(connection, call, tenant, row, None)
    return row


def _recorded(
    connection: Connection,
    call: Call,
    tenant: "Row[Any]",
    row: "Row[Any]",
    before: views.Project | None,
) -> None:
    audit.record(
        connection,
        actor=call.actor.id,
        at=call.at,
        action="project.update" if before else "project.create",
        object_id=row.id,
        organization=tenant.organization,
        tenant=row.tenant,
        before=before,
        after=view(row),
    )


def _find(connection: Connection, call: Call) -> "Row[Any]":
    name = call.part("id")  # every tenant: within the actor's reach
    within = reach.of_tenant(call.actor, PROJECT.c.tenant)
    row = connection.execute(select(PROJECT).where(PROJECT.c.id == name, within)).first()
    if row is None:
        raise reach.missing("project", name)
    return row


async def make(call: Call) -> Response:
    """Make a project."""
    wanted: NewProject = call.body
    check_slug("name", wanted.name)
    check_name("display_name", wanted.display_name)

    def transaction(connection: Connection) -> Done:
        tenant = reach.tenant(connection, call.actor, wanted.tenant)
        if named(connection, tenant.id, wanted.name) is not None:
            message = f"name: tenant {tenant.id!r} has a project {wanted.name!r}"
            raise ApiError(409, "project_exists", message, "name")
        row = insert_project(connection, call, tenant, wanted.name, wanted.display_name)
        return Done(view(row), etag(row.revision), 201)

    return await call.change(transaction)


async def listed(call: Call) -> Response:
    """Projects in use; with `archived=true`, the others too."""
    filters = []
    tenant = call.given("tenant")
    if tenant is not None:
        filters.append(PROJECT.c.tenant == tenant)
    if not flag(call, "archived"):
        filters.append(PROJECT.c.archived_at.is_(None))
    within = reach.of_tenant(call.actor, PROJECT.c.tenant)
    rows, more = await call.read(
        lambda connection: reach.page(connection, call, PROJECT, within, filters)
    )
    return reply(views.Page([view(row) for row in rows], more))


def flag(call: Call, name: str) -> bool:
    """A parameter that is true or false (or left out, which is false)."""
    value = call.given(name) or "false"
    if value not in {"true", "false"}:
        raise bad(name, f"{value[:80]!r} is neither; allowed: true, false")
    return value == "true"


async def one(call: Call) -> Response:
    """One project."""
    row = await call.read(lambda connection: _find(connection, call))
    return show(view(row), etag(row.revision))


async def change(call: Call) -> Response:
    """Change a project; one whose keys still work can't be archived."""
    wanted: ProjectChange = call.body
    if wanted.display_name is not UNSET:
        check_name("display_name", wanted.display_name)

    def transaction(connection: Connection) -> Done:
        old = _find(connection, call)
        call.check_match(old.revision)
        values: dict[str, object] = {}
        if wanted.display_name not in {UNSET, old.display_name}:
            values["display_name"] = wanted.display_name
        if wanted.archived not in {UNSET, old.archived_at is not None}:
            values["archived_at"] = call.at if wanted.archived else None
            if wanted.archived:
                _check_unused(connection, call, old)
        if not values:
            return Done(view(old), etag(old.revision))
        values["revision"] = old.revision + 1
        this = (PROJECT.c.id == old.id, PROJECT.c.tenant == old.tenant)
        connection.execute(update(PROJECT).where(*this).values(values))
        row = _find(connection, call)
        tenant = reach.tenant(connection, call.actor, row.tenant)
        _recorded(connection, call, tenant, row, view(old))
        return Done(view(row), etag(row.revision))

    return await call.change(transaction)


def _check_unused(connection: Connection, call: Call, row: "Row[Any]") -> None:
    working = connection.execute(
        select(func.count())
        .select_from(API_KEY)
        .where(
            API_KEY.c.tenant == row.tenant,
            API_KEY.c.project == row.name,
            API_KEY.c.revoked_at.is_(None),
            or_(API_KEY.c.expires_at.is_(None), API_KEY.c.expires_at > call.at),
        )
    ).scalar_one()
    if working:
        message = f"archived: {working} keys of this project still work; revoke them first"
        raise ApiError(409, "project_has_keys", message, "archived")


_PATH = "/projects"
_ONE = "/projects/{id}"
FLAG = {"type": "string", "enum": ["true", "false"]}
_QUERY = (
    Query("tenant", "only of this tenant", reach.TEXT),
    Query("archived", "archived ones too", FLAG),
    *reach.PAGE,
)
OPERATIONS = (
    Operation("POST", _PATH, make, "project.create", "Make a project",
              views.Project, NewProject, status=201, versioned=True),
    Operation("GET", _PATH, listed, "project.read", "List projects",
              views.Page[views.Project], query=_QUERY),
    Operation("GET", _ONE, one, "project.read", "Read a project", views.Project, versioned=True),
    Operation("PATCH", _ONE, change, "project.update", "Change a project, or archive it",
              views.Project, ProjectChange, versioned=True),
)  # fmt: skip
