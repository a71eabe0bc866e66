"""A replica's life cut into cold start, serving and idle tail: pure, in whole milliseconds.

    begin ........ answered ..... used ... used ........................... end
    | cold start  | serving ............... | idle tail                     |

*Cold start* is from the start to the first answer. From then on a replica *serves* while requests
are in flight, and between two of them where no more than GAP_MS is between. All the rest is *idle
tail*: a silence that turns out longer than that belongs to the tail from the last request's end on.

Operators see a replica in moments, about one a second. What is between two of them was serving if
it was in use at one of its ends, or a request came meanwhile. That holds for a long time that
nobody watched as well, because a new operator knows no more of it. Whether a silence is short is
known GAP_MS later, so what is *settled* lags behind, and only that is told. Of a start that has
not been answered nothing is: a start that fails is nobody's.

A stretch ends with its minute, or with the life. Where a life was cut never matters: phases are
lengths of time, and lengths add up.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from tidegate_billing.links import ReplicaCounted, ReplicaTime

GAP_MS: Final = 10_000
"""A silence of up to so long is part of serving: people think, and agents run tools."""
MINUTE_MS: Final = 60_000
LONGEST_MS: Final = 86_400_000
"""What could not be told for so long is given up: who watches must not remember more and more."""
AT_ONCE: Final = 60
"""Stretches of one life that one report takes."""


class Span(NamedTuple):
    """A time in use."""

    begin: int
    end: int


class Stretch(NamedTuple):
    """A part of a life, and how long it was in which phase."""

    begin: int
    end: int
    cold_start: int
    serving: int
    idle_tail: int


class Life(msgspec.Struct, frozen=True):
    """What is known of one replica. Times are milliseconds since the epoch; 0: not yet.

    `seen`: the last moment that somebody looked, and `busy` whether it was in use then. `counted`:
    what is before needs not be told. `spans` are apart by more than GAP_MS, the first one begins
    with the answer; those that are counted are left out, but for the last."""

    begin: int
    seen: int
    counted: int
    answered: int = 0
    busy: bool = False
    spans: tuple[Span, ...] = ()
    ended: bool = False


def started(begin: int, now: int) -> Life:
    """A life that began at `begin`, and is met at `now`: what is too old by then is not told."""
    return Life(begin=begin, seen=begin, counted=max(begin, now - LONGEST_MS))


def answered(life: Life, at: int) -> Life:
    """It answered for the first time."""
    if life.answered or life.ended:
        return life
    at = max(at, life.begin)
    return replace(life, answered=at, seen=at, spans=(Span(at, at),))


def watched(life: Life, now: int, *, busy: bool, came: bool = False) -> Life:
    """Somebody looks: is it in use? `came`: it was since the last look, and may be no more."""
    if life.ended or now <= life.seen:
        return life
    if life.answered and (busy or came or life.busy):
        life = replace(life, spans=_used(life.spans, Span(life.seen, now)))
    return counted(replace(life, seen=now, busy=busy and bool(life.answered)), now - LONGEST_MS)


def ended(life: Life, at: int) -> Life:
    """It is gone."""
    return replace(watched(life, at, busy=False), busy=False, ended=True)


def counted(life: Life, until: int) -> Life:
    """What is before `until` has been told, or never will be."""
    if until <= life.counted:
        return life
    kept = [span for span in life.spans[:-1] if span.end > until]
    return replace(life, counted=until, spans=(*kept, *life.spans[-1:]))


def over(life: Life) -> bool:
    """Whether nothing will ever be told of it any more."""
    return life.ended and settled(life) <= life.counted


def settled(life: Life) -> int:
    """Up to when its phases cannot change any more."""
    if not life.answered:
        return life.counted
    if life.ended or life.busy:
        return life.seen
    last = life.spans[-1].end
    return life.seen if life.seen - last > GAP_MS else last


def cut(life: Life, most: int = AT_ONCE) -> list[Stretch]:
    """What is to be told now, oldest first."""
    last = settled(life)
    last = last if life.ended else last - last % MINUTE_MS
    found: list[Stretch] = []
    begin = life.counted
    while begin < last and len(found) < most:
        end = min(last, begin - begin % MINUTE_MS + MINUTE_MS)
        found.append(phases(life, begin, end))
        begin = end
    return found


def phases(life: Life, begin: int, end: int) -> Stretch:
    """The phases from `begin` to `end`, which are within the life and not counted yet."""
    cold = max(0, min(end, life.answered or end) - begin)
    serving = sum(max(0, min(end, span.end) - max(begin, span.begin)) for span in life.spans)
    return Stretch(begin, end, cold, serving, end - begin - cold - serving)


def _used(spans: tuple[Span, ...], one: Span) -> tuple[Span, ...]:
    """`one`, which begins no earlier than the last one ends, added or joined."""
    last = spans[-1]
    if one.begin - last.end <= GAP_MS:
        return (*spans[:-1], Span(last.begin, one.end))
    return (*spans, one)


class Whose(NamedTuple):
    """A replica and who pays for it: the tenant whose its deployment was when it began."""

    deployment: str
    epoch: str
    model: str
    owner: str


class Kept(msgspec.Struct, frozen=True):
    """A life as it can be written down. `heard`: billing has said how far it counts."""

    whose: Whose
    life: Life
    heard: bool = False


class Lives:
    """The replicas of one operator, by epoch. Times are seconds since the epoch, as everywhere in
    the operator; what is not known is passed over."""

    def __init__(self, kept: Iterable[Kept] = ()) -> None:
        self._kept = {one.whose.epoch: one for one in kept}

    def __contains__(self, epoch: str) -> bool:
        return epoch in self._kept

    def running(self) -> list[str]:
        """Epochs whose end has not been seen."""
        return [epoch for epoch, one in self._kept.items() if not one.life.ended]

    def kept(self) -> list[Kept]:
        """All of it, to be written down."""
        return list(self._kept.values())

    def begin(self, whose: Whose, at: float, now: float) -> None:
        """A replica was started at `at`."""
        if whose.epoch not in self._kept:
            self._kept[whose.epoch] = Kept(whose, started(_ms(at), _ms(now)))

    def answered(self, epoch: str, at: float) -> None:
        """A replica answered for the first time."""
        self._put(epoch, lambda life: answered(life, _ms(at)))

    def watched(self, epoch: str, now: float, *, busy: bool, came: bool = False) -> None:
        """A replica was looked at."""
        self._put(epoch, lambda life: watched(life, _ms(now), busy=busy, came=came))

    def ended(self, epoch: str, at: float) -> None:
        """A replica is gone."""
        self._put(epoch, lambda life: ended(life, _ms(at)))

    def abandoned(self) -> None:
        """Nobody watches these any more: they ended when they were last seen."""
        for epoch in list(self._kept):
            self._put(epoch, lambda life: ended(life, life.seen))

    def due(self) -> list[ReplicaTime]:
        """What billing should be told. Of a life that it has said nothing of yet one stretch is
        enough: where that is known already, the answer says where to go on."""
        return [
            ReplicaTime(**one.whose._asdict(), **stretch._asdict())
            for one in self._kept.values()
            for stretch in cut(one.life, AT_ONCE if one.heard else 1)
        ]

    def told(self, answers: Sequence[ReplicaCounted]) -> None:
        """Billing's answer to what was due."""
        for answer in answers:
            if (one := self._kept.get(answer.epoch)) is not None:
                life = counted(one.life, answer.until)
                self._kept[answer.epoch] = Kept(one.whose, life, heard=True)
                self._drop(answer.epoch)

    def _put(self, epoch: str, change: Callable[[Life], Life]) -> None:
        one = self._kept.get(epoch)
        if one is not None:
            life = change(one.life)
            if life is not one.life:
                self._kept[epoch] = replace(one, life=life)
                self._drop(epoch)

    def _drop(self, epoch: str) -> None:
        if over(self._kept[epoch].life):
            del self._kept[epoch]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
