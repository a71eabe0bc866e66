"""Prepaid credit: grants, double entries, and their sums.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
APPEND_ONLY = ("credit_grant", "credit_entry")


def _text(name: str) -> "sa.Column[str]":
    return sa.Column(name, sa.String(), nullable=False)


def _big(name: str, *, null: bool = False) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger(), nullable=null)


def _serial(name: str) -> "sa.Column[int]":
    return sa.Column(name, ID, primary_key=True, autoincrement=True)


def upgrade() -> None:
    """Build the tables; nobody had credit before."""
    op.create_table(
        "credit_grant",
        _serial("seq"),
        *[_text(name) for name in ("id", "tenant", "currency")],
        *[_big(name) for name in ("amount_nano", "amount_atto")],
        sa.Column("priority", sa.Integer(), nullable=False),
        _big("starts"),
        _big("expires", null=True),
        _big("created"),
        _text("note"),
        sa.UniqueConstraint("id"),
        sa.ForeignKeyConstraint(["tenant"], ["tenant.id"]),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_credit_grant_tenant", "credit_grant", ["tenant", "currency"])
    op.create_index("ix_credit_grant_expires", "credit_grant", ["expires"])
    op.create_table(
        "credit_entry",
        _serial("id"),
        *[_text(name) for name in ("movement", "kind", "tenant", "currency", "account")],
        _text("grant_id"),
        *[_big(name) for name in ("amount_nano", "amount_atto", "posted_at")],
        *[_text(name) for name in ("actor", "note")],
        sqlite_autoincrement=True,
    )
    op.create_index("ix_credit_entry_tenant", "credit_entry", ["tenant", "id"])
    op.create_table(
        "credit_sum",
        *[_text(name) for name in ("tenant", "currency", "account", "grant_id")],
        *[_big(name) for name in ("amount_nano", "amount_atto")],
        sa.PrimaryKeyConstraint("tenant", "currency", "account", "grant_id"),
    )
    for table in APPEND_ONLY:
        _keep(table)


def _keep(table: str) -> None:
    if op.get_bind().dialect.name != "sqlite":
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION append_only()"
        )
        op.execute(
            f"CREATE TRIGGER {table}_never_emptied BEFORE TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION append_only()"
        )
        return
    for verb, done in (("DELETE", "deleted"), ("UPDATE", "edited")):
        op.execute(
            f"CREATE TRIGGER {table}_never_{done} BEFORE {verb} ON {table} BEGIN"
            " SELECT RAISE(ABORT, 'the ledger is append-only'); END"
        )


def downgrade() -> None:
    """Credit is not taken down by a migration."""
    raise NotImplementedError("the ledger has no way back; restore a backup instead")
