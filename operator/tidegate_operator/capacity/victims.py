"""Who gives way: one rule for devices in a cluster and for memory on one machine."""

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def fewest(candidates: Sequence[T], enough: Callable[[Sequence[T]], bool]) -> list[T]:
    """The least recently used that are enough, without those that can be spared; empty: even all
    are not enough. The one used last is needed: without it the others were not enough.

    `candidates` are in the order of their last use."""
    chosen: list[T] = []
    for one in candidates:
        chosen.append(one)
        if enough(chosen):
            break
    else:
        return []
    for one in reversed(chosen[:-1]):
        spared = [other for other in chosen if other is not one]
        if enough(spared):
            chosen = spared
    return chosen
