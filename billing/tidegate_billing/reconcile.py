"""Conservation: what an engine generated against what the ledger says of it, in completion tokens.

    generated = billed + unbilled by reason + unverified + unexplained

An epoch is one life of one engine process (pod UID and restart). A difference is explained only by
something that was recorded: a settlement that says why it is not billed, an attempt that ended
early, an orphan that was declared. So an attempt that the engine knows and the ledger does not
stays `unexplained`: a meter that drops or doubles one settlement has nowhere to hide it.

With per-attempt truth (`EngineCounters.attempts`) the tail of each early end is known. Without
it, the rest of an epoch that had early ends is taken for their tails, and of one that had none is
unexplained. "No data" is never zero: an epoch whose counters died unread is `unverified`, and its
`generated` is at least what the ledger knows of it.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tidegate_billing.links import EngineCounters

EARLY_ENDS = frozenset({"aborted", "broken", "lost", "failed"})


class Recorded(NamedTuple):
    """What the ledger says of one attempt (its settlement, else its orphan), or of several alike.

    `attempt_id` is empty where several are summed up."""

    kind: str
    billed: bool
    reason: str
    outcome: str
    tokens: int
    attempt_id: str = ""


class Balance(NamedTuple):
    """One epoch, balanced. `unbilled`: tokens by reason."""

    model: str
    epoch: str
    generated: int
    billed: int
    unbilled: dict[str, int]
    unverified: int
    unexplained: int
    verified: bool
    state: str


def balance(
    epoch: str, model: str, counters: EngineCounters | None, recorded: Iterable[Recorded]
) -> Balance:
    """Balance one epoch. `counters` None: none were ever reported."""
    rows = list(recorded)
    billed = sum(row.tokens for row in rows if _is_billed(row))
    unbilled: dict[str, int] = {}
    for row in rows:
        if not _is_billed(row):
            _add(unbilled, _reason(row), row.tokens)
    if counters is None:
        known = billed + sum(unbilled.values())
        return Balance(model, epoch, known, billed, unbilled, 0, 0, verified=False, state="unread")
    for reason, tokens in _tails(counters.attempts, rows):
        _add(unbilled, reason, tokens)
    early = any(row.outcome in EARLY_ENDS for row in rows)
    return _close(epoch, counters, billed, unbilled, early=early)


def _is_billed(row: Recorded) -> bool:
    return row.billed and row.kind == "settlement"


def _reason(row: Recorded) -> str:
    if row.kind == "orphan":
        return "orphan"
    return row.reason or row.outcome


def _add(totals: dict[str, int], reason: str, tokens: int) -> None:
    if tokens:
        totals[reason] = totals.get(reason, 0) + tokens


def _tails(attempts: Mapping[str, int], rows: Iterable[Recorded]) -> list[tuple[str, int]]:
    """Tokens past what was recorded of each attempt that ended early or was not billed."""
    by_attempt = {row.attempt_id: row for row in rows if row.attempt_id}
    tails = []
    for attempt, truth in attempts.items():
        row = by_attempt.get(attempt)
        if row is None or truth <= row.tokens:
            continue
        if not _is_billed(row):
            tails.append((_reason(row), truth - row.tokens))
        elif row.outcome != "completed":
            tails.append(("abort_tail", truth - row.tokens))
    return tails


def _close(
    epoch: str, counters: EngineCounters, billed: int, unbilled: dict[str, int], *, early: bool
) -> Balance:
    """Say what the rest of an epoch is, once all that was recorded is taken off."""
    generated = counters.generated
    rest = generated - billed - sum(unbilled.values())
    verified = counters.verified
    unverified = unexplained = 0
    open_ended = not verified or (counters.state == "live" and counters.in_flight > 0)
    if open_ended and rest < 0:
        generated -= rest  # the counters are older than the ledger
    elif not verified:
        unverified = rest
    elif open_ended:
        _add(unbilled, "in_flight", rest)
    elif early and not counters.attempts and rest > 0:
        _add(unbilled, "abort_tail", rest)
    else:
        unexplained = rest
    return Balance(
        model=counters.model,
        epoch=epoch,
        generated=generated,
        billed=billed,
        unbilled=unbilled,
        unverified=unverified,
        unexplained=unexplained,
        verified=verified,
        state=counters.state,
    )
