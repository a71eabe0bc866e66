"""Projections of the ledger: usage summed by series and minute, hour and day.

What an event or an adjustment adds to a series in a minute is written in the transaction that writes
the entry. So a rollup is never behind, and since it holds nothing that
the ledger does not say, it can be emptied and rebuilt from there to the same numbers.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, and_, delete, false, insert, not_, or_, select, update

from tidegate_billing import bulk, months, retention
from tidegate_billing.budgeting.tables import BUDGET_SPENT
from tidegate_billing.bulk import Target
from tidegate_billing.entry import (
    FIELDS,
    Rating,
    first_rating,
    rating_after,
    rating_before,
    requests,
    usage_of,
)
from tidegate_billing.tables import (
    ADJUSTMENT,
    EVENT,
    OUTBOX,
    ROLLUP_DAY,
    ROLLUP_HOUR,
    ROLLUP_MINUTE,
    SERIES,
    SHEET,
    SUMS,
)
from tidegate_billing.usage import COUNTED, Usage, attempt_time

DAY_MINUTES = 1440
WIDTHS = ((ROLLUP_MINUTE, 1), (ROLLUP_HOUR, 60), (ROLLUP_DAY, DAY_MINUTES))
"""Each rollup and the minutes in its bucket."""
_ROLLUPS = [Target(table, ("series", "bucket"), width) for table, width in WIDTHS]
MINUTE_MS = 60_000
SHEET_MICROSECONDS = 86_400_000_000
FLUSH = 200_000
"""Groups held in memory while rebuilding."""
STREAM = {"yield_per": 5000}


class SeriesKey(NamedTuple):
    """What usage is grouped by. `rated_version` 0 and no currency: not rated."""

    tenant: str
    project: str
    key_id: str
    model: str
    deployment: str
    adapter: str
    endpoint: str
    billed: bool
    rated_version: int
    currency: str


Totals = dict[tuple[SeriesKey, int], list[int]]
Numbers = dict[SeriesKey, int]
"""Series that are known by number; a transaction that fails makes it void."""


def add(totals: Totals, event: Usage, at: int, rating: Rating | None, sign: int = 1) -> None:
    """Add what was used at `at` (milliseconds) to its minute; with a sign of -1, take it off."""
    if rating is None:
        version, currency, cached, reasoning, nano, atto = 0, "", 0, 0, 0, 0
    else:
        version, cached, reasoning, nano, atto, currency = rating
    series = SeriesKey(
        event.tenant,
        event.project,
        event.key_id,
        event.model,
        event.deployment,
        event.adapter,
        event.endpoint,
        event.billed,
        version,
        currency,
    )
    sums = (
        requests(event),
        event.prompt_tokens,
        event.cached_tokens,
        event.completion_tokens,
        event.reasoning_tokens,
        event.audio_ms,
        event.images,
        event.cold_start_ms,
        event.serving_ms,
        event.idle_tail_ms,
        cached,
        reasoning,
        nano,
        atto,
    )
    key = (series, at // MINUTE_MS)
    known = totals.get(key)
    if known is None:
        totals[key] = [sign * value for value in sums]
    else:
        for position, value in enumerate(sums):
            known[position] += sign * value


def post(connection: Connection, totals: Totals, known: Numbers, now: int) -> None:
    """Add to every rollup, and to the outbox's open sheet."""
    sheet = Target(OUTBOX, ("series", "sheet"), 0, open_sheet(connection, now))
    _add(connection, totals, known, [*_ROLLUPS, sheet])


def _add(connection: Connection, totals: Totals, known: Numbers, targets: Sequence[Target]) -> None:
    _number(connection, {series for series, _ in totals}, known)
    rows = {(known[series], minute): sums for (series, minute), sums in totals.items()}
    bulk.add_rows(connection, targets, SUMS, rows)


def identity(series: SeriesKey) -> str:
    """A digest of the whole series."""
    return hashlib.sha256(msgspec.json.encode(series)).hexdigest()


def _number(connection: Connection, wanted: set[SeriesKey], known: Numbers) -> None:
    """Learn the numbers of series, and give one to those that have none."""
    # every tenant: a series is looked up by all that it is, its tenant included
    unknown = sorted(wanted - known.keys())
    for start in range(0, len(unknown), bulk.CHUNK):
        part = {identity(series): series for series in unknown[start : start + bulk.CHUNK]}
        query = select(SERIES.c.identity, SERIES.c.id).where(SERIES.c.identity.in_(part))
        found = {row.identity: row.id for row in connection.execute(query)}
        missing = [
            {"identity": name, **series._asdict()}
            for name, series in part.items()
            if name not in found
        ]
        if missing:
            connection.execute(insert(SERIES), missing)
            found = {row.identity: row.id for row in connection.execute(query)}
        known.update((series, found[name]) for name, series in part.items())


def open_sheet(connection: Connection, now: int) -> int:
    """The sheet of the outbox that is written on now; a new one each day, so that sums stay small."""
    newest = connection.execute(
        select(SHEET).where(SHEET.c.sealed_at.is_(None)).order_by(SHEET.c.id.desc()).limit(1)
    ).first()
    if newest is not None:
        if now - newest.opened_at < SHEET_MICROSECONDS:
            return int(newest.id)
        connection.execute(update(SHEET).where(SHEET.c.id == newest.id).values(sealed_at=now))
    made = connection.execute(insert(SHEET).values(opened_at=now)).inserted_primary_key
    assert made is not None
    return int(made[0])


def rebuild(connection: Connection) -> int:
    """Empty the rollups and fill them from the ledger; how many entries that took.

    The outbox stays as it is: it says what was told, and the ledger doesn't know that. So do the
    sums of months that have left the ledger.
    """
    gone = [months.numbers(month) for month in retention.retired(connection)]
    for table, width in WIDTHS:
        day = DAY_MINUTES // width
        kept = [table.c.bucket.between(first * day, after * day - 1) for first, after in gone]
        connection.execute(delete(table).where(not_(or_(false(), *kept))))
    connection.execute(delete(BUDGET_SPENT))  # what budgets need of it is added up again when asked
    known: Numbers = {}
    totals: Totals = {}
    entries = 0
    # every tenant: a projection is rebuilt as a whole
    events = select(EVENT).where(EVENT.c.kind.in_(COUNTED))
    for rows in connection.execute(events, execution_options=STREAM).partitions():
        entries += len(rows)
        for row in rows:
            add(totals, usage_of(row), attempt_time(row.attempt_id), first_rating(row))
        if len(totals) > FLUSH:
            _flush(connection, totals, known)
    same = and_(
        EVENT.c.attempt_month == ADJUSTMENT.c.attempt_month,
        EVENT.c.event_id == ADJUSTMENT.c.event_id,
    )
    later = [column for column in ADJUSTMENT.c if column.name.startswith(("before_", "after_"))]
    adjusted = select(*later, *[EVENT.c[name] for name in FIELDS]).join_from(
        ADJUSTMENT, EVENT, same
    )
    for rows in connection.execute(adjusted, execution_options=STREAM).partitions():
        entries += len(rows)
        for row in rows:
            event, at = usage_of(row), attempt_time(row.attempt_id)
            add(totals, event, at, rating_before(row), sign=-1)
            add(totals, event, at, rating_after(row))
    _flush(connection, totals, known)
    return entries


def _flush(connection: Connection, totals: Totals, known: Numbers) -> None:
    _add(connection, totals, known, _ROLLUPS)
    totals.clear()
