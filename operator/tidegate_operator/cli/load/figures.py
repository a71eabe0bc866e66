"""Numbers of a load. Pure: samples in, a document out.

Percentiles are by nearest rank: the p-th of n sorted values is the one at place ceil(p/100 * n), so
each is a value that was measured and none is made up between two. With fewer than 100 values the
99th percentile is the largest one.

All times of a request count from `due`: in an open loop when it was to be sent, in a closed one when
it was sent.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

LAGGING_MS = 50.0
"""When the load generator's own loop is this late (p99), its numbers are about itself."""


@dataclass(slots=True)
class Sample:
    """One request and what came of it. Times are seconds after the start; 0 in `first`: no token
    came. `gaps`: between chunks with text. `error`: empty where the whole answer came. `counted`:
    the server said its tokens, else chunks are counted."""

    due: float
    sent: float
    words: int
    stream: bool
    first: float = 0.0
    ended: float = 0.0
    gaps: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    counted: bool = False
    error: str = ""

    @property
    def took(self) -> float:
        """Seconds until it was over."""
        return self.ended - self.due

    @property
    def ttft(self) -> float | None:
        """Seconds until the first token; None for answers in one piece, and without a token."""
        return self.first - self.due if self.stream and self.first else None


class Spread(NamedTuple):
    """How values are spread."""

    n: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float

    def document(self) -> dict[str, float]:
        """For programs, to the microsecond."""
        return {name: round(value, 6) for name, value in self._asdict().items()}


def rank(values: Sequence[float], percent: float) -> float:
    """The percentile of sorted values by nearest rank. Raises ValueError for no values."""
    if not values:
        raise ValueError("no values have no percentile")
    place = math.ceil(len(values) * percent / 100)
    return values[min(len(values), max(1, place)) - 1]


def spread(values: Iterable[float | None]) -> Spread | None:
    """How values are spread; None where there are none."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    p50, p90, p95, p99 = (rank(known, percent) for percent in (50, 90, 95, 99))
    mean = math.fsum(known) / len(known)
    return Spread(len(known), mean, p50, p90, p95, p99, known[-1])


def document(
    samples: Sequence[Sample], seconds: float, *, open_loop: bool, lags: Sequence[float] = ()
) -> dict[str, Any]:
    """All numbers of a load that took `seconds`. `lags`: how late the generator's own loop was."""
    good = [one for one in samples if not one.error]
    bad = [one for one in samples if one.error]
    lag = spread(lags)
    return {
        "requests": len(samples),
        "ok": len(good),
        "failed": len(bad),
        "failed_share": round(len(bad) / len(samples), 6) if samples else 0.0,
        "errors": dict(Counter(one.error for one in bad).most_common()),
        "seconds": round(seconds, 6),
        "requests_per_second": _per(len(good), seconds),
        "tokens": {
            "prompt": sum(one.prompt_tokens for one in samples),
            "completion": sum(one.completion_tokens for one in samples),
            "counted_by": counted_by(good),
        },
        "prompt_tokens_per_second": _per(sum(s.prompt_tokens for s in samples), seconds),
        "completion_tokens_per_second": _per(sum(s.completion_tokens for s in samples), seconds),
        "measured_from": "intended send time" if open_loop else "send time",
        **_times(good),
        "error_seconds": _maybe(spread(one.took for one in bad)),
        "late_seconds": _maybe(spread(one.sent - one.due for one in samples))
        if open_loop
        else None,
        "by_prompt_words": [
            {"words": words, **_group([one for one in samples if one.words == words])}
            for words in sorted({one.words for one in samples})
        ],
        "streams": _group([one for one in samples if one.stream]),
        "whole": _group([one for one in samples if not one.stream]),
        "over_time": over_time(samples, seconds),
        "generator_lag_seconds": _maybe(lag),
        "warnings": warnings(samples, lag),
    }


def over_time(samples: Sequence[Sample], seconds: float) -> list[dict[str, Any]]:
    """One row per stretch of time, of 1 s or more: at most some 120 rows. A request belongs to where
    it was due, its tokens and its end to where it ended."""
    width = max(1, math.ceil(seconds / 120))
    rows = []
    for begin in range(0, max(1, math.ceil(seconds)), width):
        end = begin + width
        due = [one for one in samples if begin <= one.due < end]
        over = [one for one in samples if begin <= one.ended < end]
        ttft = spread(one.ttft for one in due if not one.error)
        rows.append(
            {
                "second": begin,
                "due": len(due),
                "ended": len(over),
                "failed": sum(bool(one.error) for one in over),
                "completion_tokens_per_second": _per(
                    sum(one.completion_tokens for one in over), width
                ),
                "in_flight": sum(one.sent < end and one.ended >= end for one in samples),
                "ttft_p50": None if ttft is None else round(ttft.p50, 6),
                "ttft_p99": None if ttft is None else round(ttft.p99, 6),
            }
        )
    return rows


def counted_by(samples: Sequence[Sample]) -> str:
    """Who counted the tokens: `server`, `chunks` (the server did not say), or `mixed`."""
    kinds = {one.counted for one in samples}
    return "mixed" if len(kinds) > 1 else "chunks" if kinds == {False} else "server"


def warnings(samples: Sequence[Sample], lag: Spread | None) -> list[str]:
    """What makes the numbers doubtful, in words."""
    found = []
    if lag is not None and lag.p99 * 1000 > LAGGING_MS:
        late = f"the load generator itself was {lag.p99 * 1000:.0f} ms late (p99)"
        found.append(f"{late}: these numbers are partly its own; send less from one process")
    good = [one for one in samples if not one.error]
    if 0 < len(good) < 100:
        found.append(f"only {len(good)} good answers: the 99th percentile is the slowest one")
    if good and counted_by(good) != "server":
        found.append("the server did not say how many tokens it made; chunks are counted")
    return found


def _times(good: Sequence[Sample]) -> dict[str, Any]:
    return {
        "ttft_seconds": _maybe(spread(one.ttft for one in good)),
        "itl_seconds": _maybe(spread(gap for one in good for gap in one.gaps)),
        "latency_seconds": _maybe(spread(one.took for one in good)),
    }


def _group(samples: Sequence[Sample]) -> dict[str, Any]:
    good = [one for one in samples if not one.error]
    return {"requests": len(samples), "failed": len(samples) - len(good), **_times(good)}


def _maybe(found: Spread | None) -> Mapping[str, float] | None:
    return None if found is None else found.document()


def _per(count: float, seconds: float) -> float:
    return round(count / seconds, 3) if seconds > 0 else 0.0
