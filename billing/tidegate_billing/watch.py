"""The ledger watched by itself: what has ended, and whether sums are those of their rows."""

import asyncio
import datetime as dt

from sqlalchemy.exc import SQLAlchemyError

from tidegate_billing import conserve
from tidegate_billing.database import DatabaseDown
from tidegate_billing.prepaid import purses
from tidegate_billing.service import Service, log, now

EVERY_SECONDS = 900.0


async def compare(service: Service, at: int) -> list[conserve.Drift]:
    """Compare yesterday and today (UTC) of `at` (microseconds), for the metric and the log."""
    today = dt.datetime.fromtimestamp(at // 1_000_000, dt.UTC).date()
    first = today - dt.timedelta(days=1)
    found = await service.database.read(
        lambda connection: conserve.compare(connection, first.isoformat(), today.isoformat())
    )
    service.metrics.compared(conserve.by_place(found))
    for one in found:
        log.error("ledger_drift", alarm=True, place=one.place, says=one.says, tokens=one.tokens)
    return found


async def settle_credit(service: Service, at: int) -> None:
    """Move what is left of grants that have ended, and look whether credit's sums are sound."""
    ended = await service.database.write(lambda connection: purses.expire(connection, at))
    if ended:
        log.info("credit_expired", purses=ended)
    for account in await service.database.read(purses.drift):
        log.error("credit_drift", alarm=True, account="/".join(account))


async def run(service: Service, every: float = EVERY_SECONDS) -> None:
    """Look at once and then again and again, for ever."""
    while True:
        try:
            await settle_credit(service, now())
            await compare(service, now())
        except (SQLAlchemyError, DatabaseDown) as error:
            log.warning("ledger_not_compared", error=type(error).__name__)
        await asyncio.sleep(every)
