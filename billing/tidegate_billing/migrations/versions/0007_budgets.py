"""Budgets, and the webhooks that tell of them.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _text(*names: str) -> "list[sa.Column[str]]":
    return [sa.Column(name, sa.String(), nullable=False) for name in names]


def _long(name: str, *, null: bool = False) -> "sa.Column[str]":
    return sa.Column(name, sa.Text(), nullable=null)


def _big(*names: str, null: bool = False) -> "list[sa.Column[int]]":
    return [sa.Column(name, sa.BigInteger(), nullable=null) for name in names]


def _number(*names: str) -> "list[sa.Column[int]]":
    return [sa.Column(name, sa.Integer(), nullable=False) for name in names]


def _serial(name: str) -> "sa.Column[int]":
    return sa.Column(name, ID, primary_key=True, autoincrement=True)


def _flag(name: str) -> "sa.Column[bool]":
    return sa.Column(name, sa.Boolean(), nullable=False, server_default=sa.false())


def _revision() -> "sa.Column[int]":
    return sa.Column("revision", sa.BigInteger(), nullable=False, server_default="1")


def _of_tenant() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["tenant"], ["tenant.id"])


def upgrade() -> None:
    """Nobody had a budget before."""
    _budgets()
    _endpoints()
    _messages()
    _tries()


def _budgets() -> None:
    op.create_table(
        "budget",
        _serial("seq"),
        *_text("id", "tenant", "scope", "subject", "kind"),
        sa.Column("zone", sa.String(), nullable=True),
        *_big("limit_nano", "limit_atto"),
        *_text("currency"),
        _flag("hard"),
        _long("thresholds"),
        *_big("created"),
        *_big("removed_at", null=True),
        _revision(),
        sa.UniqueConstraint("id"),
        _of_tenant(),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_budget_tenant", "budget", ["tenant"])
    op.create_table(
        "budget_spent",
        *_text("budget"),
        *_big("start", "finish", "units", "atto"),
        sa.PrimaryKeyConstraint("budget", "start", "finish"),
    )
    op.create_table(
        "budget_alert",
        *_text("budget"),
        *_big("start"),
        *_number("threshold"),
        *_text("message"),
        *_big("at"),
        sa.PrimaryKeyConstraint("budget", "start", "threshold"),
    )


def _endpoints() -> None:
    op.create_table(
        "webhook_endpoint",
        _serial("seq"),
        *_text("id", "tenant"),
        _long("url"),
        _long("secrets"),
        _long("events", null=True),
        sa.Column("description", sa.String(), nullable=False, server_default=""),
        *_big("created_at"),
        *_big("disabled_at", null=True),
        sa.Column("disabled_reason", sa.String(), nullable=False, server_default=""),
        *_big("removed_at", null=True),
        _revision(),
        sa.UniqueConstraint("id"),
        _of_tenant(),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_webhook_endpoint_tenant", "webhook_endpoint", ["tenant"])


def _messages() -> None:
    op.create_table(
        "webhook_message",
        _serial("seq"),
        *_text("id", "tenant", "type"),
        _long("body"),
        *_big("at"),
        sa.UniqueConstraint("id"),
        _of_tenant(),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_webhook_message_tenant", "webhook_message", ["tenant", "seq"])
    op.create_table(
        "webhook_delivery",
        _serial("seq"),
        *_text("id", "tenant", "message", "endpoint"),
        *_big("first"),
        *_big("due", null=True),
        *_number("tries"),
        *_text("state"),
        _flag("by_hand"),
        sa.UniqueConstraint("id"),
        _of_tenant(),
        sqlite_autoincrement=True,
    )
    for column in ("tenant", "endpoint"):
        op.create_index(f"ix_webhook_delivery_{column}", "webhook_delivery", [column, "seq"])
    op.create_index("ix_webhook_delivery_due", "webhook_delivery", ["due"])


def _tries() -> None:
    op.create_table(
        "webhook_try",
        _serial("id"),
        *_text("tenant", "delivery", "message", "endpoint"),
        *_number("number"),
        *_big("at", "took"),
        *_number("status"),
        *_text("note", "state"),
        *_big("due", null=True),
        _of_tenant(),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_webhook_try_delivery", "webhook_try", ["delivery", "number"])


def downgrade() -> None:
    """As the others."""
    raise NotImplementedError("the ledger has no way back; restore a backup instead")
