"""Tenants, projects and keys in the database.

A tenant is named by its slug, which is its id everywhere: in resources, events and invoices. A
key row holds a digest and the first characters; the key itself is in the one answer that made it.
"""

import re
import secrets
from typing import NamedTuple

from sqlalchemy import Connection, Select, insert, select, update

from tidegate_billing import keys
from tidegate_billing.links import KeyView
from tidegate_billing.tables import API_KEY, PROJECT, TENANT

SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
SLUG_ALLOWED = "1 to 63 characters A-Z, a-z, 0-9, ., _ and -, the first a letter or digit"
NAME_LENGTH = 200


class Key(NamedTuple):
    """A key as lists show it. Times are microseconds; `revoked_at` None: it works."""

    id: str
    prefix: str
    tenant: str
    project: str
    name: str
    created_at: int
    revoked_at: int | None


class Made(NamedTuple):
    """A key that was just made. `key` is shown once and kept nowhere."""

    row: Key
    key: str
    view: KeyView
    new_tenant: bool


def slug_error(value: str) -> str | None:
    """What is wrong with a tenant's or project's name, or None."""
    if SLUG.fullmatch(value):
        return None
    return f"{value[:80]!r} is not a name; allowed: {SLUG_ALLOWED}"


def ensure_tenant(connection: Connection, tenant: str, now: int) -> bool:
    """Make the tenant where it is missing; True where it was."""
    known = connection.execute(select(TENANT.c.seq).where(TENANT.c.id == tenant)).scalar()
    if known is not None:
        return False
    connection.execute(insert(TENANT).values(id=tenant, created_at=now))
    return True


def tenant_exists(connection: Connection, tenant: str) -> bool:
    """Whether there is such a tenant."""
    found = connection.execute(select(TENANT.c.seq).where(TENANT.c.id == tenant)).scalar()
    return found is not None


def tenants(connection: Connection, limit: int, after: str | None) -> list[tuple[str, int]] | None:
    """(id, created_at) of tenants in the order they were made; None: no tenant is `after`."""
    query = select(TENANT.c.id, TENANT.c.created_at).order_by(TENANT.c.seq).limit(limit)
    if after is not None:
        seq = connection.execute(select(TENANT.c.seq).where(TENANT.c.id == after)).scalar()
        if seq is None:
            return None
        query = query.where(TENANT.c.seq > seq)
    return [(row.id, row.created_at) for row in connection.execute(query)]


def _ensure_project(connection: Connection, tenant: str, project: str, now: int) -> None:
    known = connection.execute(
        select(PROJECT.c.id).where(PROJECT.c.tenant == tenant, PROJECT.c.name == project)
    ).scalar()
    if known is None:
        made = "proj_" + secrets.token_hex(10)
        connection.execute(
            insert(PROJECT).values(id=made, tenant=tenant, name=project, created_at=now)
        )


def make_key(
    connection: Connection,
    *,
    tenant: str,
    project: str,
    name: str,
    peppers: dict[int, bytes],
    now: int,
) -> Made:
    """Make a key, and its tenant and project where they are missing."""
    new_tenant = ensure_tenant(connection, tenant, now)
    _ensure_project(connection, tenant, project, now)
    key = keys.new_key()
    version = keys.current(peppers)
    row = Key("key_" + secrets.token_hex(10), keys.prefix(key), tenant, project, name, now, None)
    digest = keys.digest(peppers[version], key.encode()).hex()
    connection.execute(
        insert(API_KEY).values(**row._asdict(), digest=digest, pepper_version=version)
    )
    view = KeyView(id=row.id, digest=digest, tenant=tenant, project=project, pepper_version=version)
    return Made(row, key, view, new_tenant)


def revoke_key(connection: Connection, key_id: str, now: int) -> Key | None:
    """Revoke a key for good; a second time changes nothing. None: there is no such key."""
    # every tenant: the platform's operator names a key by its id alone
    connection.execute(
        update(API_KEY)
        .where(API_KEY.c.id == key_id, API_KEY.c.revoked_at.is_(None))
        .values(revoked_at=now)
    )
    row = connection.execute(_key_columns().where(API_KEY.c.id == key_id)).first()
    return None if row is None else Key._make(row)


def list_keys(
    connection: Connection, *, tenant: str | None, revoked: bool, limit: int, after: str | None
) -> list[Key] | None:
    """Keys in the order they were made; None: no key is `after`."""
    query = _key_columns().order_by(API_KEY.c.seq).limit(limit)
    if tenant is not None:
        query = query.where(API_KEY.c.tenant == tenant)
    if not revoked:
        query = query.where(API_KEY.c.revoked_at.is_(None))
    if after is not None:
        seq = connection.execute(select(API_KEY.c.seq).where(API_KEY.c.id == after)).scalar()
        if seq is None:
            return None
        query = query.where(API_KEY.c.seq > seq)
    return [Key._make(row) for row in connection.execute(query)]


def _key_columns() -> "Select[tuple[object, ...]]":
    # every tenant: the columns only; the callers say which keys
    return select(*(API_KEY.c[field] for field in Key._fields))


def live_views(connection: Connection) -> list[KeyView]:
    """Every key that works, as routers need it."""
    columns = API_KEY.c
    rows = connection.execute(
        select(columns.id, columns.digest, columns.tenant, columns.project, columns.pepper_version)
        .where(columns.revoked_at.is_(None))
        .order_by(columns.seq)
    )
    return [
        KeyView(id=key, digest=digest, tenant=tenant, project=project, pepper_version=pepper)
        for key, digest, tenant, project, pepper in rows
    ]


def all_tenants(connection: Connection) -> list[str]:
    """The name of every tenant."""
    return [name for (name,) in connection.execute(select(TENANT.c.id).order_by(TENANT.c.seq))]
