"""The routes of keys: made, listed, changed, rotated with an overlap, revoked."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType
from sqlalchemy import Connection, Row, or_
from starlette.responses import Response

from tidegate_billing import accounts, keys
from tidegate_billing.accounts import key_view
from tidegate_billing.frame import Call, Done, News, Operation, Query, show
from tidegate_billing.service import log
from tidegate_billing.tables import API_KEY
from tidegate_billing.web import ApiError, bad, reply
from tidegate_billing.who import key_rows, reach, scopes, views
from tidegate_billing.who.fields import Future, Slug, Words, check_name, check_slug, future
from tidegate_billing.who.key_rows import Scope, Wanted
from tidegate_billing.who.projects import FLAG, flag
from tidegate_billing.who.scopes import Limits

MONTH = 31 * 24 * 3600
ModelName = Annotated[
    str,
    Meta(extra_json_schema={"pattern": r"^[^ \u0000-\u001f\u007f-\u009f]{1,253}$"}),
]
Models = Annotated[
    list[ModelName], Meta(extra_json_schema={"minItems": 1, "maxItems": scopes.MOST})
]
Routes = Annotated[
    list[Annotated[str, Meta(extra_json_schema={"enum": list(scopes.ROUTES)})]],
    Meta(extra_json_schema={"minItems": 1}),
]


class NewKey(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /api/v1/keys`. Scopes that are left out or null: everything."""

    tenant: Slug
    project: Slug = "default"
    name: Words = ""
    expires_at: Future | None = None
    models: Models | None = None
    routes: Routes | None = None
    limits: Limits | None = None


class KeyChange(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `PATCH /api/v1/keys/{id}`; what is left out stays, null lifts a bound."""

    name: Words | UnsetType = UNSET
    expires_at: Future | UnsetType | None = UNSET
    models: Models | UnsetType | None = UNSET
    routes: Routes | UnsetType | None = UNSET
    limits: Limits | UnsetType | None = UNSET


class KeyRotation(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /api/v1/keys/{id}/rotate`. The new key has the old one's scopes, and its end
    unless another is given; the old one stops by itself when the overlap is over."""

    overlap_seconds: Annotated[int, Meta(ge=0, le=MONTH)]
    expires_at: Future | UnsetType | None = UNSET


def _check(wanted: NewKey | KeyChange) -> None:
    if wanted.name is not UNSET:
        check_name("name", wanted.name)
    for field, check in (("models", scopes.models_error), ("routes", scopes.routes_error)):
        value = getattr(wanted, field)
        wrong = check(value) if value is not None and value is not UNSET else None
        if wrong is not None:
            raise bad(field, wrong)


def _expiry(value: datetime | None, now: int) -> int | None:
    return None if value is None else future("expires_at", value, now)


async def make(call: Call) -> Response:
    """Make a key, shown in this one answer; connected routers know it when that is given."""
    wanted: NewKey = call.body
    check_slug("tenant", wanted.tenant)
    check_slug("project", wanted.project)
    _check(wanted)
    scope = Scope(wanted.models, wanted.routes, wanted.limits, _expiry(wanted.expires_at, call.at))

    def transaction(connection: Connection) -> Done:
        # A service account can't tell a tenant that is missing from one that is not its own.
        new = call.actor.role is None and accounts.ensure_tenant(
            connection, wanted.tenant, call.at, actor=call.actor.id
        )
        tenant = reach.tenant(connection, call.actor, wanted.tenant)
        key_rows.ensure_project(connection, call, tenant, wanted.project)
        asked = Wanted(tenant, wanted.project, wanted.name, scope)
        row, key = key_rows.make(connection, call, asked)
        news = News(keys=[key_view(row)], tenants=[tenant.id] if new else [])
        return _made(call, row, key, news)

    answer = await call.change(transaction)
    log.info("key_made", tenant=wanted.tenant, actor=call.actor.id)
    return answer


def _made(call: Call, row: "Row[Any]", key: str, news: News, until: int | None = None) -> Done:
    return Done(
        key_rows.made_view(row, key, until),
        key_rows.tag(row, keys.current(call.service.peppers)),
        201,
        secret=("key", keys.KEY_START),
        news=news,
    )


async def listed(call: Call) -> Response:
    """Keys that work; with `revoked=true`, those that do not any more too."""
    pepper = keys.current(call.service.peppers)
    filters = [
        API_KEY.c[name] == call.given(name) for name in ("tenant", "project") if call.given(name)
    ]
    if not flag(call, "revoked"):
        filters.append(API_KEY.c.revoked_at.is_(None))
        filters.append(or_(API_KEY.c.expires_at.is_(None), API_KEY.c.expires_at > call.at))
    if flag(call, "pepper_outdated"):
        filters.append(API_KEY.c.pepper_version < pepper)
    within = reach.of_tenant(call.actor, API_KEY.c.tenant)
    rows, more = await call.read(
        lambda connection: reach.page(connection, call, API_KEY, within, filters)
    )
    return reply(views.Page([key_rows.view(row, pepper) for row in rows], more))


async def one(call: Call) -> Response:
    """One key."""
    pepper = keys.current(call.service.peppers)
    row = await call.read(lambda connection: key_rows.find(connection, call))
    return show(key_rows.view(row, pepper), key_rows.tag(row, pepper))


async def change(call: Call) -> Response:
    """Change a key's name, end or scopes; connected routers go by them when this is answered."""
    wanted: KeyChange = call.body
    _check(wanted)
    pepper = keys.current(call.service.peppers)

    def transaction(connection: Connection) -> Done:
        old = key_rows.find(connection, call)
        call.check_match(old.revision)
        _check_unrevoked(old)
        values = _changed(old, wanted, call.at)
        if not values:
            return Done(key_rows.view(old, pepper), key_rows.tag(old, pepper))
        row = key_rows.write(connection, call, old, values, "key.update")
        news = News(keys=[key_view(row)])
        return Done(key_rows.view(row, pepper), key_rows.tag(row, pepper), news=news)

    return await call.change(transaction)


def _check_unrevoked(row: "Row[Any]") -> None:
    if row.revoked_at is not None:
        raise ApiError(409, "key_revoked", f"id: key {row.id!r} is revoked for good", "id")


def _changed(old: "Row[Any]", wanted: KeyChange, now: int) -> dict[str, object]:
    """The columns that get another value."""
    scope = key_rows.scope_of(old)
    for field in ("models", "routes", "limits"):
        if getattr(wanted, field) is not UNSET:
            scope = scope._replace(**{field: getattr(wanted, field)})
    if wanted.expires_at is not UNSET:
        scope = scope._replace(expires_at=_expiry(wanted.expires_at, now))
    given = scope.columns()
    if wanted.name is not UNSET:
        given["name"] = wanted.name
    return {name: value for name, value in given.items() if value != getattr(old, name)}


async def rotate(call: Call) -> Response:
    """Make a key's successor; both work until the overlap is over."""
    wanted: KeyRotation = call.body

    def transaction(connection: Connection) -> Done:
        old = key_rows.find(connection, call)
        call.check_match(old.revision)
        _check_unrevoked(old)
        if old.expires_at is not None and old.expires_at <= call.at:
            raise ApiError(409, "key_expired", f"id: key {old.id!r} has expired", "id")
        scope = key_rows.scope_of(old)
        if wanted.expires_at is not UNSET:
            scope = scope._replace(expires_at=_expiry(wanted.expires_at, call.at))
        tenant = reach.tenant(connection, call.actor, old.tenant)
        asked = Wanted(tenant, old.project, old.name, scope, old)
        row, key = key_rows.make(connection, call, asked)
        if not wanted.overlap_seconds:
            key_rows.write(connection, call, old, {"revoked_at": call.at}, "key.revoke")
            news = News(keys=[key_view(row)], removed_keys=[old.id])
            return _made(call, row, key, news, call.at)
        until = call.at + wanted.overlap_seconds * 1_000_000
        until = until if old.expires_at is None else min(until, old.expires_at)
        ending = key_rows.write(connection, call, old, {"expires_at": until}, "key.update")
        news = News(keys=[key_view(row), key_view(ending)])
        return _made(call, row, key, news, until)

    return await call.change(transaction)


async def revoke(call: Call) -> Response:
    """Revoke a key for good; connected routers refuse it when this is answered."""
    pepper = keys.current(call.service.peppers)

    def transaction(connection: Connection) -> Done:
        row = key_rows.find(connection, call)
        call.check_match(row.revision)
        if row.revoked_at is None:
            row = key_rows.write(connection, call, row, {"revoked_at": call.at}, "key.revoke")
        view = msgspec.structs.asdict(key_rows.view(row, pepper))
        news = News(removed_keys=[row.id])
        return Done(views.RevokedKey(**view), key_rows.tag(row, pepper), news=news)

    answer = await call.change(transaction)
    log.info("key_revoked", id=call.part("id"), actor=call.actor.id)
    return answer


_PATH = "/keys"
_ONE = "/keys/{id}"
_QUERY = (
    Query("tenant", "only of this tenant", reach.TEXT),
    Query("project", "only of projects of this name", reach.TEXT),
    Query("revoked", "those that do not work any more too", FLAG),
    Query("pepper_outdated", "only those under a pepper of before", FLAG),
    *reach.PAGE,
)
OPERATIONS = (
    Operation("POST", _PATH, make, "key.create", "Make a key; it is shown once",
              views.MadeKey, NewKey, status=201, versioned=True),
    Operation("GET", _PATH, listed, "key.read", "List keys", views.Page[views.Key], query=_QUERY),
    Operation("GET", _ONE, one, "key.read", "Read a key", views.Key, versioned=True),
    Operation("PATCH", _ONE, change, "key.update", "Change a key's name, end or scopes",
              views.Key, KeyChange, versioned=True),
    Operation("DELETE", _ONE, revoke, "key.update", "Revoke a key for good",
              views.RevokedKey, versioned=True),
    Operation("POST", _ONE + "/rotate", rotate, "key.create", "Make a key's successor",
              views.MadeKey, KeyRotation, status=201, versioned=True),
)  # fmt: skip
