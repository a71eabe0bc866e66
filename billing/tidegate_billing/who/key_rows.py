"""Keys in the database: made, found, changed, each with its row in the audit log."""

import secrets
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, Row, insert, select, update

from tidegate_billing import keys
from tidegate_billing.frame import Call, etag
from tidegate_billing.tables import API_KEY
from tidegate_billing.web import ApiError
from tidegate_billing.who import audit, projects, reach, views
from tidegate_billing.who.scopes import Limits


class Scope(NamedTuple):
    """What a key may be used for, and until when (microseconds); None: everything, for ever."""

    models: list[str] | None = None
    routes: list[str] | None = None
    limits: Limits | None = None
    expires_at: int | None = None

    def columns(self) -> dict[str, object]:
        """As a row has it."""
        texts = {name: _text(getattr(self, name)) for name in ("models", "routes", "limits")}
        return {**texts, "expires_at": self.expires_at}


def _text(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def _value(text: str | None, kind: Any) -> Any:
    return None if text is None else msgspec.json.decode(text, type=kind)


def scope_of(row: "Row[Any]") -> Scope:
    """A row's scope."""
    return Scope(
        _value(row.models, list[str]),
        _value(row.routes, list[str]),
        _value(row.limits, Limits),
        row.expires_at,
    )


def view(row: "Row[Any]", pepper: int) -> views.Key:
    """A row, as it is shown; `pepper` is the version that new keys are hashed under."""
    scope = scope_of(row)
    return views.Key(
        id=row.id,
        prefix=row.prefix,
        tenant=row.tenant,
        project=row.project,
        name=row.name,
        created_at=views.shown(row.created_at),
        revoked_at=views.shown_or_null(row.revoked_at),
        expires_at=views.shown_or_null(row.expires_at),
        last_used_at=views.shown_or_null(row.last_used_at),
        models=scope.models,
        routes=scope.routes,
        limits=scope.limits,
        rotated_from=row.rotated_from,
        pepper_version=row.pepper_version,
        pepper_outdated=row.pepper_version < pepper,
    )


def made_view(row: "Row[Any]", key: str, until: int | None = None) -> views.MadeKey:
    """A key that was just made, with itself."""
    scope = scope_of(row)
    return views.MadeKey(
        id=row.id,
        key=key,
        prefix=row.prefix,
        tenant=row.tenant,
        project=row.project,
        name=row.name,
        created_at=views.shown(row.created_at),
        expires_at=views.shown_or_null(row.expires_at),
        models=scope.models,
        routes=scope.routes,
        limits=scope.limits,
        rotated_from=row.rotated_from,
        rotated_from_until=views.shown_or_null(until),
    )


def tag(row: "Row[Any]", pepper: int) -> str:
    """The ETag of a key: of its revision, and of what its view shows beside the row's own words."""
    return etag(row.revision, row.last_used_at, pepper)


def find(connection: Connection, call: Call) -> "Row[Any]":
    """The key that the path names, within reach. Raises ApiError (404)."""
    key_id = call.part("id")  # every tenant: within the actor's reach
    within = reach.of_tenant(call.actor, API_KEY.c.tenant)
    row = connection.execute(select(API_KEY).where(API_KEY.c.id == key_id, within)).first()
    if row is None:
        raise reach.missing("key", key_id)
    return row


def ensure_project(connection: Connection, call: Call, tenant: "Row[Any]", name: str) -> None:
    """Make the project where it is missing. Raises ApiError (409) where it is archived."""
    known = projects.named(connection, tenant.id, name)
    if known is None:
        projects.insert_project(connection, call, tenant, name)
    elif known.archived_at is not None:
        message = f"project: {name!r} is archived; allowed: a project in use"
        raise ApiError(409, "project_archived", message, "project")


class Wanted(NamedTuple):
    """A key to make. `old`: the row that it follows."""

    tenant: "Row[Any]"
    project: str
    name: str
    scope: Scope
    old: "Row[Any] | None" = None


def make(connection: Connection, call: Call, wanted: Wanted) -> "tuple[Row[Any], str]":
    """A new key's row, and the key, which is kept nowhere."""
    pepper = keys.current(call.service.peppers)
    key = call.secret(keys.KEY_START)
    key_id = "key_" + secrets.token_hex(10)
    connection.execute(
        insert(API_KEY).values(
            id=key_id,
            digest=keys.digest(call.service.peppers[pepper], key.encode()).hex(),
            pepper_version=pepper,
            prefix=keys.prefix(key),
            tenant=wanted.tenant.id,
            project=wanted.project,
            name=wanted.name,
            created_at=call.at,
            rotated_from=None if wanted.old is None else wanted.old.id,
            **wanted.scope.columns(),
        )
    )
    mine = API_KEY.c.tenant == wanted.tenant.id
    row = connection.execute(select(API_KEY).where(API_KEY.c.id == key_id, mine)).one()
    recorded(
        connection, call, "key.create" if wanted.old is None else "key.rotate", row, wanted.old
    )
    return row, key


def write(
    connection: Connection, call: Call, old: "Row[Any]", values: dict[str, object], action: str
) -> "Row[Any]":
    """Change a key's row."""
    this = (API_KEY.c.id == old.id, API_KEY.c.tenant == old.tenant)
    connection.execute(
        update(API_KEY).where(*this).values({**values, "revision": old.revision + 1})
    )
    row = connection.execute(select(API_KEY).where(*this)).one()
    recorded(connection, call, action, row, old)
    return row


def recorded(
    connection: Connection, call: Call, action: str, row: "Row[Any]", old: "Row[Any] | None"
) -> None:
    """Write down what became of a key."""
    pepper = keys.current(call.service.peppers)
    audit.record(
        connection,
        actor=call.actor.id,
        at=call.at,
        action=action,
        object_id=row.id,
        organization=reach.tenant(connection, call.actor, row.tenant).organization,
        tenant=row.tenant,
        before=None if old is None else view(old, pepper),
        after=view(row, pepper),
    )
