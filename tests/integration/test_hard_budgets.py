"""Hard budgets at the gateway: of a tenant, a project and a key, with and without credit beside them."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pytest

from paying import Payer
from running import Platform, platform, sim, wait_for

sys.path.insert(0, str(Path(__file__).parents[1] / "torture"))
from overspend import Callers

ROUTERS = 3
PUBLIC = sim(tokens_per_second=2000).replace("spec:\n", "spec:\n  access: {visibility: Public}\n")
WRITTEN = Decimal("0.0000004")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with platform(tmp_path_factory.mktemp("budgets"), PUBLIC, "--routers", str(ROUTERS)) as found:
        yield found


def bases(up: Platform) -> list[str]:
    parts = sorted(part["name"] for part in up.run["parts"])
    return [up.part(name)["url"] for name in parts if name.startswith("router")]


def spent(up: Platform, budget: str) -> Decimal:
    return Decimal(up.api(f"/api/v1/budgets/{budget}")["spent"])


def test_a_budget_stops_its_key_and_no_other(up: Platform) -> None:
    payer = Payer(up, "one", "postpaid")
    mine = payer.budget("0.0001", "key", subject=payer.key_id)
    answer = payer.ask(max_tokens=4000)
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] < 250
    refused = payer.ask(max_tokens=200)
    assert refused.status_code == 402, refused.text
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "budget_exhausted")
    assert mine in error["message"]
    other = Payer.of(
        up, "one", payer.post("/api/v1/keys", tenant="one", project="p", name="o")["key"]
    )
    assert other.ask(max_tokens=200).status_code == 200
    up.settled()
    assert Decimal(0) < spent(up, mine) <= Decimal("0.0001")


def test_a_raised_limit_lets_in_at_once_and_a_soft_one_never_stops(up: Platform) -> None:
    payer = Payer(up, "two", "postpaid")
    mine = payer.budget("0", "project", subject="p")
    assert payer.ask(max_tokens=1).status_code == 402
    payer.call("PATCH", f"/api/v1/budgets/{mine}", {"limit": "1"})
    assert payer.ask(max_tokens=1).status_code == 200
    payer.call("PATCH", f"/api/v1/budgets/{mine}", {"limit": "0"})
    assert payer.ask(max_tokens=1).status_code == 402
    payer.call("PATCH", f"/api/v1/budgets/{mine}", {"hard": False})
    assert payer.ask(max_tokens=1).status_code == 200


def test_the_tightest_of_several_pots_decides(up: Platform) -> None:
    payer = Payer(up, "three")
    payer.grant("1")
    wide, narrow = payer.budget("0.5"), payer.budget("0.0001", "project", subject="p")
    assert payer.ask(max_tokens=4000).status_code == 200
    assert narrow in payer.ask(max_tokens=200).json()["error"]["message"]
    other = Payer.of(up, "three", payer.post("/api/v1/keys", tenant="three", project="q", name="o")["key"])  # fmt: skip
    assert other.ask(max_tokens=200).status_code == 200
    up.settled()
    assert spent(up, wide) == 1 - payer.balance
    assert spent(up, narrow) < spent(up, wide)


def test_routers_cannot_overrun_a_budget_together(up: Platform) -> None:
    payer = Payer(up, "four", "postpaid")
    limit = Decimal("0.02")
    mine = payer.budget(str(limit))
    callers = Callers(lambda: bases(up), payer.key, "sim", 7)
    callers.start(4, ROUTERS, enough=4)
    callers.join()

    def none_left() -> bool:
        with ThreadPoolExecutor(ROUTERS) as pool:
            found = pool.map(lambda base: payer.ask(base=base, max_tokens=1).status_code, bases(up))
            return set(found) == {402} and spent(up, mine) > limit - Decimal("0.00002")

    wait_for(none_left, "nothing is left", 90)
    up.settled()
    assert spent(up, mine) <= limit
    assert callers.told.statuses[200] > 20, callers.told
