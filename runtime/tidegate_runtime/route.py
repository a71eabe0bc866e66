"""Which replica answers: filter, score, pick. Values in, a choice out."""

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol, TypeVar


class Candidate(Protocol):
    """What a pick needs to know of a replica."""

    id: str
    in_flight: int

    @property
    def usable(self) -> bool:
        """It has answered, and it is not draining."""


C = TypeVar("C", bound=Candidate)


class Wait(NamedTuple):
    """Nothing can be picked now. `reason`: no_replica | all_busy | all_failed."""

    reason: str


def least_load(
    replicas: Iterable[C], max_concurrency: int, failed: frozenset[str] | set[str]
) -> C | Wait:
    """The usable replica with the fewest requests in flight, below `max_concurrency`, that has not
    failed this request. Ties go to the first."""
    best: C | None = None
    reason = "no_replica"
    for replica in replicas:
        if not replica.usable:
            continue
        if replica.id in failed:
            reason = "all_failed" if reason == "no_replica" else reason
        elif replica.in_flight >= max_concurrency:
            reason = "all_busy"
        elif best is None or replica.in_flight < best.in_flight:
            best = replica
    return Wait(reason) if best is None else best


Strategy = Callable[[Iterable[C], int, set[str]], C | Wait]
"""PrefixHash (consistent hashing with bounded loads) will stand beside least_load."""
