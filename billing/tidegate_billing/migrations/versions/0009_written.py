"""What routers' journals say they have written, by model and day.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

SUMS = ("settlements", "prompt_tokens", "completion_tokens", "upto")


def upgrade() -> None:
    """No journal has told yet."""
    op.add_column("journal", sa.Column("counted_from", sa.String(), nullable=True))
    op.create_table(
        "journal_count",
        *[sa.Column(name, sa.String(), nullable=False) for name in ("journal", "day", "model")],
        *[sa.Column(name, sa.BigInteger(), nullable=False) for name in SUMS],
        sa.PrimaryKeyConstraint("journal", "day", "model"),
    )
    op.create_index("ix_journal_count_day", "journal_count", ["day"])


def downgrade() -> None:
    """As the others."""
    raise NotImplementedError("the ledger has no way back; restore a backup instead")
