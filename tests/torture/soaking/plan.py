"""What a soak does and when: all of it from one seed, before anything is started. Pure.

A soak is a row of rounds, and everything is quiet between two of them. A *storm* has everything in
it; a *calm* kills neither routers nor billing, so that what they leak from one quiet state to the
next is seen. Each round ends with the files as they were in the beginning.
"""

import random
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from soaking import documents
from soaking.documents import REAL, Files, Spec

FAULTS = (
    *("refuse@1", "refuse@2", "refuse", "http500@1", "http500", "slow"),
    *("malformed@0", "malformed@4", "crash@0", "crash@6", "hang", "hang@3"),
)
"""What sim engines are told to do wrong."""
CLEARED_AFTER = (0.8, 2.5)
ROUTERS = ("router", "router-2")
TENANTS = ("ant", "bee", "cow")
Kind = Literal["warm", "storm", "calm"]


class Ask(NamedTuple):
    """One request. It leaves after so many seconds without an answer's begin (`leave_held`) or
    after so many tokens (`leave_after`), where these are not None."""

    at: float
    number: int
    router: int
    tenant: str
    model: str
    stream: bool
    words: int
    tokens: int
    leave_held: float | None = None
    leave_after: int | None = None


class Act(NamedTuple):
    """Something that is done to the platform. `target`: a part, or the name of a model; `pick`:
    which of its engines. `writes`: contents of files by name, None removes one. `names`: what is
    served once they are in force; `suspended`, `doomed`: names that then answer with an error."""

    at: float
    kind: str
    target: str = ""
    detail: str = ""
    pick: int = 0
    writes: tuple[tuple[str, str | None], ...] = ()
    names: frozenset[str] = frozenset()
    suspended: frozenset[str] = frozenset()
    doomed: frozenset[str] = frozenset()


class Round(NamedTuple):
    """What happens between two quiet states; times count from its begin, in seconds."""

    kind: Kind
    seconds: float
    asks: tuple[Ask, ...]
    acts: tuple[Act, ...]
    restore: Act


class Soak(NamedTuple):
    """The whole of it. `base`: the files in every quiet state; `rest`: seconds to look at one."""

    seed: int
    base: Files
    real: bool
    rounds: tuple[Round, ...]
    rest: float = 7.0


def soak(
    seed: int, models: int, kinds: list[tuple[Kind, float]], *, real: bool = False, rate: float = 3
) -> Soak:
    """The plan. `kinds`: the rounds and their seconds; `rate`: requests per second."""
    rng = random.Random(seed)
    base = _base(rng, models)
    rounds, number = [], 0
    for kind, seconds in kinds:
        made = _Round(rng, base, kind, seconds, real=real, rate=rate, first=number)
        rounds.append(made.made())
        number += len(rounds[-1].asks)
    return Soak(seed, base, real, tuple(rounds))


def rounds(minutes: float) -> list[tuple[Kind, float]]:
    """Rounds for so long a soak, quiet times left out: every second one is a calm."""
    left, found = minutes * 60, list[tuple[Kind, float]]([("warm", 15)])
    while left > 0:
        found.append(("storm" if len(found) % 2 else "calm", 75))
        left -= 90  # with what it takes to become quiet
    return found if found[-1][0] == "calm" else [*found, ("calm", 75)]


def _base(rng: random.Random, models: int) -> Files:
    files: dict[str, list[Spec]] = {}
    for number in range(models):
        one = Spec(
            name=f"m{number}",
            served=f"m{number}",
            start_ms=rng.choice([0, 100, 300, 800, 1800]),
            ttft_ms=rng.choice([2, 10, 40]),
            rate=rng.choice([40, 80, 160]),
            idle=rng.choice([1, 1, 2, 3]),
            replicas=rng.choice([1, 1, 2, 3]),
            target=rng.choice([2, 4, 16]),
            surge=rng.choice([1, 1, 1, 0]),
        )
        files.setdefault(f"f{number // 2}.yaml", []).append(one)
    return {file: tuple(specs) for file, specs in files.items()}


class _Round:
    """One round in the making."""

    def __init__(
        self,
        rng: random.Random,
        base: Files,
        kind: Kind,
        seconds: float,
        *,
        real: bool,
        rate: float,
        first: int,
    ) -> None:
        self._rng, self._base, self._kind, self._seconds = rng, base, kind, seconds
        self._real, self._rate, self._first = real, rate, first
        self._files = dict(base)
        self._locked: set[str] = set()  # files and models with a mate of their edit to come
        self._later: list[tuple[float, Callable[[float], Act]]] = []
        self._changes = 0
        self._hot: list[str] = []
        self._window = -1

    def made(self) -> Round:
        """The round."""
        acts: list[Act] = []
        asks: list[Ask] = []
        # Calls and deeds are drawn in the order of their times, for a call needs a name of then.
        due = sorted([*self._times("ask", self._rate), *self._deeds()])
        for at, what in due:
            acts += self._mates(at)
            if what == "ask":
                asks.append(self._ask(at, self._first + len(asks)))
            elif (act := self._act(at, what)) is not None:
                acts.append(act)
        writes = [(file, None) for file in self._touched(acts) if file not in self._base]
        writes += [(file, documents.text(specs)) for file, specs in self._base.items()]
        restore = Act(
            self._seconds, "restore", writes=tuple(writes), names=documents.names(self._base)
        )
        return Round(self._kind, self._seconds, tuple(asks), tuple(acts), restore)

    @staticmethod
    def _touched(acts: list[Act]) -> list[str]:
        return sorted({file for act in acts for file, _ in act.writes})

    def _times(self, what: str, per_second: float) -> Iterator[tuple[float, str]]:
        at = self._rng.expovariate(per_second) if per_second else self._seconds
        while at < self._seconds:
            yield round(at, 3), what
            at += self._rng.expovariate(per_second)

    def _deeds(self) -> Iterator[tuple[float, str]]:
        yield from self._times("sleep", 0.15)
        yield from self._times("wake", 0.1)
        if self._kind == "warm":
            return
        yield from self._times("edit", 0.5)
        yield from self._times("kill-engine", 0.2)
        yield from self._times("fault", 0.3)
        if self._kind == "storm":
            # Each of them once at least, for a short storm is one, too.
            for what in ("kill-router", "kill-billing"):
                yield self._rng.uniform(0.2, 0.7) * self._seconds, what
                yield from self._times(what, 1 / 40)

    def _mates(self, at: float) -> list[Act]:
        due = sorted([one for one in self._later if one[0] <= at], key=lambda one: one[0])
        self._later = [one for one in self._later if one[0] > at]
        return [make(when) for when, make in due]

    # Requests

    def _ask(self, at: float, number: int) -> Ask:
        rng = self._rng
        tokens = rng.choice([1, 2, 5, 8, 8, 16, 16, 40, 40, 90, 150])
        stream = rng.random() < 0.65
        model = self._asked(at)
        if model == REAL:
            tokens = min(tokens, 16)
        held = rng.uniform(0.01, 0.6) if rng.random() < 0.08 else None
        after = rng.randint(0, tokens) if stream and rng.random() < 0.3 else None
        return Ask(
            at,
            number,
            rng.randrange(len(ROUTERS)),
            rng.choice(TENANTS),
            model,
            stream,
            rng.randint(1, 30),
            tokens,
            held,
            after,
        )

    def _asked(self, at: float) -> str:
        """A name: mostly one of two that are asked for just now, so that the others fall asleep."""
        rng = self._rng
        served = sorted(documents.names(self._files))
        if self._real and rng.random() < 0.06:
            return REAL
        if rng.random() < 0.03:
            return rng.choice([f"m{rng.randrange(9)}", f"m{rng.randrange(9)}-new", "nobody"])
        if int(at / 3) != self._window or not set(self._hot) <= set(served):
            self._window = int(at / 3)
            self._hot = rng.sample(served, min(rng.choice([1, 2]), len(served)))
        return rng.choice(self._hot if rng.random() < 0.8 else served)

    # What is done

    def _act(self, at: float, what: str) -> Act | None:
        rng = self._rng
        if what == "edit":
            return self._edit(at)
        if what == "kill-router":
            return Act(at, what, rng.choice(ROUTERS))
        if what == "kill-billing":
            return Act(at, what, "billing")
        names = sorted(documents.names(self._files))
        if self._real and what == "kill-engine" and rng.random() < 0.1:
            return Act(at, what, REAL)
        busy = sorted(set(self._hot) & set(names))
        if busy and rng.random() < 0.8:  # an engine that sleeps cannot be hurt
            names = busy
        detail = rng.choice(FAULTS) if what == "fault" else ""
        act = Act(at, what, rng.choice(names), detail, rng.randrange(8))
        if what == "fault" and not detail.startswith("hang"):  # that one is found out, and replaced
            self._mate(at, CLEARED_AFTER, lambda when: act._replace(at=when, kind="clear"))
        return act

    def _mate(self, at: float, within: tuple[float, float], make: Callable[[float], Act]) -> None:
        self._later.append((at + self._rng.uniform(*within), make))

    def _edit(self, at: float) -> Act | None:
        edits = {
            "roll": 4,
            "scale": 3,
            "price": 2,
            "rename": 2,
            "name": 2,
            "add": 2,
            "remove": 2,
            "break": 2,
            "doom": 1,
            "suspend": 1,
            "move": 1,
        }
        kind = self._rng.choices(list(edits), list(edits.values()))[0]
        if kind == "add":
            return self._add(at)
        free = [
            (file, one)
            for file, specs in self._files.items()
            for one in specs
            if file not in self._locked and one.name not in self._locked
        ]
        if not free:
            return None
        file, one = self._rng.choice(free)
        if kind == "break":
            return self._break(at, file)
        if kind == "move":
            return self._move(at, file, one)
        if kind == "remove":
            return self._remove(at, file, one)
        return self._change(at, kind, file, one)

    def _change(self, at: float, kind: str, file: str, one: Spec) -> Act:
        """An edit of one model in its place; doom and suspend are undone later."""
        rng = self._rng
        self._changes += 1
        changed = {
            "roll": lambda: one._replace(ttft_ms=one.ttft_ms + self._changes),
            "scale": lambda: one._replace(
                idle=rng.choice([1, 2, 4]), replicas=rng.randint(1, 3), target=rng.choice([2, 8])
            ),
            "price": lambda: one._replace(price=rng.randint(1, 60)),
            "rename": lambda: one._replace(name=_other(one.name)),
            "name": lambda: one._replace(served=_other(one.served)),
            "doom": lambda: one._replace(doomed=True),
            "suspend": lambda: one._replace(suspend=True),
        }[kind]()
        self._put(file, one, changed)
        if kind in {"doom", "suspend"}:
            self._locked.add(one.name)

            def undo(when: float) -> Act:
                now = next(key for key, specs in self._files.items() if changed in specs)
                self._put(now, changed, one)
                self._locked.discard(one.name)
                return self._edited(when, f"un{kind}", one.name, [now])

            self._mate(at, (1.5, 5.0), undo)
        return self._edited(at, kind, one.name, [file])

    def _put(self, file: str, old: Spec, *new: Spec) -> None:
        specs = list(self._files[file])
        place = specs.index(old)
        specs[place : place + 1] = new
        self._files[file] = tuple(specs)

    def _add(self, at: float) -> Act | None:
        here = documents.names(self._files)
        known = {one.name for specs in self._files.values() for one in specs}
        missing = [f"m{n}" for n in range(9) if f"m{n}" not in known and f"m{n}" not in here]
        missing = [name for name in missing if _other(name) not in known | here]
        if not missing or len(here) > 7:
            return None
        name = self._rng.choice(missing[:2])
        file = f"x-{name}.yaml"
        if file in self._files:
            return None
        self._files[file] = (Spec(name, name, idle=1),)
        return self._edited(at, "add", name, [file])

    def _remove(self, at: float, file: str, one: Spec) -> Act | None:
        if len(documents.names(self._files)) < 2:
            return None
        self._put(file, one)
        if not self._files[file]:
            del self._files[file]
        return self._edited(at, "remove", one.name, [file])

    def _move(self, at: float, file: str, one: Spec) -> Act | None:
        others = [name for name in self._files if name != file and name not in self._locked]
        if not others:
            return None
        other = self._rng.choice(others)
        self._put(file, one)
        if not self._files[file]:
            del self._files[file]
        self._files[other] = (*self._files[other], one)
        return self._edited(at, "move", one.name, [other, file])

    def _break(self, at: float, file: str) -> Act:
        """A broken file, with another change in it that must not be taken; and its repair."""
        specs = self._files[file]
        wrong = documents.broken(
            [one._replace(ttft_ms=one.ttft_ms + 500) for one in specs],
            syntax=self._rng.random() < 0.5,
        )
        self._locked.add(file)

        def repair(when: float) -> Act:
            self._locked.discard(file)
            return self._edited(when, "repair", file, [file])

        self._mate(at, (1.0, 4.0), repair)
        return self._edited(at, "break", file, [])._replace(writes=((file, wrong),))

    def _edited(self, at: float, kind: str, target: str, files: list[str]) -> Act:
        writes = tuple(
            (file, documents.text(self._files[file]) if file in self._files else None)
            for file in files
        )
        every = [one for specs in self._files.values() for one in specs]
        return Act(
            at,
            f"edit-{kind}",
            target,
            writes=writes,
            names=documents.names(self._files),
            suspended=frozenset(one.served for one in every if one.suspend),
            doomed=frozenset(one.served for one in every if one.doomed),
        )


def _other(name: str) -> str:
    """Another name, and the way back."""
    return name.removesuffix("-new") if name.endswith("-new") else f"{name}-new"
