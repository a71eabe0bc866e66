"""The ledger watched by itself: rollups against rows, now and then, with an alarm in words."""

import asyncio
import datetime as dt

from sqlalchemy.exc import SQLAlchemyError

from tidegate_billing import conserve
from tidegate_billing.database import DatabaseDown
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


async def run(service: Service, every: float = EVERY_SECONDS) -> None:
    """Compare at once and then again and again, for ever."""
    while True:
        try:
            await compare(service, now())
        except (SQLAlchemyError, DatabaseDown) as error:
            log.warning("ledger_not_compared", error=type(error).__name__)
        await asyncio.sleep(every)
