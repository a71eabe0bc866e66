"""Many wakes from zero, measured: `make test-long ARGS="--part wakes --wakes 200 --json"`.

What is ours and what is Kubernetes' is told apart:

    held -> received     a request waits at a router until the API server has the scale write
    received -> answered the API server's own share of the write
    held -> written      until the operator has its acknowledgement
    written -> created   until the pod exists, beside the same of a plain `kubectl scale`
    able -> addressed    the engine can answer, and the kubelet has not published its address yet
    open -> first byte   the engine can answer and can be reached, until the client has the first byte

The exit status is 1 where a request failed, was not billed once, a figure is missing, or a goal was
missed; `make test` asserts all of that but the goals, which depend on the machine.
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from harness import audit, installed, kubectl
from harness import cluster as clusters
from harness.audit import Event
from harness.installed import SYSTEM, Platform
from harness.layout import Cluster
from harness.waking import PLAIN, Plant, Scaled, Woken, watched

SPACE = "wakes"
GOALS = {"held_to_written": 20.0, "open_to_first_byte": 100.0}
PLAIN_MARGIN_MS = 20.0
MISSED = "MISSED"


class Spread(NamedTuple):
    """Milliseconds: how many, and how they lie. Nearest rank: each is a value that was seen."""

    n: int
    p50: float
    p99: float
    max: float


def spread(seconds: Iterable[float]) -> Spread:
    """The spread of durations."""
    values = sorted(round(one * 1000, 3) for one in seconds)
    if not values:
        return Spread(0, 0.0, 0.0, 0.0)
    rank = [values[max(0, -(-len(values) * percent // 100) - 1)] for percent in (50, 99)]
    return Spread(len(values), rank[0], rank[1], values[-1])


@dataclass
class Report:
    """What came of a run. `figures` by name, in the order of a wake; `wrong`: what went wrong;
    `rows`: every wake's own durations in seconds, and when it was asked."""

    wakes: int
    figures: dict[str, Spread] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def judged(self) -> dict[str, str]:
        """Each goal's verdict, in words."""
        told = {}
        for name, goal in GOALS.items():
            found = self.figures[name]
            told[name] = f"p99 {found.p99:.1f} ms, goal {goal:.0f} ms: {_met(found.p99 <= goal)}"
        ours = self.figures.get("written_to_created")
        plain = self.figures.get("plain_written_to_created")
        if ours and plain:
            goal = plain.p99 + PLAIN_MARGIN_MS
            told["written_to_created"] = (
                f"p99 {ours.p99:.1f} ms, goal {goal:.1f} ms (plain {plain.p99:.1f} ms + "
                f"{PLAIN_MARGIN_MS:.0f} ms): {_met(ours.p99 <= goal)}"
            )
        return told

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        figures = {name: one._asdict() for name, one in self.figures.items()}
        return {
            "wakes": self.wakes, "unit": "ms", "figures": figures, "goals": self.judged(),
            "wrong": self.wrong, "rows": self.rows,
        }  # fmt: skip

    def as_text(self) -> str:
        """For people."""
        lines = [f"{'milliseconds':<30}{'n':>6}{'p50':>10}{'p99':>10}{'max':>10}"]
        lines += [
            f"{name.replace('_', ' '):<30}{one.n:>6}{one.p50:>10.1f}{one.p99:>10.1f}{one.max:>10.1f}"
            for name, one in self.figures.items()
        ]
        lines += [
            "",
            *(f"{name.replace('_', ' ')}: {told}" for name, told in self.judged().items()),
        ]
        lines += [f"WRONG: {one}" for one in self.wrong]
        return "\n".join(lines)


def _met(fine: bool) -> str:
    return "met" if fine else MISSED


# --- what the operator and the API server have noted --------------------------------------------


def told_by_operators(cluster: Cluster) -> dict[str, list[dict[str, Any]]]:
    """Scale writes and cold starts of all operators; only one at a time leads and writes."""
    token = kubectl.secret(cluster, "tidegate-secrets", "internal-token", SYSTEM)
    headers = {"authorization": f"Bearer {token}"}
    found: dict[str, list[dict[str, Any]]] = {"scale_writes": [], "cold_starts": []}
    for pod in kubectl.items(cluster, "pods", SYSTEM, "app.kubernetes.io/component=operator"):
        target = f"pod/{pod['metadata']['name']}"
        with kubectl.port_forward(cluster, target, 9090, SYSTEM) as port:
            url = f"http://127.0.0.1:{port}/internal/cold-starts"
            answer = httpx.get(url, headers=headers, trust_env=False, timeout=30).json()
        for name in found:
            found[name] += answer[name]
    return found


def creations(log: Path, start: int) -> list[Event]:
    """Scale writes and pod creations in the namespace, in the order of their answers."""
    found = [
        event
        for event in audit.events(log, f"/namespaces/{SPACE}/", start=start)
        if event.response_status.code < 300
        and (
            (event.right[0] in {"patch", "update"} and event.right[2] == "deployments/scale")
            or (event.right[0], event.right[2]) == ("create", "pods")
        )
    ]
    return sorted(found, key=lambda event: event.at)


class Created(NamedTuple):
    """A scale write as the API server received and answered it, and the pod's creation after it."""

    received: float
    written: float
    created: float


def creation(events: Sequence[Event], name: str, begun: float, ended: float) -> Created | None:
    """The first scale write to a Deployment in a span of time, and the next pod's creation."""
    write: Event | None = None
    for event in events:
        if not begun <= event.at <= ended:
            continue
        if event.about.subresource == "scale" and event.about.name == name:
            write = write or event
        elif write and event.about.resource == "pods":
            return Created(write.received, write.at, event.at)
    return None


# --- the figures ----------------------------------------------------------------------------------


@dataclass
class Run:
    """What was noted during a run."""

    woken: list[Woken] = field(default_factory=list)
    plain: list[Scaled] = field(default_factory=list)


def durations(
    wake: Woken, told: dict[str, list[dict[str, Any]]], events: Sequence[Event]
) -> dict[str, float | None]:
    """One wake's, by name and in their order, in seconds; None: not known."""
    asked, opened = wake.asked, max(wake.able, wake.pod.addressed)
    name, span = f"{SPACE}/{asked.model}", (asked.sent, asked.first)
    write = _within(told["scale_writes"], name, "held_since", span)
    start = _within(told["cold_starts"], name, "held_at", span)
    made = creation(events, f"mdep-{asked.model}", *span)
    found = {
        "sent_to_held": write["held_since"] - asked.sent if write else None,
        "held_to_received": made.received - write["held_since"] if made and write else None,
        "received_to_answered": made.written - made.received if made else None,
        "held_to_written": write["at"] - write["held_since"] if write else None,
        "written_to_created": made.created - made.written if made else None,
        "created_to_able": wake.able - wake.pod.seen,
        "able_to_addressed": max(0.0, wake.pod.addressed - wake.able),
        "open_to_answered": start["answered_at"] - opened if start else None,
        "answered_to_forwarded": start["forwarded_at"] - start["answered_at"] if start else None,
        "open_to_first_byte": asked.first - opened,
        "sent_to_first_byte": asked.first - asked.sent,
    }
    if not events:  # no audit log: not our cluster
        for figure in ("held_to_received", "received_to_answered", "written_to_created"):
            del found[figure]
    return found


def figures(run: Run, told: dict[str, list[dict[str, Any]]], events: Sequence[Event]) -> Report:
    """All durations of the wakes that were answered."""
    report = Report(len(run.woken))
    columns: dict[str, list[float | None]] = {}
    for wake in run.woken:
        if wake.asked.error:
            report.wrong.append(f"{wake.asked.model}: {wake.asked.error}")
            continue
        found = durations(wake, told, events)
        report.rows.append({"model": wake.asked.model, "sent": wake.asked.sent, **found})
        for name, value in found.items():
            columns.setdefault(name, []).append(value)
    if events:
        plain = [creation(events, PLAIN, one.begun, one.seen + 1.0) for one in run.plain]
        columns["plain_received_to_answered"] = [
            m.written - m.received if m else None for m in plain
        ]
        columns["plain_written_to_created"] = [m.created - m.written if m else None for m in plain]
    for name, values in columns.items():
        known = [value for value in values if value is not None]
        report.figures[name] = spread(known)
        if len(known) != len(values):
            report.wrong.append(f"{name}: {len(known)} of {len(values)} are known")
    return report


def _within(
    rows: Iterable[dict[str, Any]], deployment: str, key: str, span: tuple[float, float]
) -> dict[str, Any] | None:
    """The first row of a deployment whose time lies in a span; a little slack for rounding."""
    return next(
        (r for r in rows if r["deployment"] == deployment
         and span[0] - 0.001 <= r[key] <= span[1] + 0.001),
        None,
    )  # fmt: skip


def unbilled(tidegate: Platform, woken: Iterable[Woken]) -> list[str]:
    """Answered requests that have not exactly one bill, after billing has had its time."""

    def bills(request: str) -> int:
        return sum(event["billed"] for event in tidegate.events(request_id=request))

    wrong = []
    for wake in woken:
        request = wake.asked.request
        if wake.asked.error:
            continue
        try:
            kubectl.wait_for(partial(bills, request), f"a bill of {request}", 30)
        except TimeoutError as fault:
            wrong.append(str(fault))
            continue
        if (count := bills(request)) != 1:
            wrong.append(f"{request} has {count} bills")
    return wrong


def measure(tidegate: Platform, wakes: int, models: int, *, seed: int, idle: int) -> Report:
    """Wake `models` models `wakes` times in an order that `seed` gives. Leaves nothing behind."""
    cluster, log = tidegate.cluster, tidegate.cluster.audit_log
    begun = log.stat().st_size if log else 0
    plant = Plant(tidegate, SPACE, [f"m{number:02}" for number in range(models)], idle)
    run = Run()
    try:
        with watched(cluster, SPACE) as (pods, api):
            for number, name in enumerate(order(plant.names, wakes, seed), start=1):
                run.woken.append(plant.wake(name, pods, api))
                run.plain.append(plant.scale(pods))
                if number % 10 == 0:
                    sys.stderr.write(f"wakes: {number} of {wakes}\n")
        events = creations(log, begun) if log else []
        report = figures(run, told_by_operators(cluster), events)
        report.wrong += unbilled(tidegate, run.woken)
        tidegate.closes()
        return report
    finally:
        plant.remove()


def order(names: Sequence[str], wakes: int, seed: int) -> Iterator[str]:
    """Round after round of all models, each round shuffled."""
    chance = random.Random(seed)
    while wakes > 0:
        mixed = list(names)[:wakes]
        chance.shuffle(mixed)
        yield from mixed
        wakes -= len(mixed)


# --- the command ------------------------------------------------------------------------------------


@contextmanager
def platform(routers: int, operators: int) -> Iterator[Platform]:
    """Tidegate with so many parts: on KUBECONFIG's cluster, else on one of ours for this run."""
    with ExitStack() as stack:
        given = os.environ.get("KUBECONFIG")
        outside = clusters.outside(given) if given else None
        cluster = outside or stack.enter_context(clusters.held())
        names = installed.load_images(cluster)
        counts = (f"--set=router.replicas={routers}", f"--set=operator.replicas={operators}")
        # Whoever has counted them by hand before, as tests of faults do, owns the counts.
        force = "--force-conflicts"
        if outside is not None:  # as it is installed for tests
            stack.callback(installed.install, cluster, names, force)
        installed.install(cluster, names, force, *counts)
        yield stack.enter_context(installed.platform(cluster))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Wake models from zero and measure it.")
    parser.add_argument("--wakes", type=int, default=200)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--routers", type=int, default=3)
    parser.add_argument("--operators", type=int, default=2)
    parser.add_argument("--idle", type=int, default=1, help="seconds until a model goes to zero")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    chosen = parser.parse_args()
    if not os.environ.get("KUBECONFIG") and os.geteuid() != 0:
        parser.error("a cluster of our own needs root; or give KUBECONFIG and TEST_IMAGE")
    with platform(chosen.routers, chosen.operators) as tidegate:
        began = time.monotonic()
        report = measure(tidegate, chosen.wakes, chosen.models, seed=chosen.seed, idle=chosen.idle)
        took = time.monotonic() - began
    sys.stderr.write(f"{report.as_text()}\n{chosen.wakes} wakes in {took:.0f} s\n")
    if chosen.json:
        print(json.dumps({**report.as_json(), "seconds": round(took, 1)}))
    missed = [name for name, told in report.judged().items() if told.endswith(MISSED)]
    return 1 if report.wrong or missed else 0


if __name__ == "__main__":
    sys.exit(main())
