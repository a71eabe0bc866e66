"""Plans, and what routers were lent of credit and hard budgets.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

AMOUNTS = ("granted_units", "granted_atto", "consumed_units", "consumed_atto")


def upgrade() -> None:
    """Every tenant of before is postpaid, and nothing was lent."""
    op.add_column(
        "tenant", sa.Column("plan", sa.String(), nullable=False, server_default="postpaid")
    )
    op.create_table(
        "lease",
        *[sa.Column(name, sa.String(), nullable=False) for name in ("pot", "router", "tenant")],
        *[sa.Column(name, sa.BigInteger(), nullable=False) for name in (*AMOUNTS, "ends", "until")],
        sa.ForeignKeyConstraint(["tenant"], ["tenant.id"]),
        sa.PrimaryKeyConstraint("pot", "router"),
    )
    op.create_index("ix_lease_router", "lease", ["router"])
    op.create_index("ix_lease_tenant", "lease", ["tenant"])
    op.create_table(
        "lease_session",
        sa.Column("router", sa.String(), nullable=False),
        sa.Column("session", sa.BigInteger(), nullable=False),
        sa.Column("seen", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("router"),
    )


def downgrade() -> None:
    """As the others."""
    raise NotImplementedError("the ledger has no way back; restore a backup instead")
