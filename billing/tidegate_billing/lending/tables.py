"""The tables of leases: what each router was lent, and the session that it speaks in.

A pot has no table: what is in it follows from credit's entries and from usage. An amount is two
columns: whole units and atto, for what was lent in a session adds up, also of currencies with small
units. Times are microseconds since the epoch.
"""

from sqlalchemy import BigInteger, Column, Index
from sqlmodel import Field, SQLModel


def _big() -> Column[int]:
    return Column(BigInteger, nullable=False)


class Lease(SQLModel, table=True):
    """What one router was lent of one pot (`leases.Lease`). `until`: the pot's own end, as it was when
    something was last lent or taken back."""

    __table_args__ = (Index("ix_lease_router", "router"), Index("ix_lease_tenant", "tenant"))
    pot: str = Field(primary_key=True)
    router: str = Field(primary_key=True)
    tenant: str = Field(foreign_key="tenant.id")
    granted_units: int = Field(sa_column=_big())
    granted_atto: int = Field(sa_column=_big())
    consumed_units: int = Field(sa_column=_big())
    consumed_atto: int = Field(sa_column=_big())
    ends: int = Field(sa_column=_big())
    until: int = Field(sa_column=_big())


class LeaseSession(SQLModel, table=True):
    """The life in which a router holds leases: what it said in an earlier one is void."""

    __tablename__ = "lease_session"
    router: str = Field(primary_key=True)
    session: int = Field(sa_column=_big())
    seen: int = Field(sa_column=_big())


LEASE = SQLModel.metadata.tables["lease"]
SESSION = SQLModel.metadata.tables["lease_session"]
