"""What resources of a cluster hold: marked, so that what ends with its resource is known, also of one
that was deleted while nobody looked."""

from typing import Final

from sqlalchemy import Connection, insert, select, update

from tidegate_billing.links import Managed
from tidegate_billing.who.tables import MANAGED

BOOK: Final = "price-book"
CONTRACT: Final = "contract"
TENANT: Final = "tenant"


def hold(connection: Connection, kind: str, name: str) -> bool:
    """A resource holds this from now on; True where it had ended with an earlier resource."""
    this = (MANAGED.c.kind == kind, MANAGED.c.name == name)
    row = connection.execute(select(MANAGED).where(*this)).first()
    if row is None:
        connection.execute(insert(MANAGED).values(kind=kind, name=name))
    elif row.gone_at is not None:
        connection.execute(update(MANAGED).where(*this).values(gone_at=None))
        return True
    return False


def held(connection: Connection, kind: str, name: str) -> bool:
    """Whether a resource holds this."""
    row = connection.execute(
        select(MANAGED.c.kind).where(
            MANAGED.c.kind == kind, MANAGED.c.name == name, MANAGED.c.gone_at.is_(None)
        )
    ).first()
    return row is not None


def release(connection: Connection, kind: str, name: str, now: int) -> None:
    """No resource holds this any more."""
    this = (MANAGED.c.kind == kind, MANAGED.c.name == name)
    connection.execute(update(MANAGED).where(*this).values(gone_at=now))


def listed(connection: Connection) -> list[Managed]:
    """All that is held by a resource of its own: a contract goes with its tenant."""
    rows = connection.execute(
        select(MANAGED.c.kind, MANAGED.c.name)
        .where(MANAGED.c.gone_at.is_(None), MANAGED.c.kind != CONTRACT)
        .order_by(MANAGED.c.kind, MANAGED.c.name)
    )
    return [Managed(row.kind, row.name) for row in rows]
