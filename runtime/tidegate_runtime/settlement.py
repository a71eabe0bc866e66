"""What an attempt is settled as: pure, from what its engine counted and how it ended."""

from typing import Final

import msgspec

from tidegate_billing.usage import Outcome, Usage
from tidegate_runtime.stream import Counts

_UNBILLED: Final[dict[str, str]] = {"completed": "no_usage", "failed": "failed"}
"""Why an attempt without counts is not billed. Else its tokens, if any, are an abort's tail."""


def settlement(
    attempt: Usage,
    outcome: Outcome,
    counts: Counts | None,
    *,
    partial: bool,
    reason: str,
    now: float,
) -> Usage:
    """The settlement of `attempt`, ended at `now` (seconds since the epoch).

    With counts it is billed by them, unless it has a `reason` not to be; nothing seen is nothing
    billed. `partial`: the counts are the last ones seen of an answer that did not end.
    """
    ended = msgspec.structs.replace(
        attempt, kind="settlement", outcome=outcome, finished_at=int(now * 1e6)
    )
    if counts is None:
        why = reason or _UNBILLED.get(outcome, "abort_tail")
        return msgspec.structs.replace(ended, reason=why)
    return msgspec.structs.replace(
        ended,
        prompt_tokens=counts.prompt_tokens,
        cached_tokens=counts.cached or 0,
        cached_known=counts.cached is not None,
        completion_tokens=counts.completion_tokens or 0,
        reasoning_tokens=counts.reasoning,
        source="partial" if partial else "engine",
        billed=not reason,
        reason=reason,
    )
