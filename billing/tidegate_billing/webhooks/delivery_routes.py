"""The routes of messages and their deliveries: what was told, how often it was tried, and again."""

from typing import Any, get_args

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, select
from starlette.responses import Response

from tidegate_billing import deliveries
from tidegate_billing.frame import Call, Done, Operation, Query
from tidegate_billing.web import ApiError, bad, reply
from tidegate_billing.webhooks import endpoint_routes, sending, views
from tidegate_billing.webhooks.tables import (
    WEBHOOK_DELIVERY,
    WEBHOOK_ENDPOINT,
    WEBHOOK_MESSAGE,
    WEBHOOK_TRY,
)
from tidegate_billing.webhooks.views import DeliveryView, LoggedDelivery, MessageView
from tidegate_billing.who import audit, reach
from tidegate_billing.who.views import Page

STATES = get_args(deliveries.State)


async def messages(call: Call) -> Response:
    """Messages, in the order they were made."""
    columns = WEBHOOK_MESSAGE.c
    filters: list[ColumnElement[bool]] = [
        columns[name] == call.given(name) for name in ("tenant", "type") if call.given(name)
    ]
    within = reach.of_tenant(call.actor, columns.tenant)
    rows, more = await call.read(
        lambda connection: reach.page(connection, call, WEBHOOK_MESSAGE, within, filters)
    )
    return reply(Page([views.message(row) for row in rows], more))


async def message(call: Call) -> Response:
    """One message, as endpoints are sent it."""

    def query(connection: Connection) -> MessageView:
        name = call.part("id")  # every tenant: within the actor's reach
        within = reach.of_tenant(call.actor, WEBHOOK_MESSAGE.c.tenant)
        found = select(WEBHOOK_MESSAGE).where(WEBHOOK_MESSAGE.c.id == name, within)
        row = connection.execute(found).first()
        if row is None:
            raise reach.missing("webhook message", name)
        return views.message(row)

    return reply(await call.read(query))


def _find(connection: Connection, call: Call) -> "Row[Any]":
    name = call.part("id")  # every tenant: within the actor's reach
    within = reach.of_tenant(call.actor, WEBHOOK_DELIVERY.c.tenant)
    found = select(WEBHOOK_DELIVERY).where(WEBHOOK_DELIVERY.c.id == name, within)
    row = connection.execute(found).first()
    if row is None:
        raise reach.missing("webhook delivery", name)
    return row


async def listed(call: Call) -> Response:
    """Deliveries, in the order they were made."""
    state = call.given("state")
    if state is not None and state not in STATES:
        raise bad("state", f"{state[:80]!r} is not a state; allowed: {', '.join(STATES)}")
    columns = WEBHOOK_DELIVERY.c
    filters: list[ColumnElement[bool]] = [
        columns[name] == call.given(name)
        for name in ("tenant", "endpoint", "message", "state")
        if call.given(name)
    ]
    within = reach.of_tenant(call.actor, columns.tenant)
    rows, more = await call.read(
        lambda connection: reach.page(connection, call, WEBHOOK_DELIVERY, within, filters)
    )
    return reply(Page([views.delivery(row) for row in rows], more))


async def one(call: Call) -> Response:
    """One delivery, and every try of it."""

    def query(connection: Connection) -> LoggedDelivery:
        row = _find(connection, call)
        tries = connection.execute(
            select(WEBHOOK_TRY)
            .where(WEBHOOK_TRY.c.tenant == row.tenant, WEBHOOK_TRY.c.delivery == row.id)
            .order_by(WEBHOOK_TRY.c.number, WEBHOOK_TRY.c.id)
        )
        fields = msgspec.structs.asdict(views.delivery(row))
        return LoggedDelivery(**fields, log=[views.one_try(line) for line in tries])

    return reply(await call.read(query))


async def replay(call: Call) -> Response:
    """Send the same message once more, whatever became of it: a new delivery, with three days of its own."""

    def transaction(connection: Connection) -> Done:
        old = _find(connection, call)
        endpoint = connection.execute(
            select(WEBHOOK_ENDPOINT).where(
                WEBHOOK_ENDPOINT.c.tenant == old.tenant, WEBHOOK_ENDPOINT.c.id == old.endpoint
            )
        ).one()
        if endpoint.removed_at is not None:
            gone = f"id: webhook endpoint {endpoint.id!r} was removed; nothing is sent to it"
            raise ApiError(409, "endpoint_removed", gone, "id")
        endpoint_routes.check_enabled(endpoint)
        again = deliveries.replay(sending.delivery_of(old), sending.new_id(), call.at)
        sending.write(connection, old.tenant, [again])
        mine = (WEBHOOK_DELIVERY.c.tenant == old.tenant, WEBHOOK_DELIVERY.c.id == again.id)
        row = connection.execute(select(WEBHOOK_DELIVERY).where(*mine)).one()
        audit.record(
            connection,
            actor=call.actor.id,
            at=call.at,
            action="webhook_delivery.replay",
            object_id=old.id,
            organization=reach.tenant(connection, call.actor, old.tenant).organization,
            tenant=old.tenant,
            after=views.delivery(row),
        )
        return Done(views.delivery(row), status=201)

    return await call.change(transaction)


_OF = Query("tenant", "only of this tenant", reach.TEXT)
_MESSAGES = (_OF, Query("type", "only of this kind", reach.TEXT), *reach.PAGE)
_DELIVERIES = (
    _OF,
    Query("endpoint", "only to this endpoint", reach.TEXT),
    Query("message", "only of this message", reach.TEXT),
    Query("state", "only in this state", {"type": "string", "enum": list(STATES)}),
    *reach.PAGE,
)
_ONE = "/webhook-deliveries/{id}"
OPERATIONS = (
    Operation("GET", "/webhook-messages", messages, "webhook.read", "List messages",
              Page[MessageView], query=_MESSAGES),
    Operation("GET", "/webhook-messages/{id}", message, "webhook.read", "Read a message",
              MessageView),
    Operation("GET", "/webhook-deliveries", listed, "webhook.read", "List deliveries",
              Page[DeliveryView], query=_DELIVERIES),
    Operation("GET", _ONE, one, "webhook.read", "Read a delivery and its tries", LoggedDelivery),
    Operation("POST", _ONE + "/replay", replay, "webhook.update", "Send a message once more",
              DeliveryView, status=201),
)  # fmt: skip
