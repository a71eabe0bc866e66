"""The audit log in the database: one row a change, in the transaction that makes the change.

Writers are one at a time (ADR 11), so the newest row can't change between reading its hash and
writing the next one.
"""

from collections.abc import Iterable

import msgspec
from sqlalchemy import ColumnElement, Connection, insert, select

from tidegate_billing.who import chain
from tidegate_billing.who.chain import Entry
from tidegate_billing.who.tables import AUDIT


def head(connection: Connection) -> tuple[int, str]:
    """Number and hash of the newest row."""
    # every tenant: there is one chain
    newest = select(AUDIT.c.seq, AUDIT.c.hash).order_by(AUDIT.c.seq.desc()).limit(1)
    row = connection.execute(newest).first()
    return (0, chain.GENESIS) if row is None else (int(row.seq), str(row.hash))


def record(
    connection: Connection,
    *,
    actor: str,
    at: int,
    action: str,
    object_id: str,
    organization: str | None,
    tenant: str | None,
    before: msgspec.Struct | None = None,
    after: msgspec.Struct | None = None,
) -> Entry:
    """Write down one change. The kind of its object is the first word of `action`."""
    seq, prev_hash = head(connection)
    entry = chain.sealed(
        Entry(
            seq=seq + 1,
            at=at,
            actor=actor,
            action=action,
            object_type=action.partition(".")[0],
            object_id=object_id,
            organization=organization,
            tenant=tenant,
            before=_fields(before),
            after=_fields(after),
            prev_hash=prev_hash,
        )
    )
    fields = msgspec.structs.asdict(entry)
    texts = {name: _text(fields[name]) for name in ("before", "after")}
    connection.execute(insert(AUDIT).values({**fields, **texts}))
    return entry


def _fields(view: msgspec.Struct | None) -> dict[str, object] | None:
    if view is None:
        return None
    fields: dict[str, object] = msgspec.to_builtins(view)
    return fields


def _text(value: object) -> str | None:
    return None if value is None else chain.canonical(value).decode()


def rows(
    connection: Connection, where: Iterable[ColumnElement[bool]], *, limit: int, after: int
) -> list[Entry]:
    """Rows in order, those numbered above `after`."""
    # every tenant: the caller's conditions say which
    query = select(AUDIT).where(AUDIT.c.seq > after, *where).order_by(AUDIT.c.seq).limit(limit)
    found = []
    for row in connection.execute(query):
        fields = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented way to a dict
        for name in ("before", "after"):
            if fields[name] is not None:
                fields[name] = _read(fields[name])
        found.append(Entry(**fields))
    return found


def _read(text: str) -> dict[str, object]:
    """What a row keeps. What somebody else wrote there is shown, too, and breaks the chain."""
    try:
        return msgspec.json.decode(text, type=dict[str, object])
    except msgspec.DecodeError:
        return {"unreadable": text}
