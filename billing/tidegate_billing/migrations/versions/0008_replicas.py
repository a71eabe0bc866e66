"""Replicas' time: what a replica's life was made of, in events and in their sums.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

PHASES = ("cold_start_ms", "serving_ms", "idle_tail_ms")
HOLDERS = ("event", "rollup_minute", "rollup_hour", "rollup_day", "outbox")


def upgrade() -> None:
    """Nobody told replicas' time before: what there is has none."""
    for table in HOLDERS:
        for phase in PHASES:
            op.add_column(
                table, sa.Column(phase, sa.BigInteger(), nullable=False, server_default="0")
            )
    op.create_table(
        "replica_life",
        sa.Column("deployment", sa.String(), nullable=False),
        sa.Column("epoch", sa.String(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("deployment", "epoch"),
    )


def downgrade() -> None:
    """As the others."""
    raise NotImplementedError("the ledger has no way back; restore a backup instead")
