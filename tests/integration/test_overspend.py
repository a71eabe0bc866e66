"""Four routers on a credit of 1.00, hammered until nothing is left, one of them killed on the way.

`SEEDS=1,2,3` runs more; `tidegate`'s own numbers are read from the ledger, whose events are added up here.
"""

import os
import signal
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from paying import Payer
from running import Platform, platform, sim, wait_for

sys.path.insert(0, str(Path(__file__).parents[1] / "torture"))
from overspend import Callers

ROUTERS = 4
READ, WRITTEN = Decimal("0.000001"), Decimal("0.00001")
MODEL = (
    sim(tokens_per_second=400, replicas=1)
    .replace("spec:\n", "spec:\n  access: {visibility: Public}\n")
    .replace('"0.10"', '"1"')
    .replace('"0.02"', '"1"')
    .replace('"0.40"', '"10"')
)
"""1.00 is a hundred thousand tokens of answers."""
SMALLEST = READ * 100 + WRITTEN
"""More than the smallest request's worst case."""


def bases(up: Platform) -> list[str]:
    return [up.part(name)["url"] for name in names(up)]


def names(up: Platform) -> list[str]:
    return sorted(part["name"] for part in up.run["parts"] if part["name"].startswith("router"))


def cost(event: dict[str, Any]) -> Decimal:
    if not event["billed"]:
        return Decimal(0)
    return READ * event["prompt_tokens"] + WRITTEN * event["completion_tokens"]


@pytest.mark.parametrize("seed", [int(one) for one in os.environ.get("SEEDS", "1").split(",")])
def test_routers_cannot_overspend(tmp_path: Path, seed: int) -> None:
    with platform(tmp_path, MODEL, "--routers", str(ROUTERS)) as up:
        payer = Payer(up, "payer")
        payer.grant("1.00")
        callers = Callers(lambda: bases(up), payer.key, "sim", seed)
        callers.start(8, ROUTERS, enough=5)
        wait_for(lambda: payer.balance < Decimal("0.7"), "a third is spent")
        victim = names(up)[seed % ROUTERS]
        old = up.part(victim)["pid"]
        os.kill(old, signal.SIGKILL)
        callers.join()
        up.ready(victim)
        _spend_the_rest(up, payer)
        gone_at = time.time()
        for base in bases(up) * 5:
            assert payer.ask(base=base, max_tokens=1).status_code == 402
        up.settled()
        events = [one for one in up.events(tenant="payer") if one["kind"] == "settlement"]
        spent = sum(map(cost, events))
        balance = payer.balance
        print(
            f"seed {seed}: {dict(callers.told.statuses)}, {len(events)} events, balance {balance}"
        )
        assert balance == 1 - spent, "the ledger and the purse agree"
        assert balance >= Decimal("-0.01"), "but for prompts that were underestimated"
        assert balance < SMALLEST, "what the lost router held came back, and was spent"
        assert not [one for one in events if one["started_at"] > gone_at * 1e6]
        assert callers.told.statuses[200] > 50, callers.told
        assert set(callers.told.statuses) <= {200, 402, 502, 503}, callers.told


def _spend_the_rest(up: Platform, payer: Payer) -> None:
    """Ask for the least there is, at each router in turn, until each of them says no twice."""

    def spent() -> bool:
        found = [payer.ask(base=base, max_tokens=1).status_code for base in bases(up) * 2]
        return set(found) == {402} and payer.balance < SMALLEST

    wait_for(spent, f"nothing is left (balance {payer.balance})", 90)
