"""The routes of webhook endpoints: where a tenant's messages go, and the secrets that sign them."""

import dataclasses
import secrets
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType
from sqlalchemy import ColumnElement, Connection, Row, func, insert, select, update
from starlette.responses import Response

from tidegate_billing import alerts, destinations
from tidegate_billing.destinations import DestinationError
from tidegate_billing.frame import Call, Done, Operation, Query, etag, show
from tidegate_billing.web import ApiError, bad, reply
from tidegate_billing.webhooks import sending, signing, views
from tidegate_billing.webhooks.tables import WEBHOOK_DELIVERY, WEBHOOK_ENDPOINT
from tidegate_billing.webhooks.views import DeliveryView, EndpointView, Event, MadeEndpoint
from tidegate_billing.who import audit, idempotency, reach
from tidegate_billing.who.fields import Slug, Words, check_name
from tidegate_billing.who.views import Page

MOST = 20
"""Endpoints of a tenant."""
MONTH = 31 * 24 * 3600
TEST = "webhook.test"
Url = Annotated[str, Meta(extra_json_schema={"format": "uri", "maxLength": destinations.LONGEST})]
Events = Annotated[list[Event], Meta(min_length=1, max_length=20)]


class NewEndpoint(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /api/v1/webhook-endpoints`. `events` null: all kinds, later ones too."""

    tenant: Slug
    url: Url
    events: Events | None = None
    description: Words = ""


class EndpointChange(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `PATCH /api/v1/webhook-endpoints/{id}`; what is left out stays."""

    url: Url | UnsetType = UNSET
    events: Events | UnsetType | None = UNSET
    description: Words | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET


class Rotation(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /api/v1/webhook-endpoints/{id}/rotate`: for so long older secrets sign along."""

    overlap_seconds: Annotated[int, Meta(ge=0, le=MONTH)]


def _check_url(call: Call, url: str) -> str:
    """`url`, where messages may go there as far as can be seen without resolving its name."""
    policy = call.service.destinations
    try:
        found = destinations.parse(url, policy)
        if destinations.is_address(found.host):
            destinations.check(found, [found.host], policy)
    except DestinationError as error:
        raise bad("url", str(error)) from error
    return url


def _with_secret(call: Call) -> tuple[Call, str]:
    """A call, and the secret that it makes: one that is the same in both alphabets of base64, since
    ours for URLs is not the one that receivers' libraries read."""
    while True:
        secret = call.secret(alerts.PREFIX)
        if not {"-", "_"} & set(secret.removeprefix(alerts.PREFIX)):
            return call, secret
        call = dataclasses.replace(call, nonce=idempotency.new_nonce())


def _find(connection: Connection, call: Call) -> "Row[Any]":
    name = call.part("id")  # every tenant: within the actor's reach
    within = reach.of_tenant(call.actor, WEBHOOK_ENDPOINT.c.tenant)
    row = connection.execute(
        select(WEBHOOK_ENDPOINT).where(
            WEBHOOK_ENDPOINT.c.id == name, WEBHOOK_ENDPOINT.c.removed_at.is_(None), within
        )
    ).first()
    if row is None:
        raise reach.missing("webhook endpoint", name)
    return row


def _check_number(connection: Connection, tenant: str) -> None:
    mine = select(func.count()).where(
        WEBHOOK_ENDPOINT.c.tenant == tenant, WEBHOOK_ENDPOINT.c.removed_at.is_(None)
    )
    if connection.execute(mine).scalar_one() >= MOST:
        message = f"tenant: {tenant!r} has {MOST} webhook endpoints, which is the most"
        raise ApiError(409, "too_many_endpoints", message, "tenant")


def _row(connection: Connection, tenant: str, name: str) -> "Row[Any]":
    mine = (WEBHOOK_ENDPOINT.c.tenant == tenant, WEBHOOK_ENDPOINT.c.id == name)
    return connection.execute(select(WEBHOOK_ENDPOINT).where(*mine)).one()


def _write(
    connection: Connection, call: Call, old: "Row[Any]", values: dict[str, object], action: str
) -> "Row[Any]":
    mine = (WEBHOOK_ENDPOINT.c.tenant == old.tenant, WEBHOOK_ENDPOINT.c.id == old.id)
    connection.execute(
        update(WEBHOOK_ENDPOINT).where(*mine).values({**values, "revision": old.revision + 1})
    )
    row = _row(connection, old.tenant, old.id)
    _recorded(connection, call, action, row, old)
    return row


def _recorded(
    connection: Connection, call: Call, action: str, row: "Row[Any]", old: "Row[Any] | None"
) -> None:
    audit.record(
        connection,
        actor=call.actor.id,
        at=call.at,
        action=f"webhook_endpoint.{action}",
        object_id=row.id,
        organization=reach.tenant(connection, call.actor, row.tenant).organization,
        tenant=row.tenant,
        before=None if old is None else views.endpoint(old, call.at),
        after=None if action == "delete" else views.endpoint(row, call.at),
    )


def _made(row: "Row[Any]", secret: str, now: int) -> Done:
    fields = msgspec.structs.asdict(views.endpoint(row, now))
    made = MadeEndpoint(**fields, secret=secret)
    return Done(made, etag(row.revision), 201, secret=("secret", alerts.PREFIX))


def _filter(events: list[Event] | None) -> str | None:
    return None if events is None else msgspec.json.encode(sorted(set(events))).decode()


async def make(call: Call) -> Response:
    """Make an endpoint; the secret that signs its messages is in this one answer."""
    wanted: NewEndpoint = call.body
    check_name("description", wanted.description)
    url = _check_url(call, wanted.url)
    call, secret = _with_secret(call)

    def transaction(connection: Connection) -> Done:
        reach.tenant(connection, call.actor, wanted.tenant)
        _check_number(connection, wanted.tenant)
        name = "whe_" + secrets.token_hex(10)
        connection.execute(
            insert(WEBHOOK_ENDPOINT).values(
                id=name,
                tenant=wanted.tenant,
                url=url,
                secrets=signing.first(secret),
                events=_filter(wanted.events),
                description=wanted.description,
                created_at=call.at,
            )
        )
        row = _row(connection, wanted.tenant, name)
        _recorded(connection, call, "create", row, None)
        return _made(row, secret, call.at)

    return await call.change(transaction)


async def listed(call: Call) -> Response:
    """Endpoints, in the order they were made."""
    filters: list[ColumnElement[bool]] = [WEBHOOK_ENDPOINT.c.removed_at.is_(None)]
    if call.given("tenant") is not None:
        filters.append(WEBHOOK_ENDPOINT.c.tenant == call.given("tenant"))
    within = reach.of_tenant(call.actor, WEBHOOK_ENDPOINT.c.tenant)
    rows, more = await call.read(
        lambda connection: reach.page(connection, call, WEBHOOK_ENDPOINT, within, filters)
    )
    return reply(Page([views.endpoint(row, call.at) for row in rows], more))


async def one(call: Call) -> Response:
    """One endpoint."""
    row = await call.read(lambda connection: _find(connection, call))
    return show(views.endpoint(row, call.at), etag(row.revision))


async def change(call: Call) -> Response:
    """Change an endpoint, disable it, or enable it again; what waited for it when it was disabled is
    sent again by hand alone."""
    wanted: EndpointChange = call.body
    given: dict[str, object] = {}
    if wanted.description is not UNSET:
        check_name("description", wanted.description)
        given["description"] = wanted.description
    if wanted.url is not UNSET:
        given["url"] = _check_url(call, wanted.url)
    if wanted.events is not UNSET:
        given["events"] = _filter(wanted.events)

    def transaction(connection: Connection) -> Done:
        old = _find(connection, call)
        call.check_match(old.revision)
        values = {name: value for name, value in given.items() if value != getattr(old, name)}
        if wanted.disabled is not UNSET and wanted.disabled != (old.disabled_at is not None):
            values["disabled_at"] = call.at if wanted.disabled else None
            values["disabled_reason"] = "by hand" if wanted.disabled else ""
        row = _write(connection, call, old, values, "update") if values else old
        if row.disabled_at is not None:
            sending.stop(connection, row.tenant, row.id)
        return Done(views.endpoint(row, call.at), etag(row.revision))

    return await call.change(transaction)


async def rotate(call: Call) -> Response:
    """Make a new secret, shown in this one answer; older ones sign along until the overlap is over."""
    wanted: Rotation = call.body
    call, secret = _with_secret(call)

    def transaction(connection: Connection) -> Done:
        old = _find(connection, call)
        call.check_match(old.revision)
        until = call.at + wanted.overlap_seconds * 1_000_000
        kept = signing.rotated(old.secrets, secret, until, call.at)
        row = _write(connection, call, old, {"secrets": kept}, "rotate")
        return _made(row, secret, call.at)

    return await call.change(transaction)


async def remove(call: Call) -> Response:
    """End an endpoint, and forget its secrets; nothing more is sent to it."""

    def transaction(connection: Connection) -> Done:
        old = _find(connection, call)
        call.check_match(old.revision)
        values = {"removed_at": call.at, "secrets": "[]"}
        row = _write(connection, call, old, values, "delete")
        sending.stop(connection, row.tenant, row.id)
        return Done(views.endpoint(row, call.at), etag(row.revision))

    return await call.change(transaction)


async def test(call: Call) -> Response:
    """Send an endpoint a message that means nothing, to see whether it arrives."""

    def transaction(connection: Connection) -> Done:
        row = _find(connection, call)
        check_enabled(row)
        data = {"tenant": row.tenant, "endpoint": row.id}
        message = alerts.message(TEST, call.at, data, row.id, secrets.token_hex(8))
        sending.keep(connection, row.tenant, message, call.at)
        (made,) = sending.begin(connection, row.tenant, message.id, [row.id], call.at)
        _recorded(connection, call, "test", row, row)
        mine = (WEBHOOK_DELIVERY.c.tenant == row.tenant, WEBHOOK_DELIVERY.c.id == made.id)
        sent = connection.execute(select(WEBHOOK_DELIVERY).where(*mine)).one()
        return Done(views.delivery(sent), status=201)

    return await call.change(transaction)


def check_enabled(row: "Row[Any]") -> None:
    """Refuse to send to an endpoint that is disabled."""
    if row.disabled_at is not None:
        message = f"id: webhook endpoint {row.id!r} is disabled; enable it first"
        raise ApiError(409, "endpoint_disabled", message, "id")


_PATH = "/webhook-endpoints"
_ONE = "/webhook-endpoints/{id}"
_QUERY = (Query("tenant", "only of this tenant", reach.TEXT), *reach.PAGE)
OPERATIONS = (
    Operation("POST", _PATH, make, "webhook.update", "Make an endpoint; its secret is shown once",
              MadeEndpoint, NewEndpoint, status=201, versioned=True),
    Operation("GET", _PATH, listed, "webhook.read", "List endpoints",
              Page[EndpointView], query=_QUERY),
    Operation("GET", _ONE, one, "webhook.read", "Read an endpoint", EndpointView, versioned=True),
    Operation("PATCH", _ONE, change, "webhook.update", "Change an endpoint, disable or enable it",
              EndpointView, EndpointChange, versioned=True),
    Operation("DELETE", _ONE, remove, "webhook.update", "End an endpoint",
              EndpointView, versioned=True),
    Operation("POST", _ONE + "/rotate", rotate, "webhook.update",
              "Make a new secret; it is shown once", MadeEndpoint, Rotation, status=201,
              versioned=True),
    Operation("POST", _ONE + "/test", test, "webhook.update", "Send a message that means nothing",
              DeliveryView, status=201),
)  # fmt: skip
