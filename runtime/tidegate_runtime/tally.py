"""What a journal has written, by day and model: the number that billing holds the ledger against.

It is counted where a record is written and not where one is shipped, so what gets lost in between
is missing there only. Each segment has its own counts, made again from its records after a restart.
When a segment goes, its counts go to the base, a file beside the journal that is durable before the
segment is gone; it names the last record in it, so that a crash between the two counts nothing twice.

Sums only grow, and each names the last record that touched it: billing may compare it when it has
that record. Where records were gone uncounted (a release that did not count, a base that could not
be written), the day it happened on would look like a loss, so counting begins with the next one.
"""

import datetime as dt
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from tidegate_billing.links import Written
from tidegate_billing.usage import Usage, attempt_day

Key = tuple[str, str]
Counts = dict[Key, list[int]]
"""By day and model: settlements, prompt tokens, completion tokens."""

FILE: Final = "written"
KEPT_DAYS: Final = 4
"""Older sums than so many days before the newest are not kept here: no attempt lasts so long."""


class _Base(msgspec.Struct):
    """The file: sums of all records up to `upto`. `since`: the first day that counts."""

    upto: int = 0
    since: str = ""
    counts: list[tuple[str, str, int, int, int]] = []


class Tally:
    """The sums of one journal. Single writer, as the journal."""

    def __init__(self, folder: Path, first: int, last: int, today: str) -> None:
        """`first`: the oldest record that is still there to be counted, or would be the next;
        `last`: the newest there ever was, as far as is known after a power loss."""
        self._path = folder / FILE
        base = self._read()
        if not first - 1 <= base.upto <= last:
            tomorrow = dt.date.fromisoformat(today) + dt.timedelta(days=1)
            base = _Base(upto=first - 1, since=tomorrow.isoformat())
        self.upto, self.since = base.upto, base.since
        self._base: Counts = {(day, model): sums for day, model, *sums in base.counts}
        self._sums: Counts = {key: [*sums] for key, sums in self._base.items()}
        self._touched: dict[Key, int] = {}

    def add(self, counts: Counts, number: int, event: Usage) -> None:
        """Count a settlement: in its segment's `counts`, and in the whole."""
        try:
            key = (attempt_day(event.attempt_id), event.model)
        except ValueError:
            return  # billing cannot date it either, and refuses it
        if number <= self.upto or key[0] < self.since:
            return
        for sums in (counts, self._sums):
            _add(sums, key, (1, event.prompt_tokens, event.completion_tokens))
        self._touched[key] = number

    def changed(self) -> list[Written]:
        """The sums that have changed since billing was told."""
        return [
            Written(
                day=key[0],
                model=key[1],
                settlements=self._sums[key][0],
                prompt_tokens=self._sums[key][1],
                completion_tokens=self._sums[key][2],
                upto=number,
            )
            for key, number in self._touched.items()
        ]

    def told(self, written: Iterable[Written]) -> None:
        """Billing has these."""
        for one in written:
            if self._touched.get((one.day, one.model)) == one.upto:
                del self._touched[one.day, one.model]

    def leave(self, counts: Counts, last: int) -> None:
        """A segment goes whose last record is `last`. Raises OSError where its counts cannot be
        kept; the next life then sees that they are missing."""
        for key, sums in counts.items():
            _add(self._base, key, sums)
        newest = max((day for day, _ in self._sums), default="")
        oldest = newest and (dt.date.fromisoformat(newest) - dt.timedelta(KEPT_DAYS)).isoformat()
        for old in [key for key in self._sums if key[0] < oldest and key not in self._touched]:
            del self._sums[old]
            self._base.pop(old, None)
        base = _Base(last, self.since, [(*key, *sums) for key, sums in self._base.items()])  # type: ignore[misc]
        partial = self._path.with_suffix(".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        with os.fdopen(os.open(partial, flags, 0o600), "wb") as file:
            file.write(msgspec.json.encode(base))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _read(self) -> _Base:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Base)
        except (FileNotFoundError, msgspec.MsgspecError):
            return _Base()


def _add(counts: Counts, key: Key, more: Iterable[int]) -> None:
    known = counts.get(key)
    if known is None:
        counts[key] = [*more]
    else:
        for place, value in enumerate(more):
            known[place] += value
