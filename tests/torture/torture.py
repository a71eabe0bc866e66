"""The ledger under torture: a million events, kills, restarts, and the truth of another process.

    make test-long ARGS="--part ledger"        1,000,000 events on each database
    python tests/torture/torture.py --events 20000 --database sqlite --seed 3

The generator (`generator.py`) sends; here the billing process is killed (SIGKILL) and PostgreSQL
is ended as by a power cut, both at points of the generator's progress that the seed chooses. In
the end the ledger's tables, the usage API, the invoices and the rollups rebuilt from nothing must
each equal the generator's truth, to the token and to 1e-18 of the currency's unit.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

from billing_process import Billing
from postgres import Server

GENERATOR = Path(__file__).with_name("generator.py")
TENANTS = 12


@dataclass
class Report:
    """What happened, and what was wrong."""

    database: str
    events: int = 0
    kills: int = 0
    restarts: int = 0
    conflicts: int = 0
    versions: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


def torture(billing: Billing, server: Server | None, events: int, seed: int, faults: int) -> Report:
    """Run it on a started process with an empty database."""
    report = Report("postgresql" if server else "sqlite")
    for number in range(TENANTS):
        billing.key(tenant=f"tenant-{number}")
    rng = random.Random(seed)
    points = sorted(rng.sample(range(events // 20, events), faults))
    began = time.monotonic()

    def progress(sent: int) -> None:
        if points and sent >= points[0]:
            points.pop(0)
            harm(billing, server, rng, report)

    try:
        truth = generate(billing, events, seed, progress)
    except AssertionError as error:
        report.wrong.append(str(error))
        return report
    report.seconds = round(time.monotonic() - began, 1)
    report.events, report.conflicts, report.versions = (
        truth["events"],
        truth["conflicts"],
        truth["versions"],
    )
    report.wrong += list(differences(billing, truth))
    return report


def generate(
    billing: Billing, events: int, seed: int, progress: Callable[[int], None] = lambda _sent: None
) -> dict[str, Any]:
    """Let the generator send; its truth. `progress` hears how many events were answered."""
    command = [
        *(sys.executable, "-I", str(GENERATOR), "--url", billing.url(""), "--token"),
        *("internal-token", "--events", str(events), "--seed", str(seed)),
    ]
    truth, sent = None, 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as generator:
        assert generator.stdout is not None
        for line in generator.stdout:
            if line.startswith("progress "):
                sent += int(line.split()[1])
                progress(sent)
            else:
                truth = json.loads(line)
    assert truth is not None, f"the generator failed ({generator.returncode})"
    return dict(truth)


def harm(billing: Billing, server: Server | None, rng: random.Random, report: Report) -> None:
    """Kill billing, or the database under it, or both; and start again what was killed."""
    kind = rng.choice(["billing", "database", "both"]) if server else "billing"
    if kind != "database":
        billing.end(signal.SIGKILL)
        report.kills += 1
    if server and kind != "billing":
        server.kill()
        server.start()
        report.restarts += 1
    if kind != "database":
        billing.start()


def differences(billing: Billing, truth: dict[str, Any]) -> Iterator[str]:
    """In words, where the ledger or what is made of it differs from the truth."""
    expected = {tuple(row[:3]): [*map(int, row[3:7]), Fraction(row[7])] for row in truth["billed"]}
    yield from compare("ledger", expected, from_tables(billing))
    usage, invoiced = from_api(billing, expected)
    yield from compare("usage", expected, usage)
    money = {key: [row[4]] for key, row in expected.items()}
    yield from compare("invoices", money, invoiced)
    counts = {
        "events": ("SELECT count(*) FROM event", truth["events"]),
        "parked": ("SELECT count(*) FROM parked", sum(truth["parked"].values())),
        "unbilled": ("SELECT count(*) FROM event WHERE NOT billed", truth["unbilled"]),
        "requests in the outbox": ("SELECT sum(requests) FROM outbox", truth["events"]),
        "adjustments": ("SELECT count(*) FROM adjustment", 0),
    }
    for name, (query, number) in counts.items():
        found = int(billing.query(query)[0][0])
        if found != number:
            yield f"{name}: {found}, not {number}"
    refused = int(billing.query("SELECT count(*) FROM refused")[0][0])
    if refused > truth["conflicts"] or (truth["conflicts"] and not refused):
        yield f"refused: {refused}, of {truth['conflicts']} that were sent"


def compare(name: str, expected: dict[Any, Any], found: dict[Any, Any]) -> Iterator[str]:
    """Each key whose rows are not equal."""
    for key in sorted({*expected, *found}):
        if expected.get(key) != found.get(key):
            yield f"{name} {key}: {found.get(key)}, not {expected.get(key)}"


def from_tables(billing: Billing) -> dict[Any, Any]:
    """The ledger's rows summed by the database itself."""
    rows = billing.query(
        "SELECT tenant, model, attempt_month, count(*), sum(prompt_tokens), sum(cached_tokens),"
        " sum(completion_tokens), sum(amount_nano), sum(amount_atto) FROM event"
        " WHERE kind = 'settlement' AND billed AND rated_version IS NOT NULL GROUP BY 1, 2, 3"
    )
    return {
        tuple(row[:3]): [*map(int, row[3:7]), Fraction(int(row[7]) * 10**9 + int(row[8]))]
        for row in rows
    }


def from_api(billing: Billing, expected: dict[Any, Any]) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Usage and invoices by tenant, model and month, as the management API tells them."""
    usage: dict[Any, Any] = {}
    invoiced: dict[Any, Any] = {}
    names = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")
    for tenant in sorted({key[0] for key in expected}):
        asked = {"tenant": tenant, "from": "2000-01-01", "to": "2100-01-01", "by": "model,day"}
        for row in billing.get("/api/v1/usage", **asked).json()["data"]:
            sums = usage.setdefault(
                (tenant, row["model"], row["day"][:7]), [0, 0, 0, 0, Fraction(0)]
            )
            for position, name in enumerate(names):
                sums[position] += row[name]
            sums[4] += Fraction(row["amount_exact"]) * 10**18
        for month in sorted({key[2] for key in expected if key[0] == tenant}):
            for line in billing.get(f"/api/v1/invoices/{month}", tenant=tenant).json()["lines"]:
                sums = invoiced.setdefault((tenant, line["model"], month), [Fraction(0)])
                sums[0] += Fraction(line["amount_exact"]) * 10**18
    return usage, {key: [Fraction(0)] for key in expected} | invoiced


def run(kind: str, events: int, seed: int, faults: int) -> Report:
    """A database and a process of their own; then the rollups, rebuilt from nothing."""
    with tempfile.TemporaryDirectory(prefix="tidegate-torture-") as folder:
        server = Server(durable=True) if kind == "postgresql" else None
        billing = None
        try:
            url = f"sqlite:///{folder}/ledger.db"
            if server is not None:
                server.start()
                url = server.create("ledger")
            billing = Billing(Path(folder), url, server)
            billing.start()
            report = torture(billing, server, events, seed, faults)
            if not report.wrong:
                report.wrong += rebuilt(billing)
            return report
        finally:
            if billing is not None:
                billing.close()
            if server is not None:
                server.remove()


def rebuilt(billing: Billing) -> list[str]:
    """The rollups emptied and rebuilt by the command: each must hold what it held."""
    before = {table: rollup(billing, table) for table in ("minute", "hour", "day")}
    subprocess.run(
        [sys.executable, "-Im", "tidegate_billing", "rebuild"],
        env={"TIDEGATE_DATABASE_URL": billing.database_url},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return [f"rollup_{t} differs when rebuilt" for t in before if rollup(billing, t) != before[t]]


def rollup(billing: Billing, table: str) -> list[list[str]]:
    return sorted(billing.query(f"SELECT * FROM rollup_{table}"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], action="append")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=24)
    given = parser.parse_args()
    wrong = False
    for kind in given.database or ["sqlite", "postgresql"]:
        report = run(kind, given.events, given.seed, given.faults)
        print(json.dumps({**vars(report), "wrong": report.wrong[:20]}), flush=True)
        wrong = wrong or bool(report.wrong)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
