"""Keys that a tenant's resource asks for, and whose plaintext must reach a Secret.

The plaintext is in one answer alone, and whoever asked may die between the answer and the Secret. So
every request says which key its Secret holds (`delivered`), as read just now. A key that is newer
than that one was made and never arrived: it is revoked, and another one is made. So nobody holds a
key that the resource does not name, and a key that works has arrived or ends with the next request.

The key before a rotation is older than the one delivered, and ends by itself.
"""

from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, insert, or_, select

from tidegate_billing.accounts import key_view
from tidegate_billing.frame import Call
from tidegate_billing.links import DesiredKey, KeyView, SettledKey
from tidegate_billing.tables import API_KEY
from tidegate_billing.who import key_rows
from tidegate_billing.who.key_rows import Scope, Wanted
from tidegate_billing.who.tables import MANAGED_KEY


class News:
    """What routers must hear of keys, by id: only the last word on each counts."""

    def __init__(self) -> None:
        self.keys: dict[str, KeyView] = {}
        self.removed: dict[str, None] = {}

    def lives(self, row: "Row[Any]") -> None:
        """A key works, like this."""
        self.keys[row.id] = key_view(row)

    def ends(self, row: "Row[Any]") -> None:
        """A key works no more."""
        self.keys.pop(row.id, None)
        self.removed[row.id] = None


class Work(NamedTuple):
    """One tenant's keys being settled."""

    connection: Connection
    call: Call
    tenant: "Row[Any]"
    news: News


def settle(work: Work, wanted: list[DesiredKey]) -> list[SettledKey]:
    """Bring a tenant's managed keys to what is wanted; keys of no entry are revoked."""
    rows = _live(work)
    names = {one.name for one in wanted}
    for row in rows:
        if row.entry not in names:
            revoke(work, row)
    return [_one(work, one, [row for row in rows if row.entry == one.name]) for one in wanted]


def revoke(work: Work, row: "Row[Any]") -> None:
    """End a key now."""
    old = _bare(work, row.id)
    key_rows.write(work.connection, work.call, old, {"revoked_at": work.call.at}, "key.revoke")
    work.news.ends(old)


def working(work: Work) -> "list[Row[Any]]":
    """Every key of the tenant that was not revoked, whoever made it."""
    mine = API_KEY.c.tenant == work.tenant.id
    return list(
        work.connection.execute(select(API_KEY).where(mine, API_KEY.c.revoked_at.is_(None)))
    )


def _live(work: Work) -> "list[Row[Any]]":
    """Managed keys that work, newest first, each with its `entry` and `rotation`."""
    query = (
        select(API_KEY, MANAGED_KEY.c.entry, MANAGED_KEY.c.rotation)
        .join(MANAGED_KEY, MANAGED_KEY.c.key_id == API_KEY.c.id)
        .where(
            API_KEY.c.tenant == work.tenant.id,
            API_KEY.c.revoked_at.is_(None),
            or_(API_KEY.c.expires_at.is_(None), API_KEY.c.expires_at > work.call.at),
        )
        .order_by(API_KEY.c.seq.desc())
    )
    return list(work.connection.execute(query))


def _bare(work: Work, key_id: str) -> "Row[Any]":
    """A key's row as it is now."""
    this = (API_KEY.c.id == key_id, API_KEY.c.tenant == work.tenant.id)
    return work.connection.execute(select(API_KEY).where(*this)).one()


def _one(work: Work, wanted: DesiredKey, rows: "list[Row[Any]]") -> SettledKey:
    """An entry's key. `rows`: those that work, newest first."""
    arrived = next((row for row in rows if row.id == wanted.delivered), None)
    for row in rows if arrived is None else rows[: rows.index(arrived)]:
        if arrived is not None or row.id not in _followed(work):
            revoke(work, row)
    scope = _scope(wanted)
    if scope.expires_at is not None and scope.expires_at <= work.call.at:
        if arrived is not None:
            revoke(work, arrived)
        return SettledKey(name=wanted.name)
    if arrived is None:
        if not wanted.deliverable:
            return SettledKey(name=wanted.name)
        return _make(work, wanted, scope, None)
    changed = (arrived.rotation, arrived.project) != (wanted.rotation, wanted.project)
    if changed and wanted.deliverable:
        return _rotate(work, wanted, scope, arrived.id)
    row = _adjusted(work, scope, arrived.id)
    return SettledKey(name=wanted.name, id=row.id, prefix=row.prefix)


def _followed(work: Work) -> set[str]:
    """Keys that a rotation has given a successor."""
    query = select(API_KEY.c.rotated_from).where(
        API_KEY.c.tenant == work.tenant.id, API_KEY.c.rotated_from.is_not(None)
    )
    return {str(old) for (old,) in work.connection.execute(query)}


def _scope(wanted: DesiredKey) -> Scope:
    until = wanted.expires_at
    seconds = None if until is None else int(until.timestamp())
    return Scope(
        wanted.models, wanted.routes, None, None if seconds is None else seconds * 1_000_000
    )


def _make(work: Work, wanted: DesiredKey, scope: Scope, old: "Row[Any] | None") -> SettledKey:
    connection, call = work.connection, work.call
    key_rows.ensure_project(connection, call, work.tenant, wanted.project)
    asked = Wanted(work.tenant, wanted.project, wanted.name, scope, old)
    row, key = key_rows.make(connection, call, asked)
    connection.execute(
        insert(MANAGED_KEY).values(
            key_id=row.id, tenant=row.tenant, entry=wanted.name, rotation=wanted.rotation
        )
    )
    work.news.lives(row)
    return SettledKey(name=wanted.name, id=row.id, prefix=row.prefix, key=key)


def _rotate(work: Work, wanted: DesiredKey, scope: Scope, old_id: str) -> SettledKey:
    """A successor, made first: the old key works until the overlap is over, at once again where the
    successor does not arrive."""
    old = _bare(work, old_id)
    made = _make(work, wanted, scope, old)
    if not wanted.overlap_seconds:
        revoke(work, old)
        return made
    until = work.call.at + wanted.overlap_seconds * 1_000_000
    if old.expires_at is not None:
        until = min(until, old.expires_at)
    work.news.lives(
        key_rows.write(work.connection, work.call, old, {"expires_at": until}, "key.update")
    )
    return made


def _adjusted(work: Work, scope: Scope, key_id: str) -> "Row[Any]":
    """The key with the scopes and the end that its entry names."""
    old = _bare(work, key_id)
    columns = {**scope.columns(), "limits": old.limits}
    values = {name: value for name, value in columns.items() if value != getattr(old, name)}
    if not values:
        return old
    row = key_rows.write(work.connection, work.call, old, values, "key.update")
    work.news.lives(row)
    return row
