"""What every part of billing needs of tenants and keys: their names, whether they are there, and
what routers are told of them. How they are changed is in `who`.

A tenant is named by its slug, which is its id everywhere: in resources, events and invoices. A
key row holds a digest and the first characters; the key itself is in the one answer that made it.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Connection, Row, bindparam, insert, or_, select, update

from tidegate_billing.links import KeyView
from tidegate_billing.tables import API_KEY, TENANT
from tidegate_billing.usage import Usage
from tidegate_billing.who import audit, views
from tidegate_billing.who.actor import SYSTEM
from tidegate_billing.who.scopes import Limits
from tidegate_billing.who.tables import DEFAULT, ORGANIZATION

SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
SLUG_ALLOWED = "1 to 63 characters A-Z, a-z, 0-9, ., _ and -, the first a letter or digit"
NAME_LENGTH = 200
MINUTE = 60_000_000
"""Microseconds that a key's last use may lag behind: it is not worth a write for each request."""


def slug_error(value: str) -> str | None:
    """What is wrong with a tenant's or project's name, or None."""
    if SLUG.fullmatch(value):
        return None
    return f"{value[:80]!r} is not a name; allowed: {SLUG_ALLOWED}"


def name_error(value: str) -> str | None:
    """What is wrong with a name for people, or None."""
    if len(value) <= NAME_LENGTH and value.isprintable():
        return None
    return f"is not a name; allowed: up to {NAME_LENGTH} printable characters"


def ensure_tenant(
    connection: Connection,
    tenant: str,
    now: int,
    *,
    actor: str = SYSTEM.id,
    organization: str = DEFAULT,
    display_name: str = "",
    time_zone: str = "UTC",
    plan: str = "postpaid",
) -> bool:
    """Make the tenant where it is missing; True where it was."""
    if tenant_exists(connection, tenant):
        return False
    _ensure_default(connection, organization, now)
    connection.execute(
        insert(TENANT).values(
            id=tenant,
            created_at=now,
            organization=organization,
            display_name=display_name,
            time_zone=time_zone,
            plan=plan,
        )
    )
    row = connection.execute(select(TENANT).where(TENANT.c.id == tenant)).one()
    audit.record(
        connection,
        actor=actor,
        at=now,
        action="tenant.create",
        object_id=tenant,
        organization=organization,
        tenant=tenant,
        after=tenant_view(row),
    )
    return True


def _ensure_default(connection: Connection, organization: str, now: int) -> None:
    """The default organization comes with the migration; a database without it gets it here."""
    if organization == DEFAULT:
        known = select(ORGANIZATION.c.seq).where(ORGANIZATION.c.id == DEFAULT)
        if connection.execute(known).scalar() is None:
            connection.execute(insert(ORGANIZATION).values(id=DEFAULT, created_at=now))


def tenant_view(row: "Row[Any]") -> views.Tenant:
    """A tenant's row, as it is shown."""
    return views.Tenant(
        id=row.id,
        name=row.id,
        created_at=views.shown(row.created_at),
        organization=row.organization,
        display_name=row.display_name,
        time_zone=row.time_zone,
        suspended=row.suspended_at is not None,
        plan=row.plan,
    )


def tenant_exists(connection: Connection, tenant: str) -> bool:
    """Whether there is such a tenant."""
    found = connection.execute(select(TENANT.c.seq).where(TENANT.c.id == tenant)).scalar()
    return found is not None


def all_tenants(connection: Connection) -> list[str]:
    """The name of every tenant."""
    return [name for (name,) in connection.execute(select(TENANT.c.id).order_by(TENANT.c.seq))]


def suspended_tenants(connection: Connection) -> list[str]:
    """The names of those whose keys are refused."""
    suspended = select(TENANT.c.id).where(TENANT.c.suspended_at.is_not(None))
    return [name for (name,) in connection.execute(suspended.order_by(TENANT.c.seq))]


def live_views(connection: Connection, now: int) -> list[KeyView]:
    """Every key that works, as routers need it."""
    # every tenant: the picture is for all of them
    rows = connection.execute(
        select(API_KEY)
        .where(
            API_KEY.c.revoked_at.is_(None),
            or_(API_KEY.c.expires_at.is_(None), API_KEY.c.expires_at > now),
        )
        .order_by(API_KEY.c.seq)
    )
    return [key_view(row) for row in rows]


def key_view(row: "Row[Any]") -> KeyView:
    """A key's row, as routers need it."""
    return KeyView(
        id=row.id,
        digest=row.digest,
        tenant=row.tenant,
        project=row.project,
        pepper_version=row.pepper_version,
        expires_at=row.expires_at,
        models=_json(row.models, tuple[str, ...]),
        routes=_json(row.routes, tuple[str, ...]),
        limits=_json(row.limits, Limits),
    )


def _json(text: str | None, kind: Any) -> Any:
    return None if text is None else msgspec.json.decode(text, type=kind)


def last_use(events: Iterable[Usage], now: int) -> dict[str, int]:
    """When each key was last used, by what routers told; a clock that is ahead counts as now."""
    seen: dict[str, int] = {}
    for event in events:
        at = min(max(event.started_at, event.finished_at), now)
        seen[event.key_id] = max(at, seen.get(event.key_id, 0))
    return seen


def touch(connection: Connection, seen: Mapping[str, int]) -> None:
    """Keys were used, each last at `seen` (microseconds): for whoever keeps usage, in his
    transaction. A row is written once a minute at most, and never set back."""
    # every tenant: a router's batch has the usage of many
    used = API_KEY.c.last_used_at
    if seen:
        connection.execute(
            update(API_KEY)
            .where(
                API_KEY.c.id == bindparam("key"),
                or_(used.is_(None), used <= bindparam("before", type_=BigInteger)),
            )
            .values(last_used_at=bindparam("seen", type_=BigInteger)),
            [{"key": key, "seen": at, "before": at - MINUTE} for key, at in sorted(seen.items())],
        )
