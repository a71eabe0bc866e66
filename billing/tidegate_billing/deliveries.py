"""When a message is sent again, and when it is given up.

An answer of 2xx is delivered; 410 says that the endpoint wants nothing any more, and disables it; everything
else (other answers, redirects, timeouts, no connection) is tried again, each time three times
as long after the failure, up to 12 hours, and a last time 3 days after the first. Without jitter:

    try    1    2     3     4     5      6      7      8      9      10     11    12    13    14    15
    wait   -    10s   30s   90s   270s   810s   41m    2h02   6h05   12h    12h   12h   12h   12h   the rest
    after  0    10s   40s   2m10  6m40   20m10  1h01   3h02   9h07   21h07  33h   45h   57h   69h   72h

Jitter makes each wait up to a fifth longer, so that endpoints which failed together don't come
back together. `retry-after` can put a try off, not past the last one.

A replay by hand is a new delivery of the same message: its id stays, so a receiver that has it
already says so, and its three days begin anew. Times are microseconds since the epoch.
"""

from collections.abc import Callable
from typing import Final, Literal, NamedTuple

SECOND: Final = 1_000_000
FIRST_WAIT: Final = 10 * SECOND
FACTOR: Final = 3
LONGEST_WAIT: Final = 12 * 3600 * SECOND
LASTS: Final = 72 * 3600 * SECOND
JITTER: Final = 0.2
TIMEOUT_SECONDS: Final = 15
"""How long an endpoint has to answer."""
NOTE: Final = 200
"""Characters kept of what went wrong; an answer's body is not kept, it may hold anything."""

State = Literal["waiting", "delivered", "gone", "failed"]


class Delivery(NamedTuple):
    """One message on its way to one endpoint. `due`: when the next try is; None: it is over."""

    id: str
    message: str
    endpoint: str
    first: int
    due: int | None
    tries: int = 0
    state: State = "waiting"
    by_hand: bool = False


class Try(NamedTuple):
    """A line of the delivery log. `status` 0: no answer, and `note` says why."""

    delivery: str
    message: str
    endpoint: str
    number: int
    at: int
    took: int
    status: int
    note: str
    state: State
    due: int | None


class Answer(NamedTuple):
    """What came of a try. `retry_after`: seconds, where the endpoint named some."""

    status: int
    took: int
    note: str = ""
    retry_after: int | None = None


def begin(delivery_id: str, message: str, endpoint: str, now: int) -> Delivery:
    """A message that is to be sent at once."""
    return Delivery(delivery_id, message, endpoint, now, now)


def replay(old: Delivery, delivery_id: str, now: int) -> Delivery:
    """The same message once more, because a person wants it."""
    return begin(delivery_id, old.message, old.endpoint, now)._replace(by_hand=True)


def judge(status: int) -> State:
    """What an answer means. 0: there was none."""
    if 200 <= status <= 299:
        return "delivered"
    return "gone" if status == 410 else "waiting"


def tried(
    delivery: Delivery, answer: Answer, now: int, random: Callable[[], float]
) -> tuple[Delivery, Try]:
    """What becomes of a delivery after a try that ended at `now`, and its line in the log.

    `random`: numbers from 0 to below 1. State `gone`: the endpoint is to be disabled, with all that
    waits for it.
    """
    tries = delivery.tries + 1
    state = judge(answer.status)
    due = None
    if state == "waiting":
        due = next_try(delivery.first, tries, now, random, answer.retry_after)
        state = "waiting" if due is not None else "failed"
    after = delivery._replace(tries=tries, state=state, due=due)
    line = Try(
        delivery=delivery.id,
        message=delivery.message,
        endpoint=delivery.endpoint,
        number=tries,
        at=now,
        took=answer.took,
        status=answer.status,
        note=answer.note[:NOTE],
        state=state,
        due=due,
    )
    return after, line


def wait(tries: int) -> int:
    """How long to wait after so many failed tries, without jitter."""
    return min(FIRST_WAIT * int(FACTOR ** min(tries - 1, 20)), LONGEST_WAIT)


def next_try(
    first: int, tries: int, now: int, random: Callable[[], float], retry_after: int | None = None
) -> int | None:
    """When to try again after `tries` failures, the last one at `now`; None: it was the last try."""
    last = first + LASTS
    if now >= last:
        return None
    pause = wait(tries) + int(wait(tries) * JITTER * random())
    if retry_after is not None:
        pause = max(pause, retry_after * SECOND)
    return min(now + pause, last)
