"""A thousand models, measured: `make test-scale ARGS="--models 1000 --minutes 5 --json"`.

A real control plane, pods that kwok plays, and operator, router and billing as plain processes,
each with what it used and what it asked the API server (by its audit log) in each phase:

    create   every resource at once, until each is reconciled and its pods answer
    steady   one status change per model per minute
    quiet    nothing changes
    restart  the operator is ended and started anew

The exit status is 1 where a resource was never reconciled, a model is not as it should be, or the
operator wrote where nothing had changed. What a part costs depends on the machine and is only told.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from harness import audit, crowd, simulated
from harness.crowding import Crowd
from harness.layout import Cluster
from harness.plain import Plain, Usage, user

from tidegate_runtime.contract.cluster import ANSWERED

NODES: Final = 20
ROOM: Final = 1000
PARTS: Final = ("operator", "router", "billing", "apiserver", "etcd", "kwok")
OPERATOR: Final = user("operator")
QUIET_WRITES: Final = 0.01
"""Writes per model in the quiet phase, and after a restart, that are still called none."""


class Cost(NamedTuple):
    """What a process used in a phase: percent of a core; MiB at its end and at most so far."""

    core: float
    rss: float
    peak: float


@dataclass(frozen=True)
class Phase:
    """A phase, and the operator's requests in it: per second by verb, and writes by kind."""

    seconds: float
    costs: dict[str, Cost]
    per_second: dict[str, float]
    writes: dict[str, int]

    @property
    def written(self) -> int:
        """All writes besides those of the Lease."""
        return sum(self.writes.values())


@dataclass
class Report:
    """What came of a run. `times` in seconds by name; `wrong`: what went wrong."""

    models: int
    pods: int
    seed: int
    times: dict[str, float] = field(default_factory=dict)
    phases: dict[str, Phase] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def judge(self) -> None:
        """Enter what is wrong with the figures."""
        bound = self.models * QUIET_WRITES
        for name in ("quiet", "restart"):
            if (phase := self.phases.get(name)) is not None and phase.written > bound:
                self.wrong.append(
                    f"{phase.written} writes in the phase {name}, {bound:.0f} allowed: {phase.writes}"
                )

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        phases = {
            name: {
                "seconds": round(one.seconds, 1),
                "costs": {part: cost._asdict() for part, cost in one.costs.items()},
                "queries_per_second": one.per_second,
                "writes": one.writes,
            }
            for name, one in self.phases.items()
        }
        return {
            "version": 1, "models": self.models, "pods": self.pods, "seed": self.seed,
            "seconds": self.times, "phases": phases, "wrong": self.wrong,
        }  # fmt: skip

    def as_text(self) -> str:
        """For people."""
        lines = [f"{self.models} models, {self.pods} pods, seed {self.seed}", ""]
        lines += [f"{name.replace('_', ' '):<44}{at:>10.2f} s" for name, at in self.times.items()]
        for name, phase in self.phases.items():
            lines += ["", f"{name}: {phase.seconds:.0f} s"]
            lines += [
                f"  {part:<12}{cost.core:>7.1f} % of a core{cost.rss:>8.0f} MiB, peak {cost.peak:.0f}"
                for part, cost in phase.costs.items()
            ]
            asked = ", ".join(f"{verb} {rate}" for verb, rate in phase.per_second.items())
            lines.append(f"  operator's queries per second: {asked or 'none'}")
            lines.append(f"  operator's writes: {phase.written} {phase.writes or ''}")
        return "\n".join([*lines, *(f"WRONG: {one}" for one in self.wrong)])


# --- phases -------------------------------------------------------------------------------------


class Bench:
    """One run on one cluster."""

    def __init__(self, cluster: Cluster, report: Report, rest: float) -> None:
        self.cluster, self.report, self.rest = cluster, report, rest
        self.plain = Plain(cluster)
        self.crowd = Crowd(cluster, report.models)
        assert cluster.audit_log is not None
        self.log = cluster.audit_log

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What is used and asked inside is a phase of the report."""
        offset, begin, before = self.log.stat().st_size, time.time(), self.plain.usage()
        yield
        end, after = time.time(), self.plain.usage()
        found = crowd.asked(audit.events(self.log, OPERATOR, start=offset), OPERATOR, begin, end)
        seconds = end - begin
        verbs: dict[str, int] = {}
        for (verb, _), n in found.items():
            verbs[verb] = verbs.get(verb, 0) + n
        self.report.phases[name] = Phase(
            seconds,
            {part: _cost(before.get(part), after[part], seconds) for part in PARTS},
            {verb: round(n / seconds, 2) for verb, n in sorted(verbs.items())},
            {f"{v} {what}": n for (v, what), n in sorted(crowd.writes(found).items())},
        )
        print(f"scale: {name} took {seconds:.0f} s", file=sys.stderr)

    def settled(self, limit: float = 300.0) -> None:
        """Wait until the operator has written nothing for `rest` seconds."""
        until = time.monotonic() + limit
        while time.monotonic() < until:
            offset, begin = self.log.stat().st_size, time.time()
            time.sleep(self.rest)
            found = audit.events(self.log, OPERATOR, start=offset)
            if not crowd.writes(crowd.asked(found, OPERATOR, begin, time.time())):
                return
        self.report.wrong.append(f"the operator did not come to rest within {limit:.0f} s")

    def complete(self, limit: float) -> bool:
        """Wait until the operator knows every model with every replica as it should be."""
        until = time.monotonic() + limit
        while time.monotonic() < until:
            said = self.plain.metrics("operator")
            if (
                said["tidegate_operator_leading"] == 1
                and said["tidegate_operator_resources"] == self.report.models
                and said["tidegate_operator_queue_depth"] == 0
                and said.get("tidegate_replicas_desired") == self.report.pods
                and said.get("tidegate_replicas_ready") == self.report.pods
            ):
                return True
            time.sleep(1.0)
        self.report.wrong.append(
            f"not every model was as it should be within {limit:.0f} s: {said}"
        )
        return False


def _cost(before: Usage | None, after: Usage, seconds: float) -> Cost:
    # One that was started anew in between has used what it has since then.
    begun = before.cpu if before is not None and before.cpu <= after.cpu else 0.0
    core = 100 * (after.cpu - begun) / seconds
    return Cost(round(core, 1), round(after.rss, 1), round(after.peak, 1))


def create(bench: Bench, limit: float) -> None:
    """Every resource as fast as the API server takes them."""
    report, begun = bench.report, time.time()
    with bench.phase("create"):
        bench.crowd.create()
        report.times["last_created"] = time.time() - begun
        if bench.complete(limit):
            report.times["every_replica_answers"] = time.time() - begun
    found = crowd.first_words(audit.events(bench.log, "modeldeployments"), OPERATOR)
    if len(found) < report.models:
        report.wrong.append(f"{report.models - len(found)} models were never reconciled")
    if found:
        waits = sorted(told - made for made, told in found.values())
        report.times["first_reconcile_median"] = waits[len(waits) // 2]
        report.times["first_reconcile_last"] = waits[-1]
        report.times["last_created_to_last_reconciled"] = max(
            told for _, told in found.values()
        ) - max(made for made, _ in found.values())


def steady(bench: Bench, minutes: float) -> None:
    """One status change per model per minute."""
    planned = crowd.changes(bench.report.models, minutes, bench.report.seed)
    bench.crowd.look()
    with bench.phase("steady"):
        late = bench.crowd.play(planned, minutes * crowd.MINUTE)
    bench.report.times["latest_change_behind_its_time"] = late


def quiet(bench: Bench, minutes: float) -> None:
    """Nothing changes."""
    with bench.phase("quiet"):
        time.sleep(minutes * crowd.MINUTE)


def restart(bench: Bench, minutes: float, limit: float) -> None:
    """The operator is ended and started anew; what it writes then is counted, a minute at most."""
    bench.plain.stop("operator")
    begun = time.time()
    with bench.phase("restart"):
        bench.plain.start("operator")
        if bench.complete(limit):
            bench.report.times["restart_to_everything_known"] = time.time() - begun
        time.sleep(max(0.0, begun + min(1.0, minutes) * crowd.MINUTE - time.time()))


def measure(models: int, minutes: float, seed: int, limit: float, rest: float) -> Report:
    """A whole run on a control plane of its own. `rest`: seconds without a write that are rest."""
    report = Report(models, sum(map(crowd.replicas, range(models))), seed)
    with simulated.held(ANSWERED, NODES, ROOM) as cluster:
        bench = Bench(cluster, report, rest)
        bench.plain.prepare()
        for part in ("billing", "router", "operator"):
            bench.plain.start(part)
        bench.settled()
        with bench.phase("empty"):
            time.sleep(min(30.0, minutes * crowd.MINUTE))
        create(bench, limit)
        if not report.wrong:
            bench.settled()
            steady(bench, minutes)
            bench.settled()
            quiet(bench, minutes)
            restart(bench, minutes, limit)
        report.wrong += bench.crowd.amiss()
    report.judge()
    return report


def main(words: Sequence[str]) -> int:
    """Measure, tell, and judge."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=5, help="of the steady and quiet phases")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, default=600, help="seconds until all is reconciled")
    parser.add_argument("--rest", type=float, default=10, help="seconds without a write are rest")
    parser.add_argument("--json", action="store_true", help="the figures on stdout")
    chosen = parser.parse_args(words)
    report = measure(chosen.models, chosen.minutes, chosen.seed, chosen.limit, chosen.rest)
    print(report.as_text(), file=sys.stderr)
    if chosen.json:
        print(json.dumps(report.as_json()))
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
