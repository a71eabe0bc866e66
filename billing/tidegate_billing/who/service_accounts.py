"""Service accounts: programs that may call the management API, by their role and no further."""

import secrets
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType
from sqlalchemy import Connection, Row, insert, or_, select, update
from starlette.responses import Response

from tidegate_billing import keys
from tidegate_billing.frame import Call, Done, Operation, Query, etag, show
from tidegate_billing.web import ApiError, bad, reply
from tidegate_billing.who import audit, organizations, reach, views
from tidegate_billing.who.fields import Slug, Words, check_name
from tidegate_billing.who.login import TOKEN_START
from tidegate_billing.who.projects import FLAG, flag
from tidegate_billing.who.roles import Role
from tidegate_billing.who.tables import SERVICE_ACCOUNT, SERVICE_TOKEN

MONTH = 31 * 24 * 3600


class NewServiceAccount(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /api/v1/service-accounts`: of a tenant, or else of an organization."""

    name: Words
    role: Role
    organization: Slug | UnsetType = UNSET
    tenant: Slug | UnsetType = UNSET


class ServiceAccountChange(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `PATCH /api/v1/service-accounts/{id}`; what is left out stays."""

    name: Words | UnsetType = UNSET
    role: Role | UnsetType = UNSET


class TokenRotation(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /api/v1/service-accounts/{id}/rotate`: for so long older tokens still work."""

    overlap_seconds: Annotated[int, Meta(ge=0, le=MONTH)]


def view(row: "Row[Any]") -> views.ServiceAccount:
    """A row, as it is shown."""
    return views.ServiceAccount(
        id=row.id,
        name=row.name,
        role=row.role,
        organization=row.organization,
        tenant=row.tenant,
        created_at=views.shown(row.created_at),
        disabled_at=views.shown_or_null(row.disabled_at),
    )


def _with_token(row: "Row[Any]", token: str, until: int | None, status: int = 201) -> Done:
    fields = msgspec.structs.asdict(view(row))
    made = views.MadeServiceAccount(**fields, token=token, tokens_until=views.shown_or_null(until))
    return Done(made, etag(row.revision), status, secret=("token", TOKEN_START))


def _find(connection: Connection, call: Call) -> "Row[Any]":
    name = call.part("id")  # every tenant: within the actor's reach
    columns = SERVICE_ACCOUNT.c
    within = reach.of_organization(call.actor, columns.organization, columns.tenant)
    row = connection.execute(select(SERVICE_ACCOUNT).where(columns.id == name, within)).first()
    if row is None:
        raise reach.missing("service account", name)
    return row


def _place(connection: Connection, call: Call, wanted: NewServiceAccount) -> tuple[str, str | None]:
    """The organization and the tenant of a new account, both within reach."""
    if (wanted.tenant is UNSET) == (wanted.organization is UNSET):
        raise bad("tenant", "say one of tenant and organization, and not both")
    if wanted.tenant is not UNSET:
        tenant = reach.tenant(connection, call.actor, wanted.tenant)
        return tenant.organization, tenant.id
    assert wanted.organization is not UNSET
    if call.actor.tenant is not None:
        raise reach.missing("organization", wanted.organization, "organization")
    return organizations.find(connection, call.actor, wanted.organization).id, None


def _insert_token(connection: Connection, call: Call, account: str) -> str:
    pepper = keys.current(call.service.peppers)
    token = call.secret(TOKEN_START)
    connection.execute(
        insert(SERVICE_TOKEN).values(
            id="tok_" + secrets.token_hex(10),
            account=account,
            digest=keys.digest(call.service.peppers[pepper], token.encode()).hex(),
            pepper_version=pepper,
            prefix=keys.prefix(token),
            created_at=call.at,
        )
    )
    return token


def _recorded(
    connection: Connection, call: Call, action: str, row: "Row[Any]", old: "Row[Any] | None"
) -> None:
    audit.record(
        connection,
        actor=call.actor.id,
        at=call.at,
        action=f"service_account.{action}",
        object_id=row.id,
        organization=row.organization,
        tenant=row.tenant,
        before=None if old is None else view(old),
        after=view(row),
    )


def _write(
    connection: Connection, call: Call, old: "Row[Any]", values: dict[str, object], action: str
) -> "Row[Any]":
    # every tenant: `old` was found within the actor's reach
    connection.execute(
        update(SERVICE_ACCOUNT)
        .where(SERVICE_ACCOUNT.c.id == old.id)
        .values({**values, "revision": old.revision + 1})
    )
    row = _find(connection, call)
    _recorded(connection, call, action, row, old)
    return row


async def make(call: Call) -> Response:
    """Make a service account and its first token, shown in this one answer."""
    wanted: NewServiceAccount = call.body
    check_name("name", wanted.name)

    def transaction(connection: Connection) -> Done:
        organization, tenant = _place(connection, call, wanted)
        account = "sa_" + secrets.token_hex(10)
        connection.execute(
            insert(SERVICE_ACCOUNT).values(
                id=account,
                name=wanted.name,
                role=wanted.role,
                organization=organization,
                tenant=tenant,
                created_at=call.at,
            )
        )
        # every tenant: the account that was just made
        made = select(SERVICE_ACCOUNT).where(SERVICE_ACCOUNT.c.id == account)
        row = connection.execute(made).one()
        _recorded(connection, call, "create", row, None)
        return _with_token(row, _insert_token(connection, call, account), None)

    return await call.change(transaction)


async def listed(call: Call) -> Response:
    """Service accounts that work; with `disabled=true`, the others too."""
    columns = SERVICE_ACCOUNT.c
    filters = [
        columns[name] == call.given(name) for name in ("organization", "tenant") if call.given(name)
    ]
    if not flag(call, "disabled"):
        filters.append(columns.disabled_at.is_(None))
    within = reach.of_organization(call.actor, columns.organization, columns.tenant)
    rows, more = await call.read(
        lambda connection: reach.page(connection, call, SERVICE_ACCOUNT, within, filters)
    )
    return reply(views.Page([view(row) for row in rows], more))


async def one(call: Call) -> Response:
    """One service account."""
    row = await call.read(lambda connection: _find(connection, call))
    return show(view(row), etag(row.revision))


async def change(call: Call) -> Response:
    """Change a service account's name or role."""
    wanted: ServiceAccountChange = call.body
    if wanted.name is not UNSET:
        check_name("name", wanted.name)

    def transaction(connection: Connection) -> Done:
        old = _find(connection, call)
        call.check_match(old.revision)
        values: dict[str, object] = {
            name: getattr(wanted, name)
            for name in ("name", "role")
            if getattr(wanted, name) not in {UNSET, getattr(old, name)}
        }
        row = _write(connection, call, old, values, "update") if values else old
        return Done(view(row), etag(row.revision))

    return await call.change(transaction)


async def rotate(call: Call) -> Response:
    """Make a new token, shown in this one answer; older ones stop when the overlap is over."""
    wanted: TokenRotation = call.body

    def transaction(connection: Connection) -> Done:
        old = _find(connection, call)
        call.check_match(old.revision)
        if old.disabled_at is not None:
            message = f"id: service account {old.id!r} is disabled for good"
            raise ApiError(409, "service_account_disabled", message, "id")
        until = call.at + wanted.overlap_seconds * 1_000_000
        expires = SERVICE_TOKEN.c.expires_at
        connection.execute(
            update(SERVICE_TOKEN)
            .where(SERVICE_TOKEN.c.account == old.id, or_(expires.is_(None), expires > until))
            .values(expires_at=until)
        )
        row = _write(connection, call, old, {}, "rotate")
        return _with_token(row, _insert_token(connection, call, row.id), until)

    return await call.change(transaction)


async def disable(call: Call) -> Response:
    """End a service account for good: its tokens work no more."""

    def transaction(connection: Connection) -> Done:
        row = _find(connection, call)
        call.check_match(row.revision)
        if row.id == call.actor.id:
            raise ApiError(409, "own_account", "id: a service account can't end itself", "id")
        if row.disabled_at is None:
            row = _write(connection, call, row, {"disabled_at": call.at}, "disable")
        return Done(view(row), etag(row.revision))

    return await call.change(transaction)


_PATH = "/service-accounts"
_ONE = "/service-accounts/{id}"
_QUERY = (
    Query("organization", "only of this organization", reach.TEXT),
    Query("tenant", "only of this tenant", reach.TEXT),
    Query("disabled", "disabled ones too", FLAG),
    *reach.PAGE,
)
OPERATIONS = (
    Operation("POST", _PATH, make, "service_account.create",
              "Make a service account; its token is shown once",
              views.MadeServiceAccount, NewServiceAccount, status=201, versioned=True),
    Operation("GET", _PATH, listed, "service_account.read", "List service accounts",
              views.Page[views.ServiceAccount], query=_QUERY),
    Operation("GET", _ONE, one, "service_account.read", "Read a service account",
              views.ServiceAccount, versioned=True),
    Operation("PATCH", _ONE, change, "service_account.update", "Change a service account",
              views.ServiceAccount, ServiceAccountChange, versioned=True),
    Operation("DELETE", _ONE, disable, "service_account.update", "End a service account for good",
              views.ServiceAccount, versioned=True),
    Operation("POST", _ONE + "/rotate", rotate, "service_account.update",
              "Make a new token; it is shown once",
              views.MadeServiceAccount, TokenRotation, status=201, versioned=True),
)  # fmt: skip
