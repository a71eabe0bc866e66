"""Credit that ends by time: nobody burns anything then, and the tenant is to be told all the same."""

from sqlalchemy import Connection, select

from tidegate_billing.budgeting import telling
from tidegate_billing.prepaid import purses
from tidegate_billing.prepaid.tables import GRANT, SUM


def tell(connection: Connection, now: int) -> None:
    """Look at every purse with a grant that has ended and whose rest was not moved yet. To be called
    before `purses.expire`: then none is missed, however long nobody looked."""
    # every tenant: time passes for all of them
    due = connection.execute(
        select(GRANT.c.tenant, GRANT.c.currency)
        .join_from(GRANT, SUM, SUM.c.grant_id == GRANT.c.id)
        .where(
            GRANT.c.expires <= now,
            SUM.c.account == "grant",
            (SUM.c.amount_nano != 0) | (SUM.c.amount_atto != 0),
        )
        .distinct()
    ).all()
    for tenant, currency in due:
        telling.credit_fell(connection, tenant, purses.purse(connection, tenant, currency), now)
