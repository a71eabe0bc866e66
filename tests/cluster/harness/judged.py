"""What a run under load came to: callers' transcripts, the ledger and the engines' truth, compared.

Pure. A request is one of

    answered   all of its answer came, word for word
    broken     a stream that had begun was ended by an error in it, which said so
    cut        its connection was lost: the router was killed, with nobody left to tell
    failed     anything else

and each attempt an engine knows of is in the ledger once:

    answered   one billed settlement, prompt and completion as asked for, as received, as generated
    broken or cut   at most one billed settlement: received <= billed <= generated
    otherwise  settled unbilled, for a reason that has a name
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .load import Asked, Told

Outcome = Literal["answered", "broken", "cut", "failed"]


@dataclass(frozen=True)
class Moment:
    """Something that was done to the platform; `ended`: when it was over for it. `kills`: who was
    under way then may see a broken or a cut answer. `first`: before it nobody asked for anything."""

    name: str
    begun: float
    ended: float = 0.0
    kills: bool = False
    first: bool = False

    def meets(self, asked: Asked) -> bool:
        """Whether a request was under way in it."""
        return asked.sent <= self.ended and self.begun <= asked.done


@dataclass
class Judgement:
    """The numbers of a run, and what is wrong in words. `spanned`: per event, long streams that were
    under way when it began."""

    outcomes: Counter[str] = field(default_factory=Counter)
    long_streams: int = 0
    spanned: dict[str, int] = field(default_factory=dict)
    billed_tokens: int = 0
    generated_tokens: int = 0
    longest_gap: float = 0.0
    wrong: list[str] = field(default_factory=list)


def outcome(asked: Asked) -> Outcome:
    """Which of the four a request is."""
    if not asked.error:
        return "answered"
    if asked.in_band and asked.first:
        return "broken"
    lost = ("RemoteProtocolError", "ReadError", "ConnectError")
    return "cut" if asked.error.startswith(lost) else "failed"


def judge(
    asked: Sequence[Asked],
    ledger: Iterable[Mapping[str, Any]],
    truth: Mapping[str, Told],
    moments: Sequence[Moment],
    long_seconds: float = 10.0,
    mute: Collection[str] = (),
) -> Judgement:
    """Compare all three. `ledger`: settlements of the load's models, probes among them. `mute`: uids of
    pods whose engines tell no truth; what they did is compared by callers and conservation alone."""
    made = Judgement()
    settled: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in ledger:
        settled[row["request_id"]].append(row)
    for one in asked:
        kind = outcome(one)
        made.outcomes[kind] += 1
        made.longest_gap = max(made.longest_gap, one.gap)
        killed = any(moment.kills and moment.meets(one) for moment in moments)
        if kind in {"broken", "cut"} and not killed:
            made.wrong.append(f"{one.request_id or '(no id)'}: {kind}, though nothing was killed")
        if kind == "failed":
            made.wrong.append(f"{one.request_id or '(no id)'} failed: {one.error[:300]}")
        made.wrong += _billed(one, kind, settled.get(one.request_id, []), truth)
    attempts = [one for found in settled.values() for one in found]
    made.wrong += _closed(attempts, truth, mute)
    made.billed_tokens = sum(a["completion_tokens"] for a in attempts if a["billed"])
    made.generated_tokens = sum(told.generated_tokens for told in truth.values())
    long = [one for one in asked if one.stream and one.last - one.first >= long_seconds]
    made.long_streams = len(long)
    for moment in moments:
        spanned = sum(s.first < moment.begun < s.last for s in long)
        made.spanned[moment.name] = spanned
        if not spanned and not moment.first:
            made.wrong.append(f"no long stream was under way at: {moment.name}")
    return made


def _billed(
    asked: Asked, kind: Outcome, found: Sequence[Mapping[str, Any]], truth: Mapping[str, Told]
) -> list[str]:
    bills = [one for one in found if one["billed"]]
    name = f"{asked.request_id} ({kind})"
    if kind == "failed":
        return [f"{name} was billed"] if bills else []
    if kind == "answered":
        told = [(b["prompt_tokens"], b["completion_tokens"]) for b in bills]
        want = (asked.prompt, asked.tokens)
        return [] if told == [want] else [f"{name}: billed {told}, not {want} once"]
    if len(bills) > 1 or (asked.received and not bills):
        return [f"{name}: {len(bills)} bills"]
    wrong = []
    for bill in bills:
        made = truth.get(bill["attempt_id"])  # where it is missing, `_closed` says so
        generated = made.generated_tokens if made else bill["completion_tokens"]
        if not asked.received <= bill["completion_tokens"] <= generated:
            count = bill["completion_tokens"]
            wrong.append(f"{name}: received {asked.received}, billed {count}, made {generated}")
    return wrong


def _closed(
    attempts: Sequence[Mapping[str, Any]], truth: Mapping[str, Told], mute: Collection[str]
) -> list[str]:
    """Every attempt that an engine knows of is settled once, with what it generated."""
    wrong = []
    counts = Counter(one["attempt_id"] for one in attempts)
    wrong += [f"attempt {one} is settled {n} times" for one, n in counts.items() if n > 1]
    wrong += [f"attempt {one} is in no ledger" for one in truth.keys() - counts.keys()]
    for one in attempts:
        if not one["billed"] and not one["reason"]:
            wrong.append(f"attempt {one['attempt_id']} is not billed, and nobody says why")
        told = truth.get(one["attempt_id"])
        if told is None:
            pod = str(one["replica"]).partition(".")[0]
            if one["completion_tokens"] and pod not in mute:
                wrong.append(f"attempt {one['attempt_id']} has tokens that no engine made")
        elif one["outcome"] == "completed":
            if told.generated_tokens != one["completion_tokens"]:
                wrong.append(
                    f"attempt {one['attempt_id']}: {one['completion_tokens']} in the ledger, "
                    f"{told.generated_tokens} generated"
                )
        elif one["completion_tokens"] > told.generated_tokens:
            wrong.append(f"attempt {one['attempt_id']}: more in the ledger than was generated")
    return wrong
