"""Organizations, scopes of keys, service accounts, the audit chain, and answers kept for repeats.

Columns are added in place, never by copying a table: others refer to these, and rows must survive.
Each statement is one call, because PostgreSQL's prepared statements hold one.

Revision ID: 0003
Revises: 0002
"""

import time

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _text(name: str, *, null: bool = False, default: str | None = None) -> "sa.Column[str]":
    return sa.Column(name, sa.String(), nullable=null, server_default=default)


def _long(name: str, *, null: bool = False) -> "sa.Column[str]":
    return sa.Column(name, sa.Text(), nullable=null)


def _big(name: str, *, null: bool = False) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger(), nullable=null)


def _int(name: str) -> "sa.Column[int]":
    return sa.Column(name, sa.Integer(), nullable=False)


def _serial() -> "sa.Column[int]":
    return sa.Column("seq", ID, primary_key=True, autoincrement=True)


def _revision() -> "sa.Column[int]":
    return sa.Column("revision", sa.BigInteger(), nullable=False, server_default="1")


def upgrade() -> None:
    """Add what is new; every tenant of before is in the organization `default`."""
    _organizations()
    _columns()
    _service_accounts()
    _audit()
    _idempotency()
    if op.get_bind().dialect.name == "sqlite":
        _append_only_sqlite()
    else:
        _append_only_postgresql()


def _organizations() -> None:
    made = op.create_table(
        "organization",
        _serial(),
        _text("id"),
        _text("display_name", default=""),
        _big("created_at"),
        _revision(),
        sa.UniqueConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.bulk_insert(made, [{"id": "default", "created_at": time.time_ns() // 1000}])


def _columns() -> None:
    # Alembic can't add a column with its reference on SQLite; both databases can.
    op.execute("ALTER TABLE tenant ADD COLUMN organization VARCHAR REFERENCES organization (id)")
    op.execute("UPDATE tenant SET organization = 'default'")
    op.create_index("ix_tenant_organization", "tenant", ["organization"])
    tenant = [_text("display_name", default=""), _text("time_zone", default="UTC")]
    _add("tenant", *tenant, _big("suspended_at", null=True), _revision())
    project = _text("display_name", default="")
    _add("project", project, _big("archived_at", null=True), _revision())
    times = [_big(name, null=True) for name in ("expires_at", "last_used_at")]
    scopes = [_long(name, null=True) for name in ("models", "routes", "limits")]
    _add("api_key", *times, *scopes, _text("rotated_from", null=True), _revision())


def _add(table: str, *columns: "sa.Column[str] | sa.Column[int]") -> None:
    for column in columns:
        op.add_column(table, column)


def _service_accounts() -> None:
    op.create_table(
        "service_account",
        _serial(),
        *[_text(name) for name in ("id", "name", "role", "organization")],
        _text("tenant", null=True),
        _big("created_at"),
        _big("disabled_at", null=True),
        _revision(),
        sa.ForeignKeyConstraint(["organization"], ["organization.id"]),
        sa.ForeignKeyConstraint(["tenant"], ["tenant.id"]),
        sa.UniqueConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_service_account_organization", "service_account", ["organization"])
    op.create_table(
        "service_token",
        *[_text(name) for name in ("id", "account", "digest")],
        _int("pepper_version"),
        _text("prefix"),
        _big("created_at"),
        _big("expires_at", null=True),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["account"], ["service_account.id"]),
        sa.UniqueConstraint("digest"),
    )
    op.create_index("ix_service_token_account", "service_token", ["account"])


def _audit() -> None:
    op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger(), nullable=False, autoincrement=False),
        _big("at"),
        *[_text(name) for name in ("actor", "action", "object_type", "object_id")],
        *[_text(name, null=True) for name in ("organization", "tenant")],
        *[_long(name, null=True) for name in ("before", "after")],
        *[_text(name) for name in ("prev_hash", "hash")],
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("hash"),
    )
    op.create_index("ix_audit_tenant", "audit", ["tenant", "seq"])
    op.create_index("ix_audit_object", "audit", ["object_id", "seq"])


def _idempotency() -> None:
    op.create_table(
        "idempotency",
        *[_text(name) for name in ("id", "fingerprint")],
        _int("status"),
        _long("body"),
        *[_text(name) for name in ("etag", "secret_field", "secret_start", "nonce")],
        _int("pepper_version"),
        _big("created_at"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_idempotency_created_at", "idempotency", ["created_at"])


def _append_only_sqlite() -> None:
    for name, what in (("deleted", "DELETE"), ("edited", "UPDATE")):
        op.execute(
            f"CREATE TRIGGER audit_never_{name} BEFORE {what} ON audit BEGIN"
            " SELECT RAISE(ABORT, 'the audit log is append-only'); END"
        )
    # INSERT OR REPLACE takes a row away without a delete.
    op.execute(
        "CREATE TRIGGER audit_only_grows BEFORE INSERT ON audit"
        " WHEN EXISTS (SELECT 1 FROM audit WHERE seq >= NEW.seq) BEGIN"
        " SELECT RAISE(ABORT, 'the audit log is append-only'); END"
    )


def _append_only_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS $$"
        " BEGIN RAISE EXCEPTION 'the audit log is append-only'"
        " USING ERRCODE = 'integrity_constraint_violation'; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_never_changed BEFORE UPDATE OR DELETE ON audit"
        " FOR EACH ROW EXECUTE FUNCTION audit_append_only()"
    )
    op.execute(
        "CREATE TRIGGER audit_never_emptied BEFORE TRUNCATE ON audit"
        " FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only()"
    )


def downgrade() -> None:
    """An audit log is not taken down by a migration."""
    raise NotImplementedError("the ledger has no way back; restore a backup instead")
