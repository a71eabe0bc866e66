"""Which version is in force at a time: the last one that has begun.

A version is in force from its first microsecond on, and until the next one begins. A version that
was written late with an earlier date takes effect from that date; what was rated before it is
corrected by adjustments, which is not decided here. Of two that begin together the later written
one, with the higher number, is in force: that is how a mistake is corrected before its time.
"""

from bisect import bisect_right
from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Version(NamedTuple, Generic[T]):
    """`effective_from`: microseconds since the epoch. `terms` None: from here on there are none,
    which a reader can tell from there never having been any."""

    number: int
    effective_from: int
    terms: T | None


class Timeline(Generic[T]):
    """The versions of one book or contract, in the order of their times. It never changes."""

    def __init__(self, versions: Iterable[Version[T]]) -> None:
        ordered = sorted(versions, key=lambda version: (version.effective_from, version.number))
        self._versions = tuple(ordered)
        self._starts = [version.effective_from for version in ordered]

    def at(self, when: int) -> Version[T] | None:
        """The version in force at `when` (microseconds); None: none has begun."""
        place = bisect_right(self._starts, when)
        return self._versions[place - 1] if place else None
