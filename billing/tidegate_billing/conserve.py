"""Does every projection hold what the ledger says, day by day and model by model?

Engines' counters against the ledger are `reconcile`'s affair, by epoch. Here the ledger's own
entries of some days are added up anew, straight from their rows, and compared with the rollups
of each width, and with what routers' journals say they have written. A difference is told with its place: which two of them part, for which model and
day, and in which direction. Nothing is mended here; `tidegate billing rebuild` does that.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table, and_, case, func, select

from tidegate_billing import money, months, retention, written
from tidegate_billing.months import EPOCH
from tidegate_billing.rollup import DAY_MINUTES, WIDTHS
from tidegate_billing.tables import (
    ADJUSTMENT,
    EVENT,
    ROLLUP_DAY,
    ROLLUP_HOUR,
    ROLLUP_MINUTE,
    SERIES,
)
from tidegate_billing.usage import COUNTED

LEDGER = "ledger"
JOURNALS = "journals"
Key = tuple[str, str]
"""A day (`YYYY-MM-DD`) and a model."""


class Held(NamedTuple):
    """What one place holds of a model's day. `amount`: atto, all currencies together.
    `replica_ms`: milliseconds of replicas, all phases together."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    amount: int = 0
    replica_ms: int = 0


class Drift(NamedTuple):
    """A place that does not hold what the ledger says. `tokens`: place less ledger, both kinds."""

    place: str
    model: str
    day: str
    ledger: Held
    held: Held
    tokens: int
    says: str


def drifts(ledger: Mapping[Key, Held], places: Mapping[str, Mapping[Key, Held]]) -> list[Drift]:
    """Every place, model and day that differs from the ledger."""
    return [
        _drift(place, day, model, ledger.get((day, model), Held()), held.get((day, model), Held()))
        for place, held in places.items()
        for day, model in sorted({*ledger, *held})
        if ledger.get((day, model), Held()) != held.get((day, model), Held())
    ]


def _drift(place: str, day: str, model: str, ledger: Held, held: Held) -> Drift:
    tokens = held.prompt_tokens + held.completion_tokens
    tokens -= ledger.prompt_tokens + ledger.completion_tokens
    parts = ", ".join(_differences(ledger, held))
    says = f"{place} of {model} on {day} and the ledger part: {parts}"
    return Drift(place, model, day, ledger, held, tokens, says)


def _differences(ledger: Held, held: Held) -> Iterator[str]:
    for name in ("requests", "prompt_tokens", "completion_tokens", "replica_ms"):
        more = getattr(held, name) - getattr(ledger, name)
        if more:
            yield f"{abs(more)} {name} {'more' if more > 0 else 'fewer'} than in the ledger"
    more = held.amount - ledger.amount
    if more:
        yield f"{money.plain(abs(more))} {'more' if more > 0 else 'less'} money"


def compare(connection: Connection, first: str, last: str) -> list[Drift]:
    """Rollups and journals of days `first` to `last`, both included, against the ledger's rows."""
    gone = retention.retired(connection)
    places = {
        str(table.name): {
            key: held
            for key, held in _rollup(connection, table, width, first, last).items()
            if key[0][:7] not in gone
        }
        for table, width in WIDTHS
    }
    ledger = _ledger(connection, first, last)
    return [*drifts(ledger, places), *_journals(connection, first, last, ledger, places, gone)]


def _journals(
    connection: Connection,
    first: str,
    last: str,
    ledger: Mapping[Key, Held],
    places: Mapping[str, Mapping[Key, Held]],
    gone: set[str],
) -> Iterator[Drift]:
    """Where journals and the ledger part. What is on its way is no difference, nor is what was
    refused; and more in the ledger than was written is one only where every journal counts."""
    sums = written.sums(connection, first, last)
    refused = written.refused(connection, *_ids(first, last))
    kept = places[str(ROLLUP_DAY.name)]
    for key in sorted({*sums.by_key, *ledger}):
        day, model = key
        if day[:7] in gone or key in sums.on_their_way:
            continue
        has = ledger.get(key, Held())
        told = [a - b for a, b in zip(sums.get(key), refused.get(key, (0, 0, 0)), strict=True)]
        wrote = Held(told[0], told[1], told[2], has.amount, has.replica_ms)
        if wrote == has or (wrote.requests <= has.requests and not sums.complete(day)):
            continue
        found = _drift(JOURNALS, day, model, has, wrote)
        yield found._replace(says=f"{found.says}; {_where(wrote, has, kept.get(key, Held()))}")


def _where(wrote: Held, has: Held, summed: Held) -> str:
    """Where it arose: an event is in the rollups from the moment that it is in the ledger."""
    if wrote.requests > has.requests:
        if summed.requests >= wrote.requests:
            return "the rollups have it, so the ledger has lost rows that it had"
        return (
            "the rollups do not have it either, so it was lost between the journals and the ledger"
        )
    if wrote.requests < has.requests:
        return "no journal has written it"
    return "the same requests with other tokens: a record or a row was changed"


def _ledger(connection: Connection, first: str, last: str) -> dict[Key, Held]:
    """What was used by day and model, as the ledger's rows say; amounts as adjusted since."""
    # every tenant: sums of the whole platform
    columns = [EVENT.c.day, EVENT.c.model]
    sums = [
        func.sum(case((EVENT.c.kind == "settlement", 1), else_=0)),
        *[
            func.sum(EVENT.c[name])
            for name in ("prompt_tokens", "completion_tokens", "amount_nano", "amount_atto")
        ],
        func.sum(EVENT.c.cold_start_ms + EVENT.c.serving_ms + EVENT.c.idle_tail_ms),
    ]
    events = select(*columns, *sums).where(_of_days(first, last)).group_by(*columns)
    found = {}
    for day, model, requests, prompt, completion, nano, atto, time in connection.execute(events):
        amount = money.whole(int(nano or 0), int(atto or 0))
        found[day, model] = Held(int(requests), int(prompt), int(completion), amount, int(time))
    same = and_(
        EVENT.c.attempt_month == ADJUSTMENT.c.attempt_month,
        EVENT.c.event_id == ADJUSTMENT.c.event_id,
    )
    changes = [
        func.sum(ADJUSTMENT.c[f"{side}_{half}"])
        for side in ("after", "before")
        for half in ("nano", "atto")
    ]
    adjusted = (
        select(*columns, *changes)
        .join_from(ADJUSTMENT, EVENT, same)
        .where(_of_days(first, last))
        .group_by(*columns)
    )
    for day, model, *halves in connection.execute(adjusted):
        after, rest_after, before, rest_before = (int(half or 0) for half in halves)
        change = money.whole(after - before, rest_after - rest_before)
        held = found[day, model]
        found[day, model] = held._replace(amount=held.amount + change)
    return found


def _of_days(first: str, last: str) -> Any:
    """What was used on some days, found by their ids, which begin with the time and are indexed."""
    begin, end = _ids(first, last)
    return and_(
        EVENT.c.attempt_month.in_(months.listed(first[:7], last[:7])),
        EVENT.c.event_id >= begin,
        EVENT.c.event_id < end,
        EVENT.c.kind.in_(COUNTED),
    )


def _ids(first: str, last: str) -> tuple[str, str]:
    """What ids of some days are not below, and what they are below."""
    end = dt.date.fromisoformat(last) + dt.timedelta(days=1)
    return _id_of(dt.date.fromisoformat(first)), _id_of(end)


def _id_of(day: dt.date) -> str:
    """What ids of a day's first millisecond begin with."""
    text = f"{(day - EPOCH).days * 86_400_000:012x}"
    return f"{text[:8]}-{text[8:]}"


def _rollup(
    connection: Connection, table: Table, width: int, first: str, last: str
) -> dict[Key, Held]:
    # every tenant: sums of the whole platform
    days = [(dt.date.fromisoformat(day) - EPOCH).days for day in (first, last)]
    per_day = DAY_MINUTES // width
    day = (table.c.bucket // per_day) if per_day > 1 else table.c.bucket
    sums = [
        func.sum(table.c[name])
        for name in (
            *("requests", "prompt_tokens", "completion_tokens"),
            *("amount_nano", "amount_atto"),
        )
    ]
    sums.append(func.sum(table.c.cold_start_ms + table.c.serving_ms + table.c.idle_tail_ms))
    rows = connection.execute(
        select(day.label("day"), SERIES.c.model, *sums)
        .join_from(table, SERIES, SERIES.c.id == table.c.series)
        .where(table.c.bucket.between(days[0] * per_day, (days[1] + 1) * per_day - 1))
        .group_by("day", SERIES.c.model)
    )
    found = {}
    for number, model, requests, prompt, completion, nano, atto, time in rows:
        amount = money.whole(int(nano), int(atto))
        held = Held(int(requests), int(prompt), int(completion), amount, int(time))
        if held != Held():
            found[(EPOCH + dt.timedelta(days=int(number))).isoformat(), model] = held
    return found


def by_place(found: Iterable[Drift]) -> dict[str, int]:
    """Tokens (or, where only money or requests differ, 1) by which each place is off."""
    totals = {str(table.name): 0 for table in (ROLLUP_MINUTE, ROLLUP_HOUR, ROLLUP_DAY)}
    totals[JOURNALS] = 0
    for one in found:
        totals[one.place] = totals.get(one.place, 0) + max(1, abs(one.tokens))
    return totals
