"""Whether the numbers close once everything is told: engines, ledger, usage and invoices."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

from soaking.callers import ID, Seen
from soaking.documents import REAL
from soaking.judge import Attempt
from soaking.plan import TENANTS

import running

SETTLEMENTS = """SELECT client_request_id, attempt_id, replica, outcome, reason, billed,
 prompt_tokens, completion_tokens FROM event WHERE kind = 'settlement' ORDER BY attempt_id"""


def query(data: Path, statement: str) -> list[tuple[Any, ...]]:
    """Rows of the ledger, read beside billing."""
    with closing(sqlite3.connect(f"file:{data}/billing.db?mode=ro", uri=True)) as ledger:
        return ledger.execute(statement).fetchall()


def attempts(data: Path) -> list[Attempt]:
    """Every settlement there is."""
    return [
        Attempt(
            int(name.removeprefix(ID)) if name.startswith(ID) else -1,
            *rest[:4],
            bool(rest[4]),
            *rest[5:],
        )
        for name, *rest in query(data, SETTLEMENTS)
    ]


def wrong(
    up: running.Platform, seen: Sequence[Seen], killed: Iterable[str], months: Iterable[str]
) -> Iterator[str]:
    """Everything that does not close. `killed`: replicas that were killed: of a real engine nobody
    knows then what it had generated. `months`: those it ran in."""
    events = up.events()
    sims = [one for one in events if one["model"] != REAL]
    received = {one.request_id: one.received for one in seen if one.request_id}
    real = {one.request_id for one in seen if one.ask.model == REAL}
    told = {key: tokens for key, tokens in received.items() if key not in real}
    yield from running.audit(sims, up.truth(), told)
    yield from _real(events, {key: received[key] for key in real if key in received})
    yield from _balances(up.conservation(), set(killed))
    yield from (f"drift: {one['says']}" for one in up.drifts())
    written = query(up.data, "SELECT sum(settlements) FROM journal_count")[0][0]
    if written != len(events):
        yield f"the journals wrote {written} settlements, the ledger has {len(events)}"
    yield from _money(up, events, list(months))


def _real(events: Sequence[Mapping[str, Any]], received: Mapping[str, int]) -> Iterator[str]:
    billed: dict[str, int] = {}
    for one in events:
        if one["billed"]:
            billed[one["request_id"]] = billed.get(one["request_id"], 0) + one["completion_tokens"]
    for request, tokens in received.items():
        if tokens > billed.get(request, 0):
            yield f"{request}: received {tokens}, billed {billed.get(request, 0)}"


def _balances(rows: Sequence[Mapping[str, Any]], killed: set[str]) -> Iterator[str]:
    for one in rows:
        excused = one["model"] == REAL and one["epoch"] in killed
        if one["unexplained"] or (one["unverified"] and not excused):
            yield f"conservation: {one}"


def _money(
    up: running.Platform, events: Sequence[Mapping[str, Any]], months: Sequence[str]
) -> Iterator[str]:
    for tenant in TENANTS:
        rows = up.api(
            "/api/v1/usage",
            tenant=tenant,
            by="model,key,day",
            **{"from": f"{months[0]}-01", "to": "2100-01-01"},
        )["data"]
        lines = [
            line
            for month in months
            for line in up.api(f"/api/v1/invoices/{month}", tenant=tenant)["lines"]
        ]
        mine = [one for one in events if one["tenant"] == tenant and one["billed"]]
        usage, invoice, ledger = (_sum(some) for some in (rows, lines, mine))
        if not usage == invoice == ledger:
            yield f"{tenant}: ledger {ledger}, usage {usage}, invoices {invoice}"
        tokens = sum(one["completion_tokens"] for one in mine)
        if tokens != sum(one["completion_tokens"] for one in rows):
            yield f"{tenant}: the ledger has {tokens} tokens of answers, usage differs"


def _sum(rows: Iterable[Mapping[str, Any]]) -> Decimal:
    return sum((Decimal(one["amount_exact"] or 0) for one in rows), Decimal(0))
