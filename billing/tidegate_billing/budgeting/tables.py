"""The tables of budgets. `budget_spent` is a projection: it can be emptied, and fills by itself.

A limit is two columns (`money.halves`). What was spent is whole units and atto: it is added up here
and not in SQL, and a year of a currency of small units is more than a column of nano-units holds.
Times are microseconds since the epoch.
"""

from sqlalchemy import BigInteger, Column, Index, Integer, Text, false
from sqlmodel import Field, SQLModel

ID = BigInteger().with_variant(Integer, "sqlite")


def _serial() -> Column[int]:
    return Column(ID, primary_key=True, autoincrement=True)


def _big(*, nullable: bool = False) -> Column[int]:
    return Column(BigInteger, nullable=nullable)


def _key() -> Column[int]:
    return Column(BigInteger, primary_key=True, autoincrement=False)


class BudgetRow(SQLModel, table=True):
    """A budget. `zone` null: the tenant's, whatever that is. `thresholds` is JSON. `subject` is what
    events call it: the tenant, the project's name or the key's id."""

    __tablename__ = "budget"
    __table_args__ = (Index("ix_budget_tenant", "tenant"), {"sqlite_autoincrement": True})
    seq: int | None = Field(default=None, sa_column=_serial())
    id: str = Field(unique=True)
    tenant: str = Field(foreign_key="tenant.id")
    scope: str
    subject: str
    kind: str
    zone: str | None = None
    limit_nano: int = Field(sa_column=_big())
    limit_atto: int = Field(sa_column=_big())
    currency: str
    hard: bool = Field(sa_column_kwargs={"server_default": false()})
    thresholds: str = Field(sa_column=Column(Text, nullable=False))
    created: int = Field(sa_column=_big())
    removed_at: int | None = Field(default=None, sa_column=_big(nullable=True))
    revision: int = Field(sa_column=Column(BigInteger, nullable=False, server_default="1"))


class BudgetSpent(SQLModel, table=True):
    """What was spent in one window of a budget. `finish` is the window's end: a zone that was changed
    leaves windows of before, and they stay right."""

    __tablename__ = "budget_spent"
    budget: str = Field(primary_key=True)
    start: int = Field(sa_column=_key())
    finish: int = Field(sa_column=_key())
    units: int = Field(sa_column=_big())
    atto: int = Field(sa_column=_big())


class BudgetAlert(SQLModel, table=True):
    """A threshold that was told in a window: once, for ever."""

    __tablename__ = "budget_alert"
    budget: str = Field(primary_key=True)
    start: int = Field(sa_column=_key())
    threshold: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    message: str
    at: int = Field(sa_column=_big())


BUDGET = SQLModel.metadata.tables["budget"]
BUDGET_SPENT = SQLModel.metadata.tables["budget_spent"]
BUDGET_ALERT = SQLModel.metadata.tables["budget_alert"]
