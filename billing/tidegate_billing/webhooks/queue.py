"""What is due, and what becomes of it after a try, in the database."""

from collections.abc import Callable, Collection
from typing import NamedTuple

from sqlalchemy import Connection, insert, select, update

from tidegate_billing import deliveries
from tidegate_billing.deliveries import Answer, Delivery
from tidegate_billing.tables import TENANT
from tidegate_billing.webhooks import sending, views
from tidegate_billing.webhooks.tables import (
    WEBHOOK_DELIVERY,
    WEBHOOK_ENDPOINT,
    WEBHOOK_MESSAGE,
    WEBHOOK_TRY,
)
from tidegate_billing.who import audit
from tidegate_billing.who.actor import SYSTEM

GONE = "answered 410"


class Job(NamedTuple):
    """A delivery that is due, and all that its try needs. `secrets` as in the endpoint's row."""

    delivery: Delivery
    url: str
    secrets: str
    type: str
    body: str


def due(connection: Connection, now: int, without: Collection[str], most: int) -> list[Job]:
    """What is due, longest first, for other endpoints than `without`."""
    # every tenant: the platform sends for all of them
    rows = connection.execute(
        select(
            WEBHOOK_DELIVERY,
            WEBHOOK_ENDPOINT.c.url,
            WEBHOOK_ENDPOINT.c.secrets,
            WEBHOOK_MESSAGE.c.type,
            WEBHOOK_MESSAGE.c.body,
        )
        .join_from(
            WEBHOOK_DELIVERY, WEBHOOK_ENDPOINT, WEBHOOK_ENDPOINT.c.id == WEBHOOK_DELIVERY.c.endpoint
        )
        .join(WEBHOOK_MESSAGE, WEBHOOK_MESSAGE.c.id == WEBHOOK_DELIVERY.c.message)
        .where(
            WEBHOOK_DELIVERY.c.due <= now,
            WEBHOOK_ENDPOINT.c.disabled_at.is_(None),
            WEBHOOK_ENDPOINT.c.removed_at.is_(None),
            WEBHOOK_DELIVERY.c.endpoint.not_in(sorted(without)),
        )
        .order_by(WEBHOOK_DELIVERY.c.due, WEBHOOK_DELIVERY.c.seq)
        .limit(most)
    )
    return [Job(sending.delivery_of(row), row.url, row.secrets, row.type, row.body) for row in rows]


def finish(
    connection: Connection, delivery: str, answer: Answer, now: int, random: Callable[[], float]
) -> Delivery:
    """Write a try into the log, and what becomes of its delivery; 410 disables the endpoint."""
    # every tenant: the delivery that the platform has just tried
    mine = WEBHOOK_DELIVERY.c.id == delivery
    row = connection.execute(select(WEBHOOK_DELIVERY).where(mine)).one()
    after, line = deliveries.tried(sending.delivery_of(row), answer, now, random)
    if row.state != "waiting" and after.state != "delivered":
        # Its endpoint was disabled or removed while it was under way.
        after = after._replace(state=row.state, due=None)
        line = line._replace(state=row.state, due=None)
    connection.execute(
        update(WEBHOOK_DELIVERY)
        .where(mine)
        .values(tries=after.tries, state=after.state, due=after.due)
    )
    connection.execute(insert(WEBHOOK_TRY).values(tenant=row.tenant, **line._asdict()))
    if answer.status == 410:
        _disable(connection, row.tenant, row.endpoint, now)
    return after


def _disable(connection: Connection, tenant: str, name: str, now: int) -> None:
    """Send nothing more to an endpoint that wants nothing any more."""
    mine = (WEBHOOK_ENDPOINT.c.tenant == tenant, WEBHOOK_ENDPOINT.c.id == name)
    old = connection.execute(select(WEBHOOK_ENDPOINT).where(*mine)).one()
    sending.stop(connection, tenant, name)
    if old.disabled_at is not None or old.removed_at is not None:
        return
    connection.execute(
        update(WEBHOOK_ENDPOINT)
        .where(*mine)
        .values(disabled_at=now, disabled_reason=GONE, revision=old.revision + 1)
    )
    row = connection.execute(select(WEBHOOK_ENDPOINT).where(*mine)).one()
    place = select(TENANT.c.organization).where(TENANT.c.id == tenant)
    audit.record(
        connection,
        actor=SYSTEM.id,
        at=now,
        action="webhook_endpoint.disable",
        object_id=name,
        organization=connection.execute(place).scalar(),
        tenant=tenant,
        before=views.endpoint(old, now),
        after=views.endpoint(row, now),
    )
