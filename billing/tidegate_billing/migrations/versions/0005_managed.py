"""What resources of a cluster hold: price books, contracts, tenants and their keys.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing of before is held by a resource."""
    op.create_table(
        "managed",
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("gone_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("kind", "name"),
    )
    op.create_table(
        "managed_key",
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("entry", sa.String(), nullable=False),
        sa.Column("rotation", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenant.id"]),
        sa.PrimaryKeyConstraint("key_id"),
    )
    op.create_index("ix_managed_key_tenant", "managed_key", ["tenant"])


def downgrade() -> None:
    """As the others."""
    raise NotImplementedError("the ledger has no way back; restore a backup instead")
