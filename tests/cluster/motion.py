"""Nothing lost in motion: `make test-long ARGS="--part motion --only everything --seed 1"`.

Plays scenarios under load on the real cluster and judges each by what callers saw, what the ledger
says and what the engines generated. The exit status is 1 where anything is wrong.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
from harness import cluster as clusters
from harness import disasters, installed, scenarios, upgrades
from harness.api import Refused
from harness.command import CommandFailed
from harness.installed import Platform
from harness.judged import Judgement
from harness.layout import Cluster
from harness.load import Plan
from harness.scenarios import REQUESTS, ROUTERS
from harness.stage import NAME, TENANTS, Stage, staged


@dataclass(frozen=True)
class Scenario:
    """`may`: outcomes that callers may see beside whole answers (see `judged`). `prepare`: what is
    to be done to the platform before there is any load. `requests`: how many there must be, half of
    them long streams."""

    play: Callable[[Stage], None]
    may: frozenset[str] = frozenset()
    prepare: Callable[[Cluster], None] = lambda cluster: None
    requests: int = 0


COUNTS = (
    "--force-conflicts", f"--set=router.replicas={ROUTERS}", "--set=operator.replicas=2",
)  # fmt: skip


def _upgrade(stage: Stage) -> None:
    upgrades.upgrade(stage, installed.load_images(stage.cluster), *COUNTS)


def _before(cluster: Cluster) -> None:
    upgrades.put_back(cluster, *COUNTS)


BROKEN, CUT = frozenset({"broken"}), frozenset({"cut"})
SCENARIOS: Mapping[str, Scenario] = {
    "everything": Scenario(scenarios.everything, requests=REQUESTS),
    "engines-killed": Scenario(disasters.kill_engines, BROKEN),
    "routers-killed": Scenario(disasters.kill_routers, CUT),
    "node-lost": Scenario(disasters.lose_node, BROKEN | CUT),
    "disk-pressure": Scenario(disasters.evict, BROKEN | CUT),
    "api-away": Scenario(disasters.api_away),
    "etcd-restarted": Scenario(disasters.etcd_restart),
    "operator-between": Scenario(disasters.operator_between),
    "billing-away": Scenario(disasters.billing_away, CUT),
    "journal-full": Scenario(disasters.journal_full),
    "ledger-full": Scenario(disasters.ledger_full),
    "upgrade": Scenario(_upgrade, prepare=_before),
}


@contextmanager
def platform() -> Iterator[tuple[Platform, str]]:
    """Tidegate with so many parts, and its image: on KUBECONFIG's cluster, else on one of ours."""
    with ExitStack() as stack:
        given = os.environ.get("KUBECONFIG")
        outside = clusters.outside(given) if given else None
        cluster = outside or stack.enter_context(clusters.held())
        names = installed.load_images(cluster)
        installed.install(cluster, names, *COUNTS, seconds=600)
        yield stack.enter_context(installed.platform(cluster)), names["tidegate"]


def play(
    tidegate: Platform, image: str, scenario: Scenario, seed: int, keep: Path | None
) -> Judgement:
    """One scenario from a model at zero to its judgement."""
    scenario.prepare(tidegate.cluster)
    with staged(tidegate, image, Plan(seed, [NAME], TENANTS)) as stage:
        try:
            scenario.play(stage)
            made = stage.judge()
        finally:
            if keep is not None:
                lines = [msgspec.json.encode(one).decode() for one in stage.load.transcript()]
                keep.write_text("\n".join([*stage.log, *lines, ""]))
        made.wrong += [
            f"{count} {kind}: this scenario may cost none"
            for kind, count in made.outcomes.items()
            if kind not in {"answered", *scenario.may}
        ]
        asked = made.outcomes.total()
        if scenario.requests and (asked < scenario.requests or 2 * made.long_streams < asked):
            made.wrong.append(f"{asked} requests, {made.long_streams} long streams: not enough")
        return made


def row(name: str, seed: int, seconds: float, made: Judgement) -> dict[str, Any]:
    """A line of the report."""
    return {
        "scenario": name, "seed": seed, "seconds": round(seconds), "requests": made.outcomes.total(),
        **{kind: made.outcomes[kind] for kind in ("answered", "broken", "cut", "failed")},
        "streams_of_10s": made.long_streams, "spanned": made.spanned,
        "billed_tokens": made.billed_tokens, "generated_tokens": made.generated_tokens,
        "longest_gap": round(made.longest_gap, 2), "wrong": made.wrong,
    }  # fmt: skip


FAULTS = (AssertionError, LookupError, OSError, CommandFailed, Refused, httpx.HTTPError)
"""What ends one scenario, and not those after it. TimeoutError is an OSError."""

COLUMNS = (
    "scenario", "seed", "seconds", "requests", "streams_of_10s", "answered", "broken", "cut", "failed",
    "billed_tokens", "generated_tokens", "longest_gap",
)  # fmt: skip


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for docs/reliability.md."""
    lines = [[name.replace("_", " ") for name in COLUMNS], ["---"] * len(COLUMNS)]
    lines += [[str(one[name]) for name in COLUMNS] for one in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def chain(fault: BaseException | None) -> Iterator[str]:
    """A fault and those in whose handling it came: where putting things back fails too, the first
    is the one that matters."""
    while fault is not None:
        yield f"{type(fault).__name__}: {fault}"
        fault = fault.__context__


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Do things to a platform under load.")
    parser.add_argument("--only", choices=sorted(SCENARIOS), action="append", help="repeatable")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a folder for logs and transcripts")
    parser.add_argument("--json", action="store_true", help="a JSON object a scenario, on stdout")
    chosen = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with platform() as (tidegate, image):
        for name in chosen.only or SCENARIOS:
            began = time.monotonic()
            keep = chosen.keep / f"{name}-{chosen.seed}.log" if chosen.keep else None
            try:
                made = play(tidegate, image, SCENARIOS[name], chosen.seed, keep)
            except FAULTS as fault:
                made = Judgement(wrong=list(chain(fault)))
            told = row(name, chosen.seed, time.monotonic() - began, made)
            rows.append(told)
            sys.stderr.write(json.dumps(told, indent=1) + "\n")
            if chosen.json:
                print(json.dumps(told))
    sys.stderr.write(f"{table(rows)}\n")
    return 1 if any(one["wrong"] for one in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
