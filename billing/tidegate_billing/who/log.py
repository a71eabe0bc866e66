"""The routes of the audit log. A part of a chain proves nothing, so what verifies it is the
platform's; a service account sees the rows of its organization or tenant."""

from sqlalchemy import Connection
from starlette.responses import Response

from tidegate_billing.frame import Call, Operation, Query
from tidegate_billing.web import cursor, limit, reply
from tidegate_billing.who import audit, reach, views
from tidegate_billing.who.chain import Entry
from tidegate_billing.who.tables import AUDIT

FILTERS = ("organization", "tenant", "actor", "action", "object_id")


async def listed(call: Call) -> Response:
    """Changes, oldest first; `after` is a row's `seq`."""
    size, after = limit(call.request, 100, 1000), cursor(call.request, "the seq of a row")
    where = [AUDIT.c[name] == call.given(name) for name in FILTERS if call.given(name) is not None]
    where.append(reach.of_organization(call.actor, AUDIT.c.organization, AUDIT.c.tenant))
    rows = await call.read(
        lambda connection: audit.rows(connection, where, limit=size + 1, after=after)
    )
    page: views.Page[Entry] = views.Page(rows[:size], len(rows) > size)
    return reply(page)


async def newest(call: Call) -> Response:
    """The newest row's number and hash, to be noted elsewhere."""

    def query(connection: Connection) -> views.AuditHead:
        seq, found = audit.head(connection)
        return views.AuditHead(seq=seq, hash=found)

    return reply(await call.read(query))


_QUERY = (
    *(Query(name, f"only of this {name}", reach.TEXT) for name in FILTERS),
    reach.PAGE[0],
    Query("after", "go on after the row of this seq", {"type": "integer", "minimum": 0}),
)
OPERATIONS = (
    Operation("GET", "/audit", listed, "audit.read", "List what was changed, and by whom",
              views.Page[Entry], query=_QUERY),
    Operation("GET", "/audit/head", newest, "audit.verify", "The newest row's hash",
              views.AuditHead),
)  # fmt: skip
