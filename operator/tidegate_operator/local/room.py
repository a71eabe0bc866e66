"""Which replicas the memory of this machine holds now, and who sleeps to make room: pure.

First come, first served, and a model's first replica before another's second. Whoever has to wait
for memory that comes free for certain reserves it: those after it get what it does not need. What
models in use hold may come free soon, so it is worth waiting for, but it reserves nothing; what
could not even then be enough is refused at once.

    5 GiB may be used, `a` holds 3.4 of them and was used a minute ago, `b` needs 3.6
      1.6 free: too little; 1.6 + 3.4 = 5.0 >= 3.6: `a` is put to sleep, `b` waits for it
    the same, but a request of `a` is under way, or was a moment ago
      `b` waits until nobody uses `a`, and `a` for nobody
    the same, but `a` is kept warm (minReplicas 1)
      1.6 is all there will be: `b` is refused
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from tidegate_operator.capacity import GiveWay, fewest

Use = Literal["idle", "used", "kept"]
"""`used`: somebody uses it, waits for it or may; `kept`: it runs whether it is used or not."""


class Ask(NamedTuple):
    """A model that wants `wanted` more replicas of `need` bytes each, since `since`. `has`: replicas
    that it has."""

    deployment: str
    need: int
    wanted: int
    since: float
    has: int = 0


class Holder(NamedTuple):
    """A model whose engines hold memory. `size`: what comes free when they go, in bytes; `leaving`:
    what comes free by itself, because engines of it go already."""

    deployment: str
    size: int
    leaving: int
    last_used: float
    use: Use


class Wait(NamedTuple):
    """Why there is no memory for a replica now. `leaving`: `who` goes, some of them for its sake;
    `used`: it may come when nobody uses `who`; `never`: nothing that ends would be enough."""

    kind: Literal["leaving", "used", "never"]
    who: tuple[str, ...] = ()


class Outcome(NamedTuple):
    """`granted`: replicas to start, by deployment. `waits`: those that did not get all they want.
    `gives`: who is to be put to sleep, for whom."""

    granted: Mapping[str, int]
    waits: Mapping[str, Wait]
    gives: tuple[GiveWay, ...]


def decide(
    asks: Iterable[Ask], holders: Sequence[Holder], free: int, minimum_idle: float, now: float
) -> Outcome:
    """Who gets how many replicas, and who waits for what. `free`: bytes that nobody has or was
    promised; `minimum_idle`: how many seconds an idle model is left alone after its last use."""
    known = list(asks)
    asking = {one.deployment for one in known}
    able = [one for one in holders if one.deployment not in asking]
    round_ = _Round(holders, able, free, minimum_idle, now)
    granted: dict[str, int] = {}
    waits: dict[str, Wait] = {}
    for ask in sorted(known, key=lambda one: (one.has > 0, one.since, one.deployment)):
        for _ in range(ask.wanted):
            wait = round_.look_at(ask)
            if wait is not None:
                waits[ask.deployment] = wait
                break
            granted[ask.deployment] = granted.get(ask.deployment, 0) + 1
    return Outcome(granted, waits, tuple(round_.gives))


class _Round:
    """One pass over the asks. `able`: the holders that ask for nothing themselves. `_now`: free now; `_soon`: once all that goes is gone, without what
    is reserved."""

    def __init__(
        self,
        holders: Sequence[Holder],
        able: Sequence[Holder],
        free: int,
        minimum_idle: float,
        now: float,
    ) -> None:
        self.gives: list[GiveWay] = []
        self._holders = sorted(holders, key=_oldest)
        self._now = free
        self._soon = free + sum(one.leaving for one in holders)
        self._going = [one.deployment for one in self._holders if one.leaving]
        self._idle = [
            one
            for one in sorted(able, key=_oldest)
            if one.use == "idle" and one.size and now - one.last_used >= minimum_idle
        ]

    def look_at(self, ask: Ask) -> Wait | None:
        """Grants one replica, or says what it waits for."""
        if ask.need <= min(self._now, self._soon):
            self._now -= ask.need
            self._soon -= ask.need
            return None
        if ask.need > self._soon:
            self._make_room(ask)
        if ask.need <= self._soon:
            self._soon -= ask.need
            return Wait("leaving", tuple(self._going))
        maybe = [
            one
            for one in self._holders
            if one.use != "kept"
            and one.size
            and one.deployment not in {ask.deployment, *self._gone()}
        ]
        if ask.need <= self._soon + sum(one.size for one in maybe):
            return Wait("used", tuple(sorted(one.deployment for one in maybe)))
        return Wait("never")

    def _gone(self) -> set[str]:
        return {one.victim for one in self.gives}

    def _make_room(self, ask: Ask) -> None:
        """Has idle models go, as few as are enough; none, where all are not enough."""
        for one in fewest(
            self._idle, lambda some: self._soon + sum(x.size for x in some) >= ask.need
        ):
            self.gives.append(GiveWay(one.deployment, ask.deployment))
            self._idle.remove(one)
            self._going.append(one.deployment)
            self._soon += one.size


def _oldest(one: Holder) -> tuple[float, str]:
    return one.last_used, one.deployment
