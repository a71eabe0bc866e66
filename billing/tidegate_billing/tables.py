"""The tables, as SQLModel declares them; `migrations/` builds them, and a test compares the two.

Times are microseconds since the epoch, amounts exact decimal strings. `event` is append-only and
triggers hold it to that: a row is never deleted, and the only change it takes is the filling in,
once, of the price of an event that came before its price was known.
"""

from sqlalchemy import BigInteger, Column, Index, Integer, Text, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from tidegate_billing.who.tables import revision, words

PARKED = text("billed AND amount IS NULL")
"""Billed, but by a price that was not known: never in an invoice until it is."""

ID = BigInteger().with_variant(Integer, "sqlite")


def _serial() -> Column[int]:
    return Column(ID, primary_key=True, autoincrement=True)


def _count() -> Column[int]:
    return Column(BigInteger, nullable=False)


class Tenant(SQLModel, table=True):
    """Who pays."""

    __table_args__ = {"sqlite_autoincrement": True}
    seq: int | None = Field(default=None, sa_column=_serial())
    id: str = Field(unique=True)
    created_at: int = Field(sa_column=_count())
    organization: str | None = Field(default=None, foreign_key="organization.id", index=True)
    display_name: str = Field(sa_column=words())
    time_zone: str = Field(sa_column=words("UTC"))
    suspended_at: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    revision: int = Field(sa_column=revision())


class Project(SQLModel, table=True):
    """A part of a tenant that keys belong to."""

    __table_args__ = (UniqueConstraint("tenant", "name"),)
    id: str = Field(primary_key=True)
    tenant: str = Field(foreign_key="tenant.id")
    name: str
    created_at: int = Field(sa_column=_count())
    display_name: str = Field(sa_column=words())
    archived_at: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    revision: int = Field(sa_column=revision())


class ApiKey(SQLModel, table=True):
    """A key's digest under a pepper; the key itself is nowhere. Scopes and limits are JSON."""

    __tablename__ = "api_key"
    __table_args__ = {"sqlite_autoincrement": True}
    seq: int | None = Field(default=None, sa_column=_serial())
    id: str = Field(unique=True)
    digest: str = Field(unique=True)
    pepper_version: int
    prefix: str
    tenant: str = Field(foreign_key="tenant.id", index=True)
    project: str
    name: str
    created_at: int = Field(sa_column=_count())
    revoked_at: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    expires_at: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    last_used_at: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    models: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    routes: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    limits: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    rotated_from: str | None = None
    revision: int = Field(sa_column=revision())


class Model(SQLModel, table=True):
    """A deployment, as the operator last told it. `present` 0: it is gone."""

    deployment: str = Field(primary_key=True)
    model: str
    owner: str = Field(foreign_key="tenant.id")
    adapters: str
    present: bool


class Price(SQLModel, table=True):
    """One version of a deployment's price book, in force from `effective_from` until the next.

    `currency` empty: from here on the deployment has no price."""

    __table_args__ = (
        Index("ix_price_deployment", "deployment", "effective_from"),
        {"sqlite_autoincrement": True},
    )
    version: int | None = Field(default=None, sa_column=_serial())
    deployment: str
    currency: str
    input_per_million: str
    output_per_million: str
    cached_input_per_million: str | None = None
    effective_from: int = Field(sa_column=_count())


class Event(SQLModel, table=True):
    """The ledger: one row an event, kept once under (attempt_month, event_id)."""

    __table_args__ = (
        UniqueConstraint("attempt_month", "event_id"),
        Index("ix_event_tenant_month", "tenant", "attempt_month"),
        Index("ix_event_request", "request_id"),
        Index("ix_event_replica", "replica"),
        Index("ix_event_parked", "deployment", sqlite_where=PARKED, postgresql_where=PARKED),
        {"sqlite_autoincrement": True},
    )
    id: int | None = Field(default=None, sa_column=_serial())
    attempt_month: str
    event_id: str
    digest: str
    day: str
    attempt_id: str
    kind: str
    request_id: str
    tenant: str
    project: str
    key_id: str
    model: str
    deployment: str
    endpoint: str
    started_at: int = Field(sa_column=_count())
    finished_at: int = Field(sa_column=_count())
    replica: str
    client_request_id: str
    adapter: str
    prompt_tokens: int = Field(sa_column=_count())
    cached_tokens: int = Field(sa_column=_count())
    cached_known: bool
    completion_tokens: int = Field(sa_column=_count())
    reasoning_tokens: int = Field(sa_column=_count())
    source: str
    outcome: str
    price_version: int = Field(sa_column=_count())
    billed: bool
    reason: str
    version: int
    rated_version: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    cached_billed: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    amount: str | None = None
    currency: str | None = None


class Journal(SQLModel, table=True):
    """How far each router's journal is durable here."""

    name: str = Field(primary_key=True)
    acked: int = Field(sa_column=_count())
    unshipped: int = Field(sa_column=_count())
    gaps: int = Field(sa_column=_count())


class Counters(SQLModel, table=True):
    """An engine epoch's token counters; `attempts` is JSON, tokens by attempt id."""

    epoch: str = Field(primary_key=True)
    model: str
    deployment: str
    prompt: int = Field(sa_column=_count())
    generated: int = Field(sa_column=_count())
    state: str
    verified: bool
    in_flight: int
    attempts: str


METADATA = SQLModel.metadata
TENANT = METADATA.tables["tenant"]
PROJECT = METADATA.tables["project"]
API_KEY = METADATA.tables["api_key"]
MODEL = METADATA.tables["model"]
PRICE = METADATA.tables["price"]
EVENT = METADATA.tables["event"]
JOURNAL = METADATA.tables["journal"]
COUNTERS = METADATA.tables["counters"]
