"""Messages put on their way, in the transaction of what they tell."""

import secrets
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, insert, select, update

from tidegate_billing import deliveries
from tidegate_billing.alerts import Message
from tidegate_billing.deliveries import Delivery
from tidegate_billing.webhooks.tables import WEBHOOK_DELIVERY, WEBHOOK_ENDPOINT, WEBHOOK_MESSAGE


def known(connection: Connection, message: str) -> bool:
    """Whether a message of this id was made."""
    # every tenant: the id is a digest that names its tenant
    query = select(WEBHOOK_MESSAGE.c.seq).where(WEBHOOK_MESSAGE.c.id == message)
    return connection.execute(query).first() is not None


def put(connection: Connection, tenant: str, message: Message, now: int) -> bool:
    """Keep a message and send it to every endpoint of the tenant that wants its kind; False where
    it was made before, and nothing is sent again."""
    if known(connection, message.id):
        return False
    keep(connection, tenant, message, now)
    rows = connection.execute(
        select(WEBHOOK_ENDPOINT.c.id, WEBHOOK_ENDPOINT.c.events)
        .where(
            WEBHOOK_ENDPOINT.c.tenant == tenant,
            WEBHOOK_ENDPOINT.c.disabled_at.is_(None),
            WEBHOOK_ENDPOINT.c.removed_at.is_(None),
        )
        .order_by(WEBHOOK_ENDPOINT.c.seq)
    )
    begin(
        connection,
        tenant,
        message.id,
        [row.id for row in rows if wants(row.events, message.type)],
        now,
    )
    return True


def wants(events: str | None, kind: str) -> bool:
    """Whether an endpoint with this filter (JSON; None: all) is sent messages of a kind."""
    return events is None or kind in msgspec.json.decode(events, type=list[str])


def keep(connection: Connection, tenant: str, message: Message, now: int) -> None:
    """Keep a message as it was encoded."""
    connection.execute(
        insert(WEBHOOK_MESSAGE).values(
            id=message.id, tenant=tenant, type=message.type, body=message.body.decode(), at=now
        )
    )


def begin(
    connection: Connection, tenant: str, message: str, endpoints: Sequence[str], now: int
) -> list[Delivery]:
    """Send a message that is kept to these endpoints, at once."""
    made = [deliveries.begin(new_id(), message, endpoint, now) for endpoint in endpoints]
    write(connection, tenant, made)
    return made


def new_id() -> str:
    """An id of a delivery."""
    return "dlv_" + secrets.token_hex(10)


def write(connection: Connection, tenant: str, made: Iterable[Delivery]) -> None:
    """Keep new deliveries."""
    rows = [{**one._asdict(), "tenant": tenant} for one in made]
    if rows:
        connection.execute(insert(WEBHOOK_DELIVERY), rows)


def delivery_of(row: "Row[Any]") -> Delivery:
    """A row as the core has it."""
    return Delivery(
        row.id, row.message, row.endpoint, row.first, row.due, row.tries, row.state, row.by_hand
    )


def stop(connection: Connection, tenant: str, endpoint: str) -> int:
    """Give up all that waits for an endpoint that was disabled or removed; how many that were."""
    done = connection.execute(
        update(WEBHOOK_DELIVERY)
        .where(
            WEBHOOK_DELIVERY.c.tenant == tenant,
            WEBHOOK_DELIVERY.c.endpoint == endpoint,
            WEBHOOK_DELIVERY.c.state == "waiting",
        )
        .values(state="gone", due=None)
    )
    return int(done.rowcount)
