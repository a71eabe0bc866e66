"""Which request may have failed, and which not: pure.

A request must be answered whole, but where something that was done on purpose touched just this
request: the engine of its own attempt, the router of its own connection, the name that it asked
for, at its own time. Whatever else ended otherwise is a defect.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from soaking.callers import Seen, expected
from soaking.documents import REAL

FOREVER = float("inf")
TRIES = 4
"""Attempts that fail before a byte was forwarded, until a request is given up."""
BREAKING = ("crash", "malformed", "hang")


@dataclass
class Moment:
    """Something that was meant. `target`: a router, an engine's replica, or a name. It may tell from
    `begin` to `end`. Of a name that is away, `sure` is when no router knew it any more and `unsure`
    when it was written again; of one that answers with an error, `repaired` is when it was put
    right."""

    kind: str
    target: str
    begin: float
    end: float = FOREVER
    detail: str = ""
    sure: float = FOREVER
    unsure: float = FOREVER
    repaired: float = FOREVER


class Attempt(NamedTuple):
    """A settlement in the ledger. `number`: of the request; -1 for what was none of ours."""

    number: int
    attempt_id: str
    replica: str
    outcome: str
    reason: str
    billed: bool
    prompt: int
    completion: int


@dataclass
class Verdict:
    """How many requests fared how, and what was wrong."""

    fates: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def judge(seen: Sequence[Seen], moments: Sequence[Moment], attempts: Iterable[Attempt]) -> Verdict:
    """Every request against what was meant and what the ledger has of it."""
    by_number: dict[int, list[Attempt]] = {}
    for one in attempts:
        by_number.setdefault(one.number, []).append(one)
    closed = [_closed(moment, seen) for moment in moments]
    made = Verdict()
    for one in seen:
        fate, wrong = _fate(one, closed, by_number.get(one.ask.number, []))
        made.fates[fate] += 1
        made.wrong += [_told(one, fate, words) for words in wrong]
    return made


def _closed(moment: Moment, seen: Sequence[Seen]) -> Moment:
    """A name that answered with an error does so until somebody who asked for it after it was put
    right has got an answer from each router: no router takes a picture back."""
    if moment.kind not in {"suspended", "doomed"} or moment.repaired == FOREVER:
        return moment
    first: dict[int, float] = {}
    for one in seen:
        if one.ask.model == moment.target and one.whole and one.sent > moment.repaired:
            first[one.ask.router] = min(one.ended, first.get(one.ask.router, FOREVER))
    if len(first) < 2:
        return moment
    return Moment(**{**vars(moment), "end": max(first.values())})


def _told(one: Seen, fate: str, words: str) -> str:
    ask = one.ask
    who = f"request {ask.number} ({one.request_id or 'no id'}) of {ask.model} by router {ask.router + 1}"
    how = f"{'stream' if ask.stream else 'plain'}, {one.received} of {ask.tokens} tokens, {one.events} events"
    what = f"status {one.status} {one.code} {one.message} {one.fault}".strip()
    return f"{who}, {one.sent:.3f} to {one.ended:.3f} ({how}, {what}): {fate}: {words}"


def _fate(
    one: Seen, moments: Sequence[Moment], attempts: Sequence[Attempt]
) -> tuple[str, list[str]]:
    if one.whole and not one.code:
        return "answered", _answered(one, moments, attempts)
    if one.left:
        return "left", _prefix(one)
    excuse = EXCUSES.get(one.code, "")
    if one.fault:
        excuse = "malformed" if one.malformed else "cut"
    check = CHECKS.get(excuse)
    if check is None:
        return "failed", ["nothing that was meant does this"]
    return excuse, [*_prefix(one), *check(one, moments, attempts)]


def _answered(one: Seen, moments: Sequence[Moment], attempts: Sequence[Attempt]) -> list[str]:
    wrong = _prefix(one)
    if one.received != one.ask.tokens:
        wrong.append("the answer is not whole")
    good = [a for a in attempts if a.billed]
    if [(a.outcome, a.completion) for a in good] != [("completed", one.ask.tokens)]:
        wrong.append(f"billed as {good}")
    if one.ask.model != REAL and any(a.prompt != one.ask.words for a in good):
        wrong.append(f"the prompt had {one.ask.words} words: {good}")
    wrong += [f"an attempt that is not told of: {a}" for a in attempts if not _quiet(a)]
    if any(_surely_away(one, moment) for moment in moments):
        wrong.append("the name was away")
    return wrong


def _surely_away(one: Seen, moment: Moment) -> bool:
    if moment.kind != "absent" or moment.target != one.ask.model:
        return False
    return moment.sure < one.sent and one.ended < moment.unsure


def _quiet(attempt: Attempt) -> bool:
    return attempt.billed or attempt.reason == "retry"


def _prefix(one: Seen) -> list[str]:
    """What came of the sim's answer has no hole in it."""
    text = "".join(one.text)
    if one.ask.model == REAL or expected(one.ask.tokens).startswith(text):
        return []
    return [f"the text is {text[:80]!r}"]


def _meets(one: Seen, moment: Moment) -> bool:
    return moment.begin <= one.ended and one.sent <= moment.end


def _away(one: Seen, moments: Sequence[Moment], attempts: Sequence[Attempt]) -> list[str]:
    return _named(one, moments, attempts, "absent")


def _suspended(one: Seen, moments: Sequence[Moment], attempts: Sequence[Attempt]) -> list[str]:
    return _named(one, moments, attempts, "suspended")


def _doomed(one: Seen, moments: Sequence[Moment], attempts: Sequence[Attempt]) -> list[str]:
    return _named(one, moments, attempts, "doomed")


def _named(
    one: Seen, moments: Sequence[Moment], attempts: Sequence[Attempt], kind: str
) -> list[str]:
    """It had no answer because of its name, so it had no byte of one either."""
    wrong = [] if not one.events else ["it had begun"]
    wrong += [f"and was billed: {a}" for a in attempts if a.billed and a.completion]
    if not any(m.kind == kind and m.target == one.ask.model and _meets(one, m) for m in moments):
        wrong.append(f"the name was not {kind} then")
    return wrong


def _cut(one: Seen, moments: Sequence[Moment], attempts: Sequence[Attempt]) -> list[str]:
    del attempts
    router = "router" if not one.ask.router else f"router-{one.ask.router + 1}"
    if any(m.kind == "router" and m.target == router and _meets(one, m) for m in moments):
        return []
    return [f"nobody killed {router} then"]


def _hurt(
    attempt: Attempt,
    one: Seen,
    moments: Sequence[Moment],
    faults: Sequence[str],
    *,
    killed: bool = True,
) -> bool:
    """Whether this attempt's engine was killed, or told to fail so, while the request was there."""
    return any(
        m.target == attempt.replica
        and _meets(one, m)
        and (
            (killed and m.kind == "engine")
            or (m.kind == "fault" and m.detail.partition("@")[0] in faults)
        )
        for m in moments
    )


def _broke(one: Seen, moments: Sequence[Moment], attempts: Sequence[Attempt]) -> list[str]:
    broken = [a for a in attempts if a.outcome == "broken"]
    if len(broken) != 1 or not _hurt(broken[0], one, moments, BREAKING):
        return [f"its engine was neither killed nor told to fail: {list(attempts)}"]
    malformed = any(
        m.target == broken[0].replica and m.detail.startswith("malformed") for m in moments
    )
    if not one.events and not malformed:
        return ["no byte of an answer had come: it should have been tried again"]
    return []


def _malformed(one: Seen, moments: Sequence[Moment], attempts: Sequence[Attempt]) -> list[str]:
    """Events are forwarded unread, so nonsense of an engine is seen by its caller, too."""
    broken = [a for a in attempts if a.outcome in {"broken", "aborted"}]
    if len(broken) != 1 or not _hurt(broken[0], one, moments, ("malformed",)):
        return [f"its engine was not told to talk nonsense: {list(attempts)}"]
    return []


def _exhausted(one: Seen, moments: Sequence[Moment], attempts: Sequence[Attempt]) -> list[str]:
    tried = [a for a in attempts if a.reason == "retry"]
    # One that hangs costs two tries: it may be this very request that it hangs on.
    cost = sum(2 if _hurt(a, one, moments, ("hang",), killed=False) else 1 for a in tried)
    kinds = (*BREAKING, "refuse")
    if cost < TRIES or not all(_hurt(a, one, moments, kinds) for a in tried):
        return [f"it was given up without need: {list(attempts)}"]
    return []


def _http500(one: Seen, moments: Sequence[Moment], attempts: Sequence[Attempt]) -> list[str]:
    last = [a for a in attempts if a.outcome == "failed" and a.reason != "retry"]
    if one.events or len(last) != 1 or not _hurt(last[0], one, moments, ("http500",)):
        return [f"its engine was not told to fail so: {list(attempts)}"]
    return []


EXCUSES = {
    "model_not_found": "away",
    "model_suspended": "suspended",
    "model_start_failed": "start failed",
    "engine_broke_off": "broken off",
    "engine_failed": "given up",
    "500": "failed by fault",
}
"""By the code of an error: what must have been meant."""

Check = Callable[[Seen, Sequence[Moment], Sequence[Attempt]], list[str]]
CHECKS: Mapping[str, Check] = {
    "cut": _cut,
    "malformed": _malformed,
    "away": _away,
    "suspended": _suspended,
    "start failed": _doomed,
    "broken off": _broke,
    "given up": _exhausted,
    "failed by fault": _http500,
}
