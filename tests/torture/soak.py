"""The soak: `tidegate up` under random changes, kills, aborts and cold starts, all from one seed.

    make test-long ARGS="--part soak --seed 3 --minutes 30"     five sim models and SmolLM2
    make test-long ARGS="--part soak --minutes 10 --no-real"    without the real vLLM

It plays the plan (`soaking.plan`) round by round, brings everything to rest after each, and judges:
each request by itself (`soaking.judge`), the numbers (`soaking.numbers`), and what processes hold
(`soaking.flat`). One JSON line on stdout, a table on stderr; the exit status is 1 on any defect.
"""

import argparse
import datetime as dt
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

from soaking import documents, flat, judge, numbers
from soaking.callers import Callers
from soaking.flat import Quiet
from soaking.plan import Kind, Round, Soak, rounds, soak
from soaking.stage import Stage

import running

Say = Callable[[str], None]


@dataclass
class Report:
    """What a soak has come to. `longest`: seconds until the whole answer that took longest; `wrong`:
    every defect, in words."""

    seed: int
    seconds: float = 0.0
    rounds: int = 0
    fates: Counter[str] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)
    cold_starts: int = 0
    engines: int = 0
    heartbeats: int = 0
    retried: int = 0
    tokens: int = 0
    longest: float = 0.0
    quiets: list[Quiet] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """The one line."""
        made = {**vars(self), "requests": self.fates.total(), "quiets": len(self.quiets)}
        return {**made, "flat": flat.figures(self.quiets)}


class Player:
    """Plays a plan on a running platform."""

    def __init__(self, up: running.Platform, folder: Path, plan: Soak, say: Say) -> None:
        self.report = Report(plan.seed)
        self._plan, self._say = plan, say
        self._up, self._stage, self._folder = up, Stage(up, folder, plan), folder.parent
        self._callers = Callers(self._stage.bases, self._stage.keys)
        self._month = _month()

    def play(self) -> Report:
        """All rounds, then the judgement."""
        began = time.time()
        try:
            for number, one in enumerate(self._plan.rounds):
                self._say(f"{time.time() - began:.0f} s: round {number}, {one.kind}")
                self._round(one)
                self.report.quiets.append(self._quiet(one))
                self.report.rounds += 1
                self._say(_quiet_line(self.report.quiets[-1]))
        except AssertionError as error:
            self.report.wrong.append(f"the soak ended early: {error}")
        finally:
            self._callers.close()
            self._stage.close()
            self.report.seconds = round(time.time() - began, 1)
            self._judge()
            self._keep()
        return self.report

    def _round(self, one: Round) -> None:
        began = time.monotonic()
        self._callers.play(one.asks)
        due = list(one.acts)
        while due or time.monotonic() - began < one.seconds:
            now = time.monotonic() - began
            while due and due[0].at <= now:
                self._stage.act(due.pop(0))
            self._stage.look()
            following = due[0].at if due else one.seconds
            time.sleep(min(0.25, max(0.0, following - (time.monotonic() - began))))
        self._stage.settle(one.restore, self._callers)

    def _quiet(self, one: Round) -> Quiet:
        left = sum(seen.left for seen in self._callers.seen)
        return flat.look(self._up, one.kind, self._cold_starts(), left, self._plan.rest)

    def _cold_starts(self) -> int:
        return len(self._up.operator("/api/v1/cold-starts")["data"])

    def _judge(self) -> None:
        report, seen = self.report, self._callers.seen
        attempts = numbers.attempts(self._up.data)
        verdict = judge.judge(seen, self._stage.moments, attempts)
        report.fates, report.actions = verdict.fates, self._stage.done
        answered = [one.ended - one.sent for one in seen if one.whole]
        report.longest = round(max(answered, default=0.0), 1)
        report.heartbeats = sum(one.heartbeats for one in seen)
        report.retried = len({a.number for a in attempts if a.reason == "retry"})
        report.engines = len({a.replica for a in attempts})
        report.tokens = sum(a.completion for a in attempts if a.billed)
        report.wrong += verdict.wrong + self._stage.wrong + list(flat.wrong(report.quiets))
        if report.quiets:
            report.cold_starts = report.quiets[-1].cold_starts
        if report.rounds == len(self._plan.rounds):  # else it is not at rest
            months = dict.fromkeys([self._month, _month()])
            report.wrong += numbers.wrong(self._up, seen, self._stage.killed, months)

    def _keep(self) -> None:
        """Everything that was seen and done, for whoever has to explain a defect."""
        lines = [{"seen": vars(one)} for one in self._callers.seen]
        lines += [{"moment": vars(one)} for one in self._stage.moments]
        lines += [{"served": one} for one in self._stage.witnessed]
        text = "\n".join(json.dumps(one, default=tuple) for one in lines)
        (self._folder / "soak.ndjson").write_text(text + "\n")


def _month() -> str:
    return f"{dt.datetime.now(dt.UTC):%Y-%m}"


def _quiet_line(quiet: Quiet) -> str:
    held = "  ".join(f"{p.name}: {p.fds} fds {p.kib // 1024} MiB" for p in quiet.processes)
    return f"    quiet: {held}; {quiet.cold_starts} cold starts"


@contextmanager
def played(folder: Path, plan: Soak, say: Say) -> Iterator[Report]:
    """The report of a plan, played on a platform of its own; what `up` said is in `folder`."""
    followed = folder / "models"
    followed.mkdir()
    for name, specs in plan.base.items():
        (followed / name).write_text(documents.text(specs))
    own = documents.REAL_DOCUMENT if plan.real else "# no models\n"
    flags = ("-f", str(followed), "--routers", "2")
    with running.platform(folder, own, *flags) as up:
        yield Player(up, followed, plan, say).play()


def table(report: Report) -> str:
    """For people."""
    first_line = (
        f"seed {report.seed}, {report.seconds:.0f} s, {report.rounds} rounds, {report.engines} engines,"
        f" {report.cold_starts} cold starts, {report.retried} requests retried,"
        f" {report.tokens} tokens billed, the longest answer took {report.longest} s"
    )
    lines = [
        first_line,
        "requests: " + _counts(report.fates),
        "actions: " + _counts(report.actions),
    ]
    if report.quiets:
        lines.append("process      fds  threads  MiB   (first quiet state -> last)")
        first, last = (
            {one.name: one for one in quiet.processes}
            for quiet in (report.quiets[0], report.quiets[-1])
        )
        for name in sorted({*first, *last}):
            a, b = first.get(name), last.get(name)
            if a is not None and b is not None:
                lines.append(
                    f"{name:10} {a.fds:4} -> {b.fds:<4} {a.threads:3} -> {b.threads:<3}"
                    f" {a.kib / 1024:6.1f} -> {b.kib / 1024:.1f}"
                )
        lines.append(f"journals {report.quiets[0].journal} -> {report.quiets[-1].journal} bytes")
    lines += [f"WRONG: {words}" for words in report.wrong]
    return "\n".join([*lines, "nothing is wrong" if not report.wrong else ""])


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.most_common())


def short(seed: int) -> Soak:
    """The short cut: three models, a minute."""
    kinds: Sequence[tuple[Kind, float]] = [("warm", 5), ("storm", 14), ("calm", 18)]
    return soak(seed, 3, list(kinds), rate=4)._replace(rest=0.6)


def say(words: str) -> None:
    """On stderr."""
    sys.stderr.write(f"{words}\n")
    sys.stderr.flush()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Soak `tidegate up`.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--models", type=int, default=5, help="sim models (default 5)")
    parser.add_argument("--rate", type=float, default=3.0, help="requests per second")
    parser.add_argument("--no-real", action="store_true", help="without SmolLM2 on the real vLLM")
    parser.add_argument("--short", action="store_true", help="the minute of `make test`")
    parser.add_argument("--keep", type=Path, help="a folder for what `up` and its parts said")
    chosen = parser.parse_args()
    plan = short(chosen.seed)
    if not chosen.short:
        plan = soak(
            chosen.seed,
            chosen.models,
            rounds(chosen.minutes),
            real=not chosen.no_real,
            rate=chosen.rate,
        )
    with tempfile.TemporaryDirectory(prefix="tidegate-soak-") as temporary:
        folder = chosen.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with played(folder, plan, say) as report:
            say(table(report))
            print(json.dumps(report.row()), flush=True)
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
