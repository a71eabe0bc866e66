"""The tables, as SQLModel declares them; `migrations/` builds them, and a test compares the two.

Times are microseconds since the epoch; an amount is two columns (`money.halves`). `event` and
`adjustment` are append-only and triggers hold them to that. On PostgreSQL `event` is partitioned by
`attempt_month`. `series` and the rollups are projections of those two: they can be emptied and
rebuilt (`rollup.rebuild`).
"""

from sqlalchemy import BigInteger, Column, Index, Integer, Table, Text, UniqueConstraint
from sqlmodel import Field, SQLModel

import tidegate_billing.budgeting.tables
import tidegate_billing.lending.tables
import tidegate_billing.prepaid.tables
import tidegate_billing.webhooks.tables  # noqa: F401 - METADATA is to know them
from tidegate_billing.who.tables import revision, words

ID = BigInteger().with_variant(Integer, "sqlite")


def _serial() -> Column[int]:
    return Column(ID, primary_key=True, autoincrement=True)


def _count() -> Column[int]:
    return Column(BigInteger, nullable=False)


def _maybe() -> Column[int]:
    return Column(BigInteger, nullable=True)


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
    plan: str = Field(sa_column=words("postpaid"))


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
    """One version of a deployment's own price, in force from `effective_from` until the next.

    `currency` empty: from here on the deployment has no price. A version with a `source` belongs to
    no deployment: it numbers a rate that documents have made (`tariff`)."""

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
    fingerprint: str | None = Field(default=None, unique=True, index=True)
    source: str | None = None


class PriceDocument(SQLModel, table=True):
    """One version of a price book or of a tenant's contract. `body` empty: withdrawn from then on.

    `name` is a book's, `tenant` a contract's; the other one is empty."""

    __tablename__ = "price_document"
    __table_args__ = (
        Index("ix_price_document", "kind", "name", "tenant"),
        {"sqlite_autoincrement": True},
    )
    number: int | None = Field(default=None, sa_column=_serial())
    kind: str
    name: str
    tenant: str
    effective_from: int = Field(sa_column=_count())
    created_at: int = Field(sa_column=_count())
    body: str


class Counter(SQLModel, table=True):
    """What a tenant has used in a month under a rate with tiers, by meter (JSON, in their order)."""

    tenant: str = Field(primary_key=True)
    month: str = Field(primary_key=True)
    version: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    quantities: str


class Event(SQLModel, table=True):
    """The ledger: one row an event, kept once under (attempt_month, event_id).

    `rated_version`, `cached_billed` and the amount are its first rating; empty where no price was
    known, or where it isn't billed."""

    __table_args__ = (
        UniqueConstraint("attempt_month", "event_id"),
        Index("ix_event_tenant", "tenant", "id"),
        Index("ix_event_request", "request_id"),
        Index("ix_event_replica", "replica"),
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
    service_tier: str
    audio_ms: int = Field(sa_column=_count())
    images: int = Field(sa_column=_count())
    cold_start_ms: int = Field(sa_column=_count())
    serving_ms: int = Field(sa_column=_count())
    idle_tail_ms: int = Field(sa_column=_count())
    rated_version: int | None = Field(default=None, sa_column=_maybe())
    cached_billed: int | None = Field(default=None, sa_column=_maybe())
    reasoning_billed: int | None = Field(default=None, sa_column=_maybe())
    amount_nano: int | None = Field(default=None, sa_column=_maybe())
    amount_atto: int | None = Field(default=None, sa_column=_maybe())
    currency: str | None = None


class Parked(SQLModel, table=True):
    """A queue: billed events that no price was known for yet. Never in an invoice until it is."""

    attempt_month: str = Field(primary_key=True)
    event_id: str = Field(primary_key=True)
    tenant: str = Field(index=True)
    deployment: str = Field(index=True)


class Adjustment(SQLModel, table=True):
    """What an event costs from here on (`after`), and what is taken off for it (`before`).

    The newest one counts. `before` is empty where the event was parked; under tiers it is what the
    month's bill loses with the event now, which may be another amount than it once added."""

    __table_args__ = (
        Index("ix_adjustment_event", "attempt_month", "event_id"),
        Index("ix_adjustment_tenant", "tenant", "id"),
        {"sqlite_autoincrement": True},
    )
    id: int | None = Field(default=None, sa_column=_serial())
    attempt_month: str
    event_id: str
    tenant: str
    posted_at: int = Field(sa_column=_count())
    reason: str
    actor: str
    note: str
    before_version: int | None = Field(default=None, sa_column=_maybe())
    before_cached: int | None = Field(default=None, sa_column=_maybe())
    before_reasoning: int | None = Field(default=None, sa_column=_maybe())
    before_nano: int | None = Field(default=None, sa_column=_maybe())
    before_atto: int | None = Field(default=None, sa_column=_maybe())
    before_currency: str | None = None
    after_version: int = Field(sa_column=_count())
    after_cached: int = Field(sa_column=_count())
    after_reasoning: int = Field(sa_column=_count())
    after_nano: int = Field(sa_column=_count())
    after_atto: int = Field(sa_column=_count())
    after_currency: str


class Refused(SQLModel, table=True):
    """An event that could not be kept, whole, with the reason: nothing is thrown away."""

    __table_args__ = (UniqueConstraint("event_id", "digest"), {"sqlite_autoincrement": True})
    id: int | None = Field(default=None, sa_column=_serial())
    at: int = Field(sa_column=_count())
    journal: str
    event_id: str
    digest: str
    reason: str
    body: str


class Retired(SQLModel, table=True):
    """A month that has left the ledger (`retention`)."""

    month: str = Field(primary_key=True)
    at: int = Field(sa_column=_count())
    events: int = Field(sa_column=_count())


class Series(SQLModel, table=True):
    """One combination of everything that usage is grouped by; rollups refer to its number.

    `identity` is a digest of all of it, because an index over ten texts may be too long.
    `rated_version` 0 and no currency: not rated."""

    __table_args__ = {"sqlite_autoincrement": True}
    id: int | None = Field(default=None, sa_column=_serial())
    identity: str = Field(unique=True)
    tenant: str = Field(index=True)
    project: str
    key_id: str
    model: str
    deployment: str
    adapter: str
    endpoint: str
    billed: bool
    rated_version: int = Field(sa_column=_count())
    currency: str


class Sheet(SQLModel, table=True):
    """A numbered sheet of the outbox. Usage goes on the newest one until it is sealed."""

    __table_args__ = {"sqlite_autoincrement": True}
    id: int | None = Field(default=None, sa_column=_serial())
    opened_at: int = Field(sa_column=_count())
    sealed_at: int | None = Field(default=None, sa_column=_maybe())
    sent_at: int | None = Field(default=None, sa_column=_maybe())


SUMS = (
    "requests",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "audio_ms",
    "images",
    "cold_start_ms",
    "serving_ms",
    "idle_tail_ms",
    "cached_billed",
    "reasoning_billed",
    "amount_nano",
    "amount_atto",
)
"""What a projection adds up, in the order of its columns."""


def _projection(name: str, bucket: str) -> Table:
    """Sums by series and bucket. No row number: the key is the table."""
    keys = [
        Column(key, BigInteger, primary_key=True, autoincrement=False) for key in ("series", bucket)
    ]
    return Table(
        name,
        SQLModel.metadata,
        *keys,
        *[Column(s, BigInteger, nullable=False) for s in SUMS],
        sqlite_with_rowid=False,
    )


class Journal(SQLModel, table=True):
    """How far each router's journal is durable here. `counted_from`: the first day (empty: any) of
    which it tells its own sums; none: it tells none."""

    name: str = Field(primary_key=True)
    acked: int = Field(sa_column=_count())
    unshipped: int = Field(sa_column=_count())
    gaps: int = Field(sa_column=_count())
    counted_from: str | None = None


class JournalCount(SQLModel, table=True):
    """What a router's journal says it has written of a model's day, up to its record `upto`."""

    __tablename__ = "journal_count"
    __table_args__ = (Index("ix_journal_count_day", "day"),)
    journal: str = Field(primary_key=True)
    day: str = Field(primary_key=True)
    model: str = Field(primary_key=True)
    settlements: int = Field(sa_column=_count())
    prompt_tokens: int = Field(sa_column=_count())
    completion_tokens: int = Field(sa_column=_count())
    upto: int = Field(sa_column=_count())


class ReplicaLife(SQLModel, table=True):
    """How far a replica's life is in the ledger: `until`, in milliseconds (`replicas`)."""

    __tablename__ = "replica_life"
    deployment: str = Field(primary_key=True)
    epoch: str = Field(primary_key=True)
    until: int = Field(sa_column=_count())


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
PRICE_DOCUMENT = METADATA.tables["price_document"]
COUNTER = METADATA.tables["counter"]
EVENT = METADATA.tables["event"]
JOURNAL = METADATA.tables["journal"]
JOURNAL_COUNT = METADATA.tables["journal_count"]
COUNTERS = METADATA.tables["counters"]
REPLICA_LIFE = METADATA.tables["replica_life"]
PARKED = METADATA.tables["parked"]
ADJUSTMENT = METADATA.tables["adjustment"]
REFUSED = METADATA.tables["refused"]
RETIRED = METADATA.tables["retired"]
SERIES = METADATA.tables["series"]
SHEET = METADATA.tables["sheet"]
ROLLUP_MINUTE = _projection("rollup_minute", "bucket")
ROLLUP_HOUR = _projection("rollup_hour", "bucket")
ROLLUP_DAY = _projection("rollup_day", "bucket")
OUTBOX = _projection("outbox", "sheet")
"""Buckets are minutes, hours and days since the epoch, of when the attempt was made."""
