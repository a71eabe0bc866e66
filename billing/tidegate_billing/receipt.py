"""The receipt of one request, pure: what each try of it cost, why it ended, and the sum.

A request is one or more attempts, each at one engine. A tenant sees of them what is on its bill and
what it measured itself; where an engine runs and whose deployment it is stays ours.
"""

import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from tidegate_billing import money, months
from tidegate_billing.entry import Rating, usage_of, used
from tidegate_billing.line_items import unit_of
from tidegate_billing.rates import pipeline
from tidegate_billing.rates.meters import METERS
from tidegate_billing.rates.pipeline import Rate
from tidegate_billing.tenant_page import amount
from tidegate_billing.usage import LAST_ID, Usage, attempt_day, attempt_time

_ID: Final = re.compile(
    r"(req|chatcmpl|cmpl|embd)-([0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})",
    re.ASCII,
)
ENDED: Final = frozenset(["settlement", "orphan"])
WHY: Final = {
    "completed": "The whole answer went out.",
    "aborted": "The client left before the answer's end.",
    "broken": "The engine broke off its answer.",
    "failed": "The engine answered with an error, or not at all.",
    "lost": "The gateway stopped before the answer's end.",
    "open": "The gateway was lost, and with it how this ended.",
}
"""Outcomes in words."""
UNBILLED: Final = {
    "retry": "Another engine was asked instead.",
    "failed": "The request failed.",
    "abort_tail": "It ended before the engine had reported any tokens.",
    "no_usage": "The engine reported no usage.",
    "probe": "It was the platform's own.",
}
"""Reasons not to bill in words."""


class Asked(NamedTuple):
    """Which request: by its own id, or (`attempt`) by that of an attempt, which an answer's id has."""

    uuid: str
    attempt: bool

    @property
    def months(self) -> tuple[str, str]:
        """The months (UTC) its attempts can be of: a request may wait past the end of one."""
        first = attempt_day(self.uuid)[:7]
        return first, months.moved(first, 1)


class Entry(NamedTuple):
    """A settled attempt: its row of the ledger, and what it costs now."""

    row: Any
    rating: Rating | None
    rate: Rate | None


def asked(given: str) -> Asked | None:
    """What an id names; None: nothing that we have ever given out."""
    found = _ID.fullmatch(given)
    if found is None or found[2] >= LAST_ID:
        return None
    return Asked(found[2], found[1] != "req")


def settled(rows: Sequence[Any]) -> list[Any]:
    """The ended attempts among a request's rows, in their order; none while one is under way."""
    ended = {row.attempt_id: row for row in rows if row.kind == "orphan"}
    ended |= {row.attempt_id: row for row in rows if row.kind == "settlement"}
    if any(row.attempt_id not in ended for row in rows):
        return []
    return sorted(ended.values(), key=lambda row: (row.started_at, row.attempt_id))


def receipt(entries: Sequence[Entry]) -> dict[str, object]:
    """The receipt over all attempts of a request, of which there is one at least."""
    last = entries[-1].row
    billed = [entry for entry in entries if entry.row.billed]
    first = entries[0].row
    return {
        "id": last.request_id,
        "object": "generation",
        "created_at": first.started_at // 1_000_000,
        "model": last.model,
        "adapter": last.adapter or None,
        "endpoint": last.endpoint,
        "service_tier": last.service_tier or None,
        "project_id": last.project,
        "api_key_id": last.key_id,
        "client_request_id": last.client_request_id or None,
        "outcome": last.outcome,
        "outcome_reason": WHY[last.outcome],
        "billed": bool(billed),
        "price_pending": any(entry.rating is None for entry in billed),
        "usage": _tokens([usage_of(entry.row) for entry in billed]),
        "amounts": _amounts(entries),
        "latency": _held(last.request_id, first.started_at)
        | _latency(first.started_at, last.finished_at),
        "attempts": [_attempt(entry) for entry in entries],
    }


def _attempt(entry: Entry) -> dict[str, object]:
    row = entry.row
    return {
        "id": row.attempt_id,
        "outcome": row.outcome,
        "outcome_reason": WHY[row.outcome],
        "billed": bool(row.billed),
        "unbilled_reason": None if row.billed else UNBILLED.get(row.reason, row.reason or None),
        "counted_by": row.source,
        "usage": _tokens([usage_of(row)]),
        "price": _price(entry),
        "amount": _amount(entry),
        "latency": _latency(row.started_at, row.finished_at),
    }


def _tokens(events: Sequence[Usage]) -> dict[str, int]:
    """Cached tokens are part of the input, reasoning tokens of the output."""
    return {
        "input_tokens": sum(event.prompt_tokens for event in events),
        "input_cached_tokens": sum(event.cached_tokens for event in events),
        "output_tokens": sum(event.completion_tokens for event in events),
        "output_reasoning_tokens": sum(event.reasoning_tokens for event in events),
        "total_tokens": sum(event.prompt_tokens + event.completion_tokens for event in events),
    }


def _cost(rating: Rating) -> int:
    return money.whole(rating.amount_nano, rating.amount_atto)


def _amount(entry: Entry) -> dict[str, object] | None:
    rating = entry.rating
    return None if rating is None else amount(_cost(rating), rating.currency)


def _amounts(entries: Sequence[Entry]) -> list[dict[str, object]]:
    """What all attempts cost together, by currency."""
    sums: dict[str, int] = {}
    for entry in entries:
        if entry.rating is not None:
            currency = entry.rating.currency
            sums[currency] = sums.get(currency, 0) + _cost(entry.rating)
    return [amount(total, currency) for currency, total in sorted(sums.items())]


def _price(entry: Entry) -> dict[str, object] | None:
    """The price of each unit that was used. None: nothing was priced.

    With tiers a unit's price depends on the month before it, so lines have none then, and what the
    request added to the bill is its amount."""
    if entry.rating is None or entry.rate is None:
        return None
    rate, currency = entry.rate, entry.rating.currency
    lines = []
    for place, quantity in enumerate(pipeline.quantities(rate, used(usage_of(entry.row)))):
        meter = METERS[place]
        unit = 0 if rate.linear is None else rate.linear[place]
        if not quantity or (rate.linear is not None and not unit and meter.unit != "token"):
            continue
        flat = rate.linear is not None
        lines.append(
            {
                "kind": meter.name,
                "quantity": quantity / meter.counted if meter.counted > 1 else quantity,
                "unit": unit_of(meter),
                "unit_price": money.plain(unit * meter.shift) if flat else None,
                "unit_price_per": meter.spoken,
                "amount_exact": money.plain(unit * quantity) if flat else None,
            }
        )
    version = entry.rating.rated_version
    return {"version": version, "currency": currency.lower(), "tiered": rate.linear is None} | {
        "lines": lines
    }


def _held(request_id: str, started_at: int) -> dict[str, object]:
    """When the request came, by its id, and how long it waited for an engine."""
    received = attempt_time(request_id[-36:])
    waited = max(0, started_at // 1000 - received)
    return {"received_at": received / 1000, "held_seconds": waited / 1000}


def _latency(started_at: int, finished_at: int) -> dict[str, object]:
    """Times in seconds since the epoch, to the microsecond. An attempt that was lost has no end."""
    ended = finished_at > 0
    return {
        "started_at": started_at / 1_000_000,
        "finished_at": finished_at / 1_000_000 if ended else None,
        "seconds": max(0, finished_at - started_at) / 1_000_000 if ended else None,
    }
