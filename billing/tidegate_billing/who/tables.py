"""The tables of who may do what, of what was changed, and of answers that may be asked for again.

Columns that migration 0003 adds have defaults in the database, so that rows of before and programs
of before need to know nothing of them. `audit` is append-only, and triggers hold it to that.
"""

from sqlalchemy import BigInteger, Column, Index, Integer, String, Text, UniqueConstraint
from sqlmodel import Field, SQLModel

ID = BigInteger().with_variant(Integer, "sqlite")
DEFAULT = "default"
"""The organization of a tenant for which nobody said another."""


def _serial() -> Column[int]:
    return Column(ID, primary_key=True, autoincrement=True)


def _big(*, nullable: bool = False) -> Column[int]:
    return Column(BigInteger, nullable=nullable)


def revision() -> Column[int]:
    """How many times a row was written; what its ETag is made of."""
    return Column(BigInteger, nullable=False, server_default="1")


def words(default: str = "") -> Column[str]:
    """A text that has a default."""
    return Column(String, nullable=False, server_default=default)


class Organization(SQLModel, table=True):
    """A company, or whatever else tenants belong to together."""

    __table_args__ = {"sqlite_autoincrement": True}
    seq: int | None = Field(default=None, sa_column=_serial())
    id: str = Field(unique=True)
    display_name: str = Field(sa_column=words())
    created_at: int = Field(sa_column=_big())
    revision: int = Field(sa_column=revision())


class ServiceAccount(SQLModel, table=True):
    """A program that may call the management API. `tenant` null: for all of the organization."""

    __tablename__ = "service_account"
    __table_args__ = {"sqlite_autoincrement": True}
    seq: int | None = Field(default=None, sa_column=_serial())
    id: str = Field(unique=True)
    name: str
    role: str
    organization: str = Field(foreign_key="organization.id", index=True)
    tenant: str | None = Field(default=None, foreign_key="tenant.id")
    created_at: int = Field(sa_column=_big())
    disabled_at: int | None = Field(default=None, sa_column=_big(nullable=True))
    revision: int = Field(sa_column=revision())


class ServiceToken(SQLModel, table=True):
    """The digest of a service account's token. `expires_at` null: until the account ends."""

    __tablename__ = "service_token"
    id: str = Field(primary_key=True)
    account: str = Field(foreign_key="service_account.id", index=True)
    digest: str = Field(unique=True)
    pepper_version: int
    prefix: str
    created_at: int = Field(sa_column=_big())
    expires_at: int | None = Field(default=None, sa_column=_big(nullable=True))


class Audit(SQLModel, table=True):
    """One change. `before` and `after` are JSON; how `hash` is made is in `chain`."""

    __table_args__ = (
        UniqueConstraint("hash"),
        Index("ix_audit_tenant", "tenant", "seq"),
        Index("ix_audit_object", "object_id", "seq"),
    )
    seq: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    at: int = Field(sa_column=_big())
    actor: str
    action: str
    object_type: str
    object_id: str
    organization: str | None = None
    tenant: str | None = None
    before: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    after: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    prev_hash: str
    hash: str


class Idempotency(SQLModel, table=True):
    """The answer to a POST that may be asked for again, without the secret that was in it."""

    id: str = Field(primary_key=True)
    fingerprint: str
    status: int
    body: str = Field(sa_column=Column(Text, nullable=False))
    etag: str
    secret_field: str
    secret_start: str
    nonce: str
    pepper_version: int
    created_at: int = Field(sa_column=Column(BigInteger, nullable=False, index=True))


class Managed(SQLModel, table=True):
    """What a resource of the cluster holds (`kind`: price-book, contract, tenant), until `gone_at`."""

    kind: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    gone_at: int | None = Field(default=None, sa_column=_big(nullable=True))


class ManagedKey(SQLModel, table=True):
    """Which entry of a tenant's resource a key was made for, and in which rotation of it."""

    __tablename__ = "managed_key"
    key_id: str = Field(primary_key=True)
    tenant: str = Field(foreign_key="tenant.id", index=True)
    entry: str
    rotation: int = Field(sa_column=_big())


METADATA = SQLModel.metadata
ORGANIZATION = METADATA.tables["organization"]
SERVICE_ACCOUNT = METADATA.tables["service_account"]
SERVICE_TOKEN = METADATA.tables["service_token"]
AUDIT = METADATA.tables["audit"]
IDEMPOTENCY = METADATA.tables["idempotency"]
MANAGED = METADATA.tables["managed"]
MANAGED_KEY = METADATA.tables["managed_key"]
