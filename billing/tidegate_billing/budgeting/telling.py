"""Alerts of budgets and of credit: each one a message, made once and in the transaction of its cause."""

from sqlalchemy import Connection, insert, select

from tidegate_billing import alerts, budgets, credit
from tidegate_billing.budgeting.tables import BUDGET_ALERT
from tidegate_billing.budgets import Budget, Window
from tidegate_billing.credit import Grant, Purse
from tidegate_billing.webhooks import sending

LOW_PERCENT = 10
"""Of what the grants that are there were issued with: credit is low at it, and below."""


def tell(connection: Connection, budget: Budget, window: Window, spent: int, now: int) -> None:
    """Tell the thresholds that `spent` (atto) has reached in a window and that were not told."""
    if not budgets.reached(budget, spent):
        return
    known = select(BUDGET_ALERT.c.threshold).where(
        BUDGET_ALERT.c.budget == budget.id, BUDGET_ALERT.c.start == window.start
    )
    sent = {int(row.threshold) for row in connection.execute(known)}
    for alert in budgets.alerts(budget, window.start, spent, sent):
        message = alerts.of_budget(budget, window, alert, now)
        connection.execute(
            insert(BUDGET_ALERT).values(
                budget=budget.id,
                start=window.start,
                threshold=alert.threshold,
                message=message.id,
                at=now,
            )
        )
        sending.put(connection, budget.tenant, message, now)


def credit_fell(connection: Connection, tenant: str, purse: Purse, now: int) -> None:
    """Tell that a tenant's credit is low or gone; once until it is filled again."""
    filled = _filled(purse, now)
    if filled is None:
        return
    balance = credit.balance(purse, now)
    issued = sum(one.amount for one in credit.live(purse, now))
    if balance * 100 > issued * LOW_PERCENT:
        return
    message = alerts.of_credit(tenant, purse.currency, balance, now, filled.id)
    if balance > 0:
        # A correction that gives a little back does not make news of what was gone.
        gone = alerts.of_credit(tenant, purse.currency, 0, now, filled.id)
        if sending.known(connection, gone.id):
            return
    sending.put(connection, tenant, message, now)


def _filled(purse: Purse, now: int) -> Grant | None:
    """The grant that filled a purse last."""
    begun = [one for one in purse.grants if one.starts <= now]
    return max(begun, key=lambda one: (max(one.starts, one.created), one.id), default=None)
