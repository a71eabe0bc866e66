"""Exact sums, adjustments instead of edits, projections; partitions by month on PostgreSQL.

Amounts become two whole numbers, events are never changed any more: what is parked waits in a
table of its own, and what it comes to cost is an adjustment. What there was is carried over.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

from tidegate_billing import money, partitions

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
SUMS = [
    "requests",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "audio_ms",
    "images",
    "cached_billed",
    "reasoning_billed",
    "amount_nano",
    "amount_atto",
]
APPEND_ONLY = ("event", "adjustment", "price_document")
RATED = ("version", "cached", "reasoning", "nano", "atto")
KEPT = [
    "id",
    "attempt_month",
    "event_id",
    "digest",
    "day",
    "attempt_id",
    "kind",
    "request_id",
    "tenant",
    "project",
    "key_id",
    "model",
    "deployment",
    "endpoint",
    "started_at",
    "finished_at",
    "replica",
    "client_request_id",
    "adapter",
    "prompt_tokens",
    "cached_tokens",
    "cached_known",
    "completion_tokens",
    "reasoning_tokens",
    "source",
    "outcome",
    "price_version",
    "billed",
    "reason",
    "version",
    "rated_version",
    "cached_billed",
    "currency",
]


def _text(name: str, *, null: bool = False) -> "sa.Column[str]":
    return sa.Column(name, sa.String(), nullable=null)


def _big(name: str, *, null: bool = False) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger(), nullable=null)


def _serial() -> "sa.Column[int]":
    return sa.Column("id", ID, primary_key=True, autoincrement=True)


def upgrade() -> None:
    """Build what is new and carry over what there was; `migrate` sums it up afterwards."""
    _beside_the_ledger()
    _prices()
    _projections()
    if op.get_bind().dialect.name == "sqlite":
        _on_sqlite()
    else:
        _on_postgresql()


def _beside_the_ledger() -> None:
    op.create_table(
        "parked",
        *[_text(name) for name in ("attempt_month", "event_id", "tenant", "deployment")],
        sa.PrimaryKeyConstraint("attempt_month", "event_id"),
    )
    op.create_index("ix_parked_tenant", "parked", ["tenant"])
    op.create_index("ix_parked_deployment", "parked", ["deployment"])
    op.create_table(
        "adjustment",
        _serial(),
        *[_text(name) for name in ("attempt_month", "event_id", "tenant")],
        _big("posted_at"),
        *[_text(name) for name in ("reason", "actor", "note")],
        *[_big(f"before_{name}", null=True) for name in RATED],
        _text("before_currency", null=True),
        *[_big(f"after_{name}") for name in RATED],
        _text("after_currency"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_adjustment_event", "adjustment", ["attempt_month", "event_id"])
    op.create_index("ix_adjustment_tenant", "adjustment", ["tenant", "id"])
    op.create_table(
        "refused",
        _serial(),
        _big("at"),
        *[_text(name) for name in ("journal", "event_id", "digest", "reason", "body")],
        sa.UniqueConstraint("event_id", "digest"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "retired", _text("month"), _big("at"), _big("events"), sa.PrimaryKeyConstraint("month")
    )


def _prices() -> None:
    op.add_column("price", _text("fingerprint", null=True))
    op.add_column("price", _text("source", null=True))
    op.create_index("ix_price_fingerprint", "price", ["fingerprint"], unique=True)
    op.create_table(
        "price_document",
        sa.Column("number", ID, primary_key=True, autoincrement=True),
        *[_text(name) for name in ("kind", "name", "tenant")],
        *[_big(name) for name in ("effective_from", "created_at")],
        _text("body"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_price_document", "price_document", ["kind", "name", "tenant"])
    op.create_table(
        "counter",
        *[_text(name) for name in ("tenant", "month")],
        sa.Column("version", sa.BigInteger(), autoincrement=False),
        _text("quantities"),
        sa.PrimaryKeyConstraint("tenant", "month", "version"),
    )


def _projections() -> None:
    op.create_table(
        "series",
        _serial(),
        _text("identity"),
        *[_text(name) for name in ("tenant", "project", "key_id", "model", "deployment")],
        *[_text(name) for name in ("adapter", "endpoint")],
        sa.Column("billed", sa.Boolean(), nullable=False),
        _big("rated_version"),
        _text("currency"),
        sa.UniqueConstraint("identity"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_series_tenant", "series", ["tenant"])
    op.create_table(
        "sheet",
        _serial(),
        _big("opened_at"),
        *[_big(name, null=True) for name in ("sealed_at", "sent_at")],
        sqlite_autoincrement=True,
    )
    for name, bucket in (
        ("rollup_minute", "bucket"),
        ("rollup_hour", "bucket"),
        ("rollup_day", "bucket"),
        ("outbox", "sheet"),
    ):
        op.create_table(
            name,
            *[_big(column) for column in ("series", bucket, *SUMS)],
            sa.PrimaryKeyConstraint("series", bucket),
            sqlite_with_rowid=False,
            # Room in each page: sums are updated in place, without touching the index.
            postgresql_with={"fillfactor": 70},
        )


def _on_sqlite() -> None:
    for trigger in ("event_never_deleted", "event_never_edited", "event_rated_once"):
        op.execute(f"DROP TRIGGER {trigger}")
    op.drop_index("ix_event_parked", "event")
    op.drop_index("ix_event_tenant_month", "event")
    op.add_column("event", _big("amount_nano", null=True))
    op.add_column("event", _big("amount_atto", null=True))
    op.add_column("event", _big("reasoning_billed", null=True))
    for column in _told_later():
        op.add_column("event", column)
    op.execute("UPDATE event SET reasoning_billed = 0 WHERE rated_version IS NOT NULL")
    bind = op.get_bind()
    rated = bind.execute(
        sa.text("SELECT id, amount FROM event WHERE amount IS NOT NULL ORDER BY id")
    )
    update = sa.text("UPDATE event SET amount_nano = :nano, amount_atto = :rest WHERE id = :id")
    for rows in rated.partitions(5000):
        halves = [(row.id, money.halves(money.parse(row.amount, digits=30))) for row in rows]
        bind.execute(update, [{"id": number, **both._asdict()} for number, both in halves])
    _park("amount_nano IS NULL")
    op.drop_column("event", "amount")
    op.create_index("ix_event_tenant", "event", ["tenant", "id"])
    for table in APPEND_ONLY:
        for verb, done in (("DELETE", "deleted"), ("UPDATE", "edited")):
            op.execute(
                f"CREATE TRIGGER {table}_never_{done} BEFORE {verb} ON {table} BEGIN"
                " SELECT RAISE(ABORT, 'the ledger is append-only'); END"
            )


def _told_later() -> "list[sa.Column[str] | sa.Column[int]]":
    """What routers of this release may say besides, and earlier ones did not."""
    return [
        sa.Column("service_tier", sa.String(), nullable=False, server_default=""),
        sa.Column("audio_ms", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("images", sa.BigInteger(), nullable=False, server_default="0"),
    ]


def _park(unrated: str) -> None:
    op.execute(
        "INSERT INTO parked (attempt_month, event_id, tenant, deployment)"
        f" SELECT attempt_month, event_id, tenant, deployment FROM event WHERE billed AND {unrated}"
    )


def _on_postgresql() -> None:
    op.execute("ALTER TABLE event RENAME TO event_before")
    op.execute("ALTER SEQUENCE event_id_seq RENAME TO event_number")
    for name in ("event_pkey", "event_attempt_month_event_id_key"):
        op.execute(f"ALTER TABLE event_before RENAME CONSTRAINT {name} TO {name}_before")
    for name in ("request", "replica"):
        op.execute(f"DROP INDEX ix_event_{name}")
    op.execute(
        "CREATE TABLE event (LIKE event_before INCLUDING DEFAULTS) PARTITION BY LIST (attempt_month)"
    )
    op.execute("ALTER TABLE event DROP COLUMN amount")
    op.execute(
        "ALTER TABLE event ADD amount_nano BIGINT, ADD amount_atto BIGINT, ADD reasoning_billed BIGINT"
    )
    for column in _told_later():
        op.add_column("event", column)
    op.execute("ALTER SEQUENCE event_number OWNED BY event.id")
    op.execute("ALTER TABLE event ADD PRIMARY KEY (attempt_month, id)")
    op.execute("ALTER TABLE event ADD UNIQUE (attempt_month, event_id)")
    op.create_index("ix_event_tenant", "event", ["tenant", "id"])
    op.create_index("ix_event_request", "event", ["request_id"])
    op.create_index("ix_event_replica", "event", ["replica"])
    _append_only_on_postgresql()
    bind = op.get_bind()
    months = bind.execute(sa.text("SELECT DISTINCT attempt_month FROM event_before"))
    for (month,) in months.all():
        partitions.add_month(bind, month)
    names = ", ".join(KEPT)
    op.execute(
        f"INSERT INTO event ({names}, reasoning_billed, amount_nano, amount_atto) SELECT {names},"
        " CASE WHEN rated_version IS NULL THEN NULL ELSE 0 END,"
        " div(amount::numeric * 1e18, 1e9), mod(amount::numeric * 1e18, 1e9) FROM event_before"
    )
    _park("amount_nano IS NULL")
    op.execute("DROP TABLE event_before")


def _append_only_on_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'the ledger is append-only' USING ERRCODE = 'integrity_constraint_violation'; END $$"
    )
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION append_only()"
        )
        op.execute(
            f"CREATE TRIGGER {table}_never_emptied BEFORE TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION append_only()"
        )


def downgrade() -> None:
    """A ledger is not taken down by a migration."""
    raise NotImplementedError("the ledger has no way back; restore a backup instead")
