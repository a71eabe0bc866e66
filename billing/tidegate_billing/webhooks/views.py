"""What the management API shows of webhooks, and how rows become it. No secret is in any of it but
`MadeEndpoint`."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from sqlalchemy import Row

from tidegate_billing import deliveries
from tidegate_billing.webhooks import signing
from tidegate_billing.who.views import Time, shown, shown_or_null

Event = Literal["budget.threshold_reached", "credit.low", "credit.exhausted"]
State = deliveries.State
Status = Annotated[int, Meta(extra_json_schema={"minimum": 0, "maximum": 999})]


class EndpointView(msgspec.Struct, frozen=True, kw_only=True):
    """Where a tenant wants messages. `events` null: all kinds. `old_secrets_until`: until when a
    secret of before signs along."""

    id: str
    tenant: str
    url: str
    events: list[str] | None
    description: str
    created_at: Time
    disabled_at: Time | None
    disabled_reason: str
    old_secrets_until: Time | None


class MadeEndpoint(EndpointView, frozen=True, kw_only=True):
    """An endpoint with a new secret, which is in this answer alone."""

    secret: str


class MessageView(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened, as endpoints are sent it."""

    id: str
    tenant: str
    type: str
    created_at: Time
    body: dict[str, Any]


class DeliveryView(msgspec.Struct, frozen=True, kw_only=True):
    """A message on its way to one endpoint. `next_try_at` null: it is over."""

    id: str
    tenant: str
    message: str
    endpoint: str
    state: State
    tries: int
    by_hand: bool
    created_at: Time
    next_try_at: Time | None


class TryView(msgspec.Struct, frozen=True, kw_only=True):
    """One try. `status` 0: there was no answer, and `note` says why."""

    number: int
    at: Time
    took_ms: int
    status: Status
    note: str
    state: State
    next_try_at: Time | None


class LoggedDelivery(DeliveryView, frozen=True, kw_only=True):
    """A delivery and every try of it."""

    log: list[TryView]


def endpoint(row: "Row[Any]", now: int) -> EndpointView:
    """An endpoint's row, as it is shown."""
    return EndpointView(
        id=row.id,
        tenant=row.tenant,
        url=row.url,
        events=None if row.events is None else msgspec.json.decode(row.events, type=list[str]),
        description=row.description,
        created_at=shown(row.created_at),
        disabled_at=shown_or_null(row.disabled_at),
        disabled_reason=row.disabled_reason,
        old_secrets_until=shown_or_null(signing.old_until(row.secrets, now)),
    )


def message(row: "Row[Any]") -> MessageView:
    """A message's row, as it is shown."""
    body: dict[str, Any] = msgspec.json.decode(row.body)
    return MessageView(
        id=row.id, tenant=row.tenant, type=row.type, created_at=shown(row.at), body=body
    )


def delivery(row: "Row[Any]") -> DeliveryView:
    """A delivery's row, as it is shown."""
    return DeliveryView(
        id=row.id,
        tenant=row.tenant,
        message=row.message,
        endpoint=row.endpoint,
        state=row.state,
        tries=row.tries,
        by_hand=row.by_hand,
        created_at=shown(row.first),
        next_try_at=shown_or_null(row.due),
    )


def one_try(row: "Row[Any]") -> TryView:
    """A line of the log, as it is shown."""
    return TryView(
        number=row.number,
        at=shown(row.at),
        took_ms=row.took // 1000,
        status=row.status,
        note=row.note,
        state=row.state,
        next_try_at=shown_or_null(row.due),
    )
