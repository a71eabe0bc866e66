"""The tables of webhooks: where to, what, how far each message got, and every try.

Secrets are kept as they are, since messages are signed with them: who reads the database can sign
as we do. No answer but the one that made a secret shows it, and the audit log has none.
Times are microseconds since the epoch.
"""

from sqlalchemy import BigInteger, Column, Index, Integer, String, Text, false
from sqlmodel import Field, SQLModel

ID = BigInteger().with_variant(Integer, "sqlite")


def _serial() -> Column[int]:
    return Column(ID, primary_key=True, autoincrement=True)


def _big(*, nullable: bool = False) -> Column[int]:
    return Column(BigInteger, nullable=nullable)


def _text(*, nullable: bool = False) -> Column[str]:
    return Column(Text, nullable=nullable)


class WebhookEndpoint(SQLModel, table=True):
    """Where a tenant wants messages. `secrets` is JSON (`secrets.Kept`); `events` too, null: all."""

    __tablename__ = "webhook_endpoint"
    __table_args__ = (Index("ix_webhook_endpoint_tenant", "tenant"), {"sqlite_autoincrement": True})
    seq: int | None = Field(default=None, sa_column=_serial())
    id: str = Field(unique=True)
    tenant: str = Field(foreign_key="tenant.id")
    url: str = Field(sa_column=_text())
    secrets: str = Field(sa_column=_text())
    events: str | None = Field(default=None, sa_column=_text(nullable=True))
    description: str = Field(sa_column=Column(String, nullable=False, server_default=""))
    created_at: int = Field(sa_column=_big())
    disabled_at: int | None = Field(default=None, sa_column=_big(nullable=True))
    disabled_reason: str = Field(sa_column=Column(String, nullable=False, server_default=""))
    removed_at: int | None = Field(default=None, sa_column=_big(nullable=True))
    revision: int = Field(sa_column=Column(BigInteger, nullable=False, server_default="1"))


class WebhookMessage(SQLModel, table=True):
    """Something that happened, as it is sent: `body` is signed, so it stays as it was encoded."""

    __tablename__ = "webhook_message"
    __table_args__ = (
        Index("ix_webhook_message_tenant", "tenant", "seq"),
        {"sqlite_autoincrement": True},
    )
    seq: int | None = Field(default=None, sa_column=_serial())
    id: str = Field(unique=True)
    tenant: str = Field(foreign_key="tenant.id")
    type: str
    body: str = Field(sa_column=_text())
    at: int = Field(sa_column=_big())


class WebhookDelivery(SQLModel, table=True):
    """A message on its way to an endpoint (`deliveries.Delivery`)."""

    __tablename__ = "webhook_delivery"
    __table_args__ = (
        Index("ix_webhook_delivery_tenant", "tenant", "seq"),
        Index("ix_webhook_delivery_endpoint", "endpoint", "seq"),
        Index("ix_webhook_delivery_due", "due"),
        {"sqlite_autoincrement": True},
    )
    seq: int | None = Field(default=None, sa_column=_serial())
    id: str = Field(unique=True)
    tenant: str = Field(foreign_key="tenant.id")
    message: str
    endpoint: str
    first: int = Field(sa_column=_big())
    due: int | None = Field(default=None, sa_column=_big(nullable=True))
    tries: int = Field(sa_column=Column(Integer, nullable=False))
    state: str
    by_hand: bool = Field(sa_column_kwargs={"server_default": false()})


class WebhookTry(SQLModel, table=True):
    """A line of the delivery log (`deliveries.Try`). `took`: microseconds."""

    __tablename__ = "webhook_try"
    __table_args__ = (
        Index("ix_webhook_try_delivery", "delivery", "number"),
        {"sqlite_autoincrement": True},
    )
    id: int | None = Field(default=None, sa_column=_serial())
    tenant: str = Field(foreign_key="tenant.id")
    delivery: str
    message: str
    endpoint: str
    number: int = Field(sa_column=Column(Integer, nullable=False))
    at: int = Field(sa_column=_big())
    took: int = Field(sa_column=_big())
    status: int = Field(sa_column=Column(Integer, nullable=False))
    note: str
    state: str
    due: int | None = Field(default=None, sa_column=_big(nullable=True))


WEBHOOK_ENDPOINT = SQLModel.metadata.tables["webhook_endpoint"]
WEBHOOK_MESSAGE = SQLModel.metadata.tables["webhook_message"]
WEBHOOK_DELIVERY = SQLModel.metadata.tables["webhook_delivery"]
WEBHOOK_TRY = SQLModel.metadata.tables["webhook_try"]
