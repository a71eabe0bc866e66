"""What routers' journals have written, kept beside the ledger so that the two can be compared.

A journal's sums come with its batches and are of the same moment: when a batch is kept, its
journal's sums are what the ledger has of it, unless the journal is behind with its shipping. So each
sum names the last record in it, and is compared when that record has come.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, select, text

from tidegate_billing.links import Written
from tidegate_billing.tables import JOURNAL, JOURNAL_COUNT, REFUSED
from tidegate_billing.usage import LARGEST, LONGEST, Usage, attempt_day

Key = tuple[str, str]
"""A day (`YYYY-MM-DD`) and a model."""
Sum = tuple[int, int, int]
"""Settlements, prompt tokens, completion tokens."""

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_KEEP = text(
    "INSERT INTO journal_count"
    " (journal, day, model, settlements, prompt_tokens, completion_tokens, upto)"
    " VALUES (:journal, :day, :model, :settlements, :prompt_tokens, :completion_tokens, :upto)"
    " ON CONFLICT (journal, day, model) DO UPDATE SET settlements = excluded.settlements,"
    " prompt_tokens = excluded.prompt_tokens, completion_tokens = excluded.completion_tokens,"
    " upto = excluded.upto WHERE excluded.upto >= journal_count.upto"
    " AND excluded.settlements >= journal_count.settlements"
)


def keep(connection: Connection, journal: str, written: Sequence[Written]) -> None:
    """Keep what a journal says; sums only grow, so an older word changes nothing."""
    rows = [{"journal": journal, **msgspec.structs.asdict(one)} for one in written if _is_good(one)]
    if rows:
        connection.execute(_KEEP, rows)


def is_day(counted_from: str | None) -> bool:
    """Whether a journal says from which day it counts (empty: from its first record on)."""
    return counted_from == "" or bool(counted_from and _DAY.fullmatch(counted_from))


def _is_good(one: Written) -> bool:
    """Whether it can be kept: a sum that cannot must not keep usage out."""
    numbers = (one.settlements, one.prompt_tokens, one.completion_tokens, one.upto)
    named = _DAY.fullmatch(one.day) and len(one.model) <= LONGEST and "\0" not in one.model
    return bool(named) and all(0 <= number <= LARGEST for number in numbers)


class Sums(NamedTuple):
    """What all journals have written. `on_their_way`: of these some record has yet to come.
    `since`: the first day of each journal; None where one tells no sums."""

    by_key: Mapping[Key, Sum]
    on_their_way: set[Key]
    since: Sequence[str | None]

    def get(self, key: Key) -> Sum:
        """The sum of a day and a model."""
        return self.by_key.get(key, (0, 0, 0))

    def complete(self, day: str) -> bool:
        """Whether every journal has counted this day."""
        return bool(self.since) and all(one is not None and one <= day for one in self.since)


def sums(connection: Connection, first: str, last: str) -> Sums:
    """What was written of days `first` to `last`, both included."""
    rows = connection.execute(
        select(JOURNAL_COUNT, JOURNAL.c.acked)
        .join(JOURNAL, JOURNAL.c.name == JOURNAL_COUNT.c.journal)
        .where(JOURNAL_COUNT.c.day.between(first, last))
    )
    found: dict[Key, Sum] = {}
    coming: set[Key] = set()
    for row in rows:
        key = (row.day, row.model)
        a, b, c = found.get(key, (0, 0, 0))
        found[key] = (a + row.settlements, b + row.prompt_tokens, c + row.completion_tokens)
        if row.upto > row.acked:
            coming.add(key)
    since = connection.execute(select(JOURNAL.c.counted_from).where(JOURNAL.c.acked > 0))
    return Sums(found, coming, since.scalars().all())


def refused(connection: Connection, begin: str, end: str) -> dict[Key, Sum]:
    """What was written and could not be kept, of ids from `begin` to before `end`."""
    found: dict[Key, Sum] = {}
    query = select(REFUSED.c.body).where(REFUSED.c.event_id >= begin, REFUSED.c.event_id < end)
    for body in connection.execute(query).scalars():
        try:
            event = msgspec.json.decode(body, type=Usage)
            key = (attempt_day(event.attempt_id), event.model)
        except (msgspec.MsgspecError, ValueError):
            continue  # of no day, and no journal has counted it
        if event.kind == "settlement":
            a, b, c = found.get(key, (0, 0, 0))
            found[key] = (a + 1, b + event.prompt_tokens, c + event.completion_tokens)
    return found
