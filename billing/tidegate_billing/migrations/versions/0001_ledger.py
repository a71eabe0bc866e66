"""Tenants, projects, keys, price books, the ledger, journals and counters.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
PARKED = sa.text("billed AND amount IS NULL")


def _text(name: str, *, null: bool = False) -> "sa.Column[str]":
    return sa.Column(name, sa.String(), nullable=null)


def _big(name: str, *, null: bool = False) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger(), nullable=null)


def _flag(name: str) -> "sa.Column[bool]":
    return sa.Column(name, sa.Boolean(), nullable=False)


def _serial(name: str) -> "sa.Column[int]":
    return sa.Column(name, ID, primary_key=True, autoincrement=True)


def _int(name: str) -> "sa.Column[int]":
    return sa.Column(name, sa.Integer(), nullable=False)


def upgrade() -> None:
    """Build everything, and let triggers hold the ledger to append-only."""
    _accounts()
    _prices()
    _ledger()
    _counts()
    if op.get_bind().dialect.name == "sqlite":
        _append_only()


def _accounts() -> None:
    op.create_table(
        "tenant",
        _serial("seq"),
        _text("id"),
        _big("created_at"),
        sa.UniqueConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "project",
        _text("id"),
        _text("tenant"),
        _text("name"),
        _big("created_at"),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["tenant"], ["tenant.id"]),
        sa.UniqueConstraint("tenant", "name"),
    )
    op.create_table(
        "api_key",
        _serial("seq"),
        _text("id"),
        _text("digest"),
        _int("pepper_version"),
        _text("prefix"),
        _text("tenant"),
        _text("project"),
        _text("name"),
        _big("created_at"),
        _big("revoked_at", null=True),
        sa.ForeignKeyConstraint(["tenant"], ["tenant.id"]),
        sa.UniqueConstraint("id"),
        sa.UniqueConstraint("digest"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_api_key_tenant", "api_key", ["tenant"])


def _prices() -> None:
    op.create_table(
        "model",
        _text("deployment"),
        _text("model"),
        _text("owner"),
        _text("adapters"),
        _flag("present"),
        sa.PrimaryKeyConstraint("deployment"),
        sa.ForeignKeyConstraint(["owner"], ["tenant.id"]),
    )
    op.create_table(
        "price",
        _serial("version"),
        _text("deployment"),
        _text("currency"),
        _text("input_per_million"),
        _text("output_per_million"),
        _text("cached_input_per_million", null=True),
        _big("effective_from"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_price_deployment", "price", ["deployment", "effective_from"])


def _ledger() -> None:
    op.create_table(
        "event",
        _serial("id"),
        *[_text(name) for name in ("attempt_month", "event_id", "digest", "day")],
        *[_text(name) for name in ("attempt_id", "kind", "request_id", "tenant", "project")],
        *[_text(name) for name in ("key_id", "model", "deployment", "endpoint")],
        *[_big(name) for name in ("started_at", "finished_at")],
        *[_text(name) for name in ("replica", "client_request_id", "adapter")],
        *[_big(name) for name in ("prompt_tokens", "cached_tokens")],
        _flag("cached_known"),
        *[_big(name) for name in ("completion_tokens", "reasoning_tokens")],
        *[_text(name) for name in ("source", "outcome")],
        _big("price_version"),
        _flag("billed"),
        _text("reason"),
        _int("version"),
        *[_big(name, null=True) for name in ("rated_version", "cached_billed")],
        *[_text(name, null=True) for name in ("amount", "currency")],
        sa.UniqueConstraint("attempt_month", "event_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_event_tenant_month", "event", ["tenant", "attempt_month"])
    op.create_index("ix_event_request", "event", ["request_id"])
    op.create_index("ix_event_replica", "event", ["replica"])
    op.create_index(
        "ix_event_parked", "event", ["deployment"], sqlite_where=PARKED, postgresql_where=PARKED
    )


def _counts() -> None:
    op.create_table(
        "journal",
        _text("name"),
        *[_big(name) for name in ("acked", "unshipped", "gaps")],
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "counters",
        *[_text(name) for name in ("epoch", "model", "deployment")],
        *[_big(name) for name in ("prompt", "generated")],
        _text("state"),
        _flag("verified"),
        _int("in_flight"),
        _text("attempts"),
        sa.PrimaryKeyConstraint("epoch"),
    )


def _append_only() -> None:
    op.execute(
        "CREATE TRIGGER event_never_deleted BEFORE DELETE ON event BEGIN"
        " SELECT RAISE(ABORT, 'the ledger is append-only'); END"
    )
    fixed = (
        "id, attempt_month, event_id, digest, day, attempt_id, kind, request_id, tenant, project,"
        " key_id, model, deployment, endpoint, started_at, finished_at, replica,"
        " client_request_id, adapter, prompt_tokens, cached_tokens, cached_known,"
        " completion_tokens, reasoning_tokens, source, outcome, price_version, billed, reason,"
        " version"
    )
    op.execute(
        f"CREATE TRIGGER event_never_edited BEFORE UPDATE OF {fixed} ON event BEGIN"
        " SELECT RAISE(ABORT, 'the ledger is append-only'); END"
    )
    op.execute(
        "CREATE TRIGGER event_rated_once BEFORE UPDATE ON event WHEN OLD.amount IS NOT NULL BEGIN"
        " SELECT RAISE(ABORT, 'an event is rated once'); END"
    )


def downgrade() -> None:
    """A ledger is not taken down by a migration."""
    raise NotImplementedError("the ledger has no way back; restore a backup instead")
