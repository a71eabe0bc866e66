"""A deployment's state in one word, from facts, and the back-off of starts that fail.

The phase is derived anew each time and never stepped from phase to phase, so that it cannot get
stuck on a step that was missed.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Phase = Literal[
    "Pending", "Idle", "Starting", "Ready", "Degraded", "Failed", "Suspended", "Terminating"
]

MAX_BACKOFF_SECONDS = 60.0


@dataclass(frozen=True)
class Facts:
    """What is known of a deployment. `observed` False: no decision was made for it yet.

    `failure`: the reason of a start that failed and was not followed by a good one.
    """

    desired: int = 0
    ready: int = 0
    starting: int = 0
    draining: int = 0
    suspended: bool = False
    deleting: bool = False
    valid: bool = True
    observed: bool = True
    failure: str = ""
    failure_final: bool = False


class Status(NamedTuple):
    """`phase` for machines, `reason` for people."""

    phase: Phase
    reason: str


def status(facts: Facts) -> Status:
    """The phase of `facts`. What a person asked for comes first, then what is broken."""
    if facts.deleting:
        return Status("Terminating", "the resource is being deleted")
    if facts.suspended:
        return Status("Suspended", "spec.suspend is true")
    if not facts.valid:
        return Status("Failed", "the resource is not valid")
    if not facts.observed:
        return Status("Pending", "not looked at yet")
    if facts.ready:
        return _serving(facts)
    return _not_serving(facts)


def _serving(facts: Facts) -> Status:
    if facts.failure:
        return Status("Degraded", f"a replica failed to start: {facts.failure}")
    if facts.ready < facts.desired and not facts.starting:
        return Status("Degraded", f"{facts.ready} of {facts.desired} replicas are ready")
    return Status("Ready", f"{facts.ready} of {max(facts.desired, facts.ready)} replicas are ready")


def _not_serving(facts: Facts) -> Status:
    if facts.failure and facts.failure_final:
        return Status("Failed", facts.failure)
    if facts.desired or facts.starting:
        again = f"after {facts.failure}" if facts.failure else "a replica is starting"
        return Status("Starting", again)
    if facts.failure:
        return Status("Failed", facts.failure)
    return Status("Idle", "no demand, no replica")


def backoff(failures: int) -> float:
    """Seconds to wait before the next start after `failures` failed ones in a row.

    0 after a success, then 1, 2, 4, 8, 16, 32, 60, 60, ...
    """
    if failures <= 0:
        return 0.0
    # The exponent is bounded before the power: a model may fail for a year.
    return min(MAX_BACKOFF_SECONDS, float(1 << min(failures - 1, 6)))
