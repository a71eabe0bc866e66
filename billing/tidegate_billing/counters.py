"""Engine counters in the database, and what the ledger has recorded of an epoch."""

from typing import Any, Literal, NamedTuple, cast

import msgspec
from sqlalchemy import Connection, Select, and_, delete, exists, func, insert, or_, select

from tidegate_billing import reconcile
from tidegate_billing.links import EngineCounters
from tidegate_billing.reconcile import Balance, Recorded
from tidegate_billing.tables import COUNTERS, EVENT

_SETTLED = EVENT.alias("settled")


class _Rows(NamedTuple):
    model: str
    recorded: list[Recorded]


def upsert(connection: Connection, reports: list[EngineCounters]) -> None:
    """Keep the newest report of each epoch; a live one never replaces a final or lost one, and one
    by an operator that came too late to read anything never replaces a final one."""
    for report in reports:
        state = connection.execute(
            select(COUNTERS.c.state).where(COUNTERS.c.epoch == report.epoch)
        ).scalar()
        if report.state == "live" and state in {"final", "lost"}:
            continue
        if state == "final" and not report.verified:
            continue
        connection.execute(delete(COUNTERS).where(COUNTERS.c.epoch == report.epoch))
        values = msgspec.structs.asdict(report)
        values["attempts"] = msgspec.json.encode(report.attempts).decode()
        connection.execute(insert(COUNTERS).values(**values))


def stored(connection: Connection, epochs: set[str] | None = None) -> dict[str, EngineCounters]:
    """The newest report of every epoch, or only of `epochs`."""
    found = {}
    query = select(COUNTERS)
    if epochs is not None:
        query = query.where(COUNTERS.c.epoch.in_(epochs))
    for row in connection.execute(query):
        found[row.epoch] = EngineCounters(
            model=row.model,
            deployment=row.deployment,
            epoch=row.epoch,
            prompt=row.prompt,
            generated=row.generated,
            state=cast("Literal['live', 'final', 'lost']", row.state),
            verified=row.verified,
            in_flight=row.in_flight,
            attempts=msgspec.json.decode(row.attempts, type=dict[str, int]),
        )
    return found


def conservation(
    connection: Connection, live: list[EngineCounters], epochs: set[str] | None = None
) -> list[Balance]:
    """Balance every epoch that counters or the ledger know, or only `epochs`."""
    reports = stored(connection, epochs)
    for report in live:
        if report.epoch not in reports or reports[report.epoch].state == "live":
            reports[report.epoch] = report
    with_truth = {epoch for epoch, report in reports.items() if report.attempts}
    recorded = _recorded(connection, with_truth, epochs)
    names = set(reports) | set(recorded)
    if epochs is not None:
        names &= epochs
    balances = []
    for epoch in names:
        rows = recorded.get(epoch, _Rows("", []))
        balances.append(reconcile.balance(epoch, rows.model, reports.get(epoch), rows.recorded))
    return sorted(balances, key=lambda one: (one.model, one.epoch))


def _recorded(
    connection: Connection, with_truth: set[str], epochs: set[str] | None
) -> dict[str, _Rows]:
    """By epoch: sums of what is alike, or single attempts where their truth is known."""
    # every tenant: an engine serves many, and only tokens come out
    settled = exists().where(
        _SETTLED.c.attempt_month == EVENT.c.attempt_month,
        _SETTLED.c.event_id == EVENT.c.attempt_id + ":settlement",
    )
    counted = and_(
        EVENT.c.replica != "",
        or_(EVENT.c.kind == "settlement", and_(EVENT.c.kind == "orphan", ~settled)),
    )
    if epochs is not None:
        counted = and_(counted, EVENT.c.replica.in_(epochs))
    alike = [EVENT.c.replica, EVENT.c.kind, EVENT.c.billed, EVENT.c.reason, EVENT.c.outcome]
    sums: Select[Any] = (
        select(*alike, func.min(EVENT.c.model), func.sum(EVENT.c.completion_tokens))
        .where(counted, EVENT.c.replica.not_in(with_truth))
        .group_by(*alike)
    )
    found: dict[str, _Rows] = {}
    for row in connection.execute(sums):
        replica, kind, billed, reason, outcome, model, tokens = row
        rows = found.setdefault(replica, _Rows(model, []))
        rows.recorded.append(Recorded(kind, billed, reason, outcome, int(tokens)))
    singles: Select[Any] = select(
        *alike, EVENT.c.model, EVENT.c.completion_tokens, EVENT.c.attempt_id
    ).where(counted, EVENT.c.replica.in_(with_truth))
    for row in connection.execute(singles):
        replica, kind, billed, reason, outcome, model, tokens, attempt = row
        rows = found.setdefault(replica, _Rows(model, []))
        rows.recorded.append(Recorded(kind, billed, reason, outcome, tokens, attempt))
    return found
