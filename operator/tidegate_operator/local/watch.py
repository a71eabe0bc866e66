"""`up -f` while it runs: looks at the files, judges what they say, and has the fleet go after it.

What is to be done is decided in `following`; what is at rest, in `files`. Here is the order of it:
look, read, judge, tell, act. A look is a thread's, because a file may lie on a network that hangs.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from tidegate_operator.local import files, following, resources
from tidegate_operator.local.files import Contents
from tidegate_operator.local.fleet import Fleet
from tidegate_operator.local.following import Held, Step
from tidegate_operator.local.options import Event
from tidegate_operator.local.plan import Plan
from tidegate_runtime.contract.resource import Parsed, Problem

LOOK_SECONDS: Final = 0.5
SOON_SECONDS: Final = 0.1
"""Between two looks while something has changed and is not at rest."""


def told(problem: Problem) -> Event:
    """A problem of a file, as an event."""
    return Event(
        ts=time.time(),
        event="error",
        message=str(problem),
        file=problem.file,
        line=problem.line,
        field=problem.field,
    )


class Follower:
    """Follows the paths of one `up`. `contents` and `held`: what it began with."""

    def __init__(
        self,
        paths: Iterable[Path],
        contents: Contents,
        held: Held,
        *,
        fleet: Fleet,
        cache: Path,
        report: Callable[[Event], None],
        python: Path | None = None,
    ) -> None:
        self._paths = [path for path in paths if path != files.STDIN]
        self._fleet, self._cache, self._report = fleet, cache, report
        self._python = python
        self._look, self._parsed = contents.look, dict(contents.parsed)
        self._held, self._running = held, following.resources(held)
        self._settling = files.Settling(contents.look.files)
        self._told: dict[str, tuple[Problem, ...]] = {}
        self._blind: dict[Path, float] = {}
        self._behind = False

    async def run(self) -> None:
        """Follows, until cancelled."""
        while self._paths:
            await asyncio.sleep(SOON_SECONDS if self._settling.moving else LOOK_SECONDS)
            self._look = await asyncio.to_thread(files.look, self._paths, self._look)
            rested = self._settling.rested(self._look.files, time.monotonic())
            there = [path for path in rested if path in self._look.files]
            if there:
                read = await asyncio.to_thread(
                    lambda some: [files.read(one) for one in some], there
                )
                self._parsed |= {
                    files.named(path): one for path, one in zip(there, read, strict=True)
                }
            for path in set(rested) - set(there):
                self._parsed.pop(files.named(path), None)
            self._judge(changed=bool(rested))

    def _judge(self, *, changed: bool) -> None:
        blind = self._unseen(time.monotonic())
        if not changed and not self._behind and blind.keys() == self._told_blind():
            return
        verdict = following.accept(self._in_order(), self._held)
        self._held = verdict.held
        problems = {**verdict.problems, **blind}
        here = {*verdict.held, *map(files.named, self._look.folders)}
        fresh, good = following.news(self._told, problems, here)
        self._told = problems
        for problem in fresh:
            self._report(told(problem))
        for name in good:
            message = f"{name}: nothing is wrong with it any more"
            self._report(Event(ts=time.time(), event="file", file=name, message=message))
        self._act()

    def _told_blind(self) -> set[str]:
        return {one for one in map(files.named, self._look.folders) if one in self._told}

    def _unseen(self, now: float) -> dict[str, tuple[Problem, ...]]:
        """Directories that cannot be read, and not for a moment only."""
        self._blind = {path: self._blind.get(path, now) for path in self._look.blind}
        return {
            files.named(path): (_blind(path, self._look.blind[path]),)
            for path, since in self._blind.items()
            if now - since >= files.GONE_SECONDS
        }

    def _in_order(self) -> dict[str, Parsed]:
        names = [files.STDIN_NAME, *map(files.named, self._look.files), *self._parsed]
        return {name: self._parsed[name] for name in names if name in self._parsed}

    def _act(self) -> None:
        wanted = following.resources(self._held)
        steps = following.steps(self._running, wanted)
        try:
            plans = [self._plan(step) for step in steps if step.kind != "remove"]
        except OSError as error:
            message = f"{error.filename}: {error.strerror}; the change is tried again"
            if not self._behind:
                self._report(Event(ts=time.time(), event="error", message=message))
            self._behind = True
            return
        self._behind = False
        self._running = wanted
        if steps:
            self._fleet.change(steps, plans)

    def _plan(self, step: Step) -> Plan:
        one = step.resource
        seen = resources.first_seen(self._fleet.site.data, [one.deployment], time.time())
        former = self._fleet.names(one.deployment)
        at = seen[one.deployment]
        return resources.plan(one, at, self._cache, former, python=self._python)


def _blind(path: Path, why: str) -> Problem:
    return Problem(files.named(path), 0, "", f"cannot be read: {why}; its models stay as they are")
