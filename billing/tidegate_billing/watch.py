"""The ledger watched by itself: what has ended, and whether sums are those of their rows."""

import asyncio
import datetime as dt

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from tidegate_billing import conserve
from tidegate_billing.budgeting import credit_end, spent
from tidegate_billing.database import DatabaseDown
from tidegate_billing.prepaid import purses
from tidegate_billing.service import Service, log, now

CREDIT_SECONDS = 30.0
ROUNDS = 30
"""A comparison each quarter of an hour."""


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
    """Let grants that have begun pay what is owed, and move what is left of those that have ended."""

    def settle(connection: Connection) -> tuple[int, int]:
        paid = purses.pay(connection, at)
        credit_end.tell(connection, at)
        return paid, purses.expire(connection, at)

    paid, ended = await service.database.write(settle)
    if paid or ended:
        log.info("credit_settled", paid=paid, ended=ended)


async def check_credit(service: Service) -> None:
    """Look whether credit's sums are those of its entries."""
    for account in await service.database.read(purses.drift):
        log.error("credit_drift", alarm=True, account="/".join(account))


async def check_budgets(service: Service, at: int) -> None:
    """Look whether what was spent of budgets is what the rollups say, in windows since yesterday."""
    since = at - 86_400_000_000
    for one in await service.database.read(lambda connection: spent.drift(connection, since)):
        log.error("budget_drift", alarm=True, budget=one.budget, start=one.start)


async def run(service: Service, every: float = CREDIT_SECONDS, rounds: int = ROUNDS) -> None:
    """Settle credit at once and then again and again, for ever; compare each `rounds` times."""
    turn = 0
    while True:
        try:
            await settle_credit(service, now())
            if turn % rounds == 0:
                await check_credit(service)
                await check_budgets(service, now())
                await compare(service, now())
        except (SQLAlchemyError, DatabaseDown) as error:
            log.warning("ledger_not_compared", error=type(error).__name__)
        turn += 1
        await asyncio.sleep(every)
