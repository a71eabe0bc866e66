"""What an actor can reach, as conditions of a query, and pages of what it reaches.

A foreign object is not refused but not found: the same answer as for one that does not exist. A
page's cursor is looked up within reach, too, so that it can't be used to ask who else is there.
"""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, Table, and_, or_, select, true

from tidegate_billing.frame import Call, Query
from tidegate_billing.tables import TENANT
from tidegate_billing.web import ApiError, bad, limit
from tidegate_billing.who.actor import Actor

TEXT: Final = {"type": "string", "minLength": 1}
PAGE: Final = (
    Query("limit", "rows a page", {"type": "integer", "minimum": 1, "maximum": 1000}),
    Query("after", "go on after this row", TEXT),
)


def of_tenant(actor: Actor, column: ColumnElement[str]) -> ColumnElement[bool]:
    """Rows that belong to a tenant within reach."""
    if actor.role is None:
        return true()
    if actor.tenant is not None:
        return column == actor.tenant
    mine = select(TENANT.c.id).where(TENANT.c.organization == actor.organization)
    return column.in_(mine)


def of_organization(
    actor: Actor, organization: ColumnElement[str], tenant: ColumnElement[str]
) -> ColumnElement[bool]:
    """Rows that name their organization, and a tenant where they have one."""
    if actor.role is None:
        return true()
    if actor.tenant is not None:
        return tenant == actor.tenant
    return organization == actor.organization


def missing(kind: str, value: str, param: str = "id") -> ApiError:
    """It is not there, or not within reach."""
    code = kind.replace(" ", "_")
    return ApiError(404, f"{code}_not_found", f"{param}: there is no {kind} {value[:80]!r}", param)


def tenant(connection: Connection, actor: Actor, name: str, param: str = "tenant") -> "Row[Any]":
    """A tenant within reach. Raises ApiError (404)."""
    row = connection.execute(select(TENANT).where(TENANT.c.id == name)).first()
    if row is None or not actor.covers(row.organization, row.id):
        raise missing("tenant", name, param)
    return row


def page(
    connection: Connection,
    call: Call,
    table: Table,
    within: ColumnElement[bool],
    filters: Sequence[ColumnElement[bool]] = (),
) -> "tuple[list[Row[Any]], bool]":
    """Rows in the order they were made, and whether there are more."""
    size, after = limit(call.request, 100, 1000), call.given("after")
    order = [table.c.seq] if "seq" in table.c else [table.c.created_at, table.c.id]
    query = select(table).where(within, *filters).order_by(*order).limit(size + 1)
    if after is not None:
        seen = connection.execute(select(*order).where(table.c.id == after, within)).first()
        if seen is None:
            raise bad("after", f"{after[:80]!r} is not the id of a listed object")
        query = query.where(_beyond(order, list(seen)))
    rows = list(connection.execute(query))
    return rows[:size], len(rows) > size


def _beyond(order: Sequence[ColumnElement[Any]], seen: Sequence[Any]) -> ColumnElement[bool]:
    """Rows after the one whose columns of `order` are `seen`."""
    same = [column == value for column, value in zip(order, seen, strict=True)]
    later = [column > value for column, value in zip(order, seen, strict=True)]
    return or_(*(and_(*same[:place], later[place]) for place in range(len(order))))
