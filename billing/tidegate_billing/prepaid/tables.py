"""The tables of credit. Grants and entries are append-only; `credit_sum` is their projection.

An amount is two columns (`money.halves`). An entry belongs to a movement, and a movement's entries
sum to zero.
"""

from sqlalchemy import BigInteger, Column, Index, Integer
from sqlmodel import Field, SQLModel

ID = BigInteger().with_variant(Integer, "sqlite")


def _serial() -> Column[int]:
    return Column(ID, primary_key=True, autoincrement=True)


def _big(*, nullable: bool = False) -> Column[int]:
    return Column(BigInteger, nullable=nullable)


class CreditGrant(SQLModel, table=True):
    """Credit that was sold or given."""

    __tablename__ = "credit_grant"
    __table_args__ = (
        Index("ix_credit_grant_tenant", "tenant", "currency"),
        Index("ix_credit_grant_expires", "expires"),
        {"sqlite_autoincrement": True},
    )
    seq: int | None = Field(default=None, sa_column=_serial())
    id: str = Field(unique=True)
    tenant: str = Field(foreign_key="tenant.id")
    currency: str
    amount_nano: int = Field(sa_column=_big())
    amount_atto: int = Field(sa_column=_big())
    priority: int
    starts: int = Field(sa_column=_big())
    expires: int | None = Field(default=None, sa_column=_big(nullable=True))
    created: int = Field(sa_column=_big())
    note: str


class CreditEntry(SQLModel, table=True):
    """One side of a movement. `grant_id` empty: of none."""

    __tablename__ = "credit_entry"
    __table_args__ = (
        Index("ix_credit_entry_tenant", "tenant", "id"),
        {"sqlite_autoincrement": True},
    )
    id: int | None = Field(default=None, sa_column=_serial())
    movement: str
    kind: str
    tenant: str
    currency: str
    account: str
    grant_id: str
    amount_nano: int = Field(sa_column=_big())
    amount_atto: int = Field(sa_column=_big())
    posted_at: int = Field(sa_column=_big())
    actor: str
    note: str


class CreditSum(SQLModel, table=True):
    """What an account holds for one grant, or for none: the sum of its entries."""

    __tablename__ = "credit_sum"
    tenant: str = Field(primary_key=True)
    currency: str = Field(primary_key=True)
    account: str = Field(primary_key=True)
    grant_id: str = Field(primary_key=True)
    amount_nano: int = Field(sa_column=_big())
    amount_atto: int = Field(sa_column=_big())


GRANT = SQLModel.metadata.tables["credit_grant"]
ENTRY = SQLModel.metadata.tables["credit_entry"]
SUM = SQLModel.metadata.tables["credit_sum"]
