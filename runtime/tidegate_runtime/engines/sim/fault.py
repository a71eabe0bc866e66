"""Failures on demand: `KIND` or `KIND@N`.

Three kinds break an answer while it runs (crash, hang, malformed); their `@N` counts the tokens of
an answer, over all its choices. Without `@N` they strike before the first byte of the answer (and
running answers at once, when set while the engine runs). The others concern a request as a whole;
their `@N` means the Nth inference request only, counted from the start of the process or from the
last change of the faults. Readiness requests count like any other.
"""

from collections.abc import Sequence
from typing import NamedTuple

BREAKING = ("crash", "hang", "malformed")
KINDS = (
    "refuse",
    "crash",
    "hang",
    "http500",
    "slow",
    "die-at-start",
    "malformed",
    "no-usage",
    "wrong-usage",
)


class Fault(NamedTuple):
    """One failure. `at` is None where it has no `@N`."""

    kind: str
    at: int | None = None

    def __str__(self) -> str:
        return self.kind if self.at is None else f"{self.kind}@{self.at}"


def parse(text: str) -> Fault:
    """Read `KIND[@N]`. Raises ValueError saying what is allowed."""
    kind, sign, number = text.partition("@")
    if kind not in KINDS:
        raise ValueError(f"{text!r} is not a failure; allowed: {', '.join(KINDS)}")
    if not sign:
        return Fault(kind)
    if kind == "die-at-start":
        raise ValueError("die-at-start takes no @N: it strikes before any request")
    least = 0 if kind in BREAKING else 1
    if not (number.isascii() and number.isdigit()) or int(number) < least:
        raise ValueError(f"{text!r}: what follows @ must be a whole number of at least {least}")
    return Fault(kind, int(number))


def struck(faults: Sequence[Fault], number: int) -> frozenset[str]:
    """The kinds that concern request `number` (from 1) as a whole."""
    return frozenset(
        fault.kind for fault in faults if fault.kind not in BREAKING and fault.at in {None, number}
    )


def breaking(faults: Sequence[Fault]) -> Fault | None:
    """The fault that breaks an answer first, if any does."""
    candidates = [fault for fault in faults if fault.kind in BREAKING]
    return min(candidates, key=lambda fault: -1 if fault.at is None else fault.at, default=None)
