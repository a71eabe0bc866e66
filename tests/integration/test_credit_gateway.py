"""Prepaid credit at the gateway: real routers, real billing, the sim engine."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from paying import Payer
from running import Platform, platform, sim, wait_for

PUBLIC = sim(tokens_per_second=5000).replace("spec:\n", "spec:\n  access: {visibility: Public}\n")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with platform(tmp_path_factory.mktemp("credit"), PUBLIC) as found:
        yield found


def test_nobody_is_served_on_credit_that_is_not_there(up: Platform) -> None:
    payer = Payer(up, "poor")
    answer = payer.ask(max_tokens=5)
    assert answer.status_code == 402, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "credit_exhausted")
    payer.grant("0.01")
    answer = payer.ask(max_tokens=5)
    assert answer.status_code == 200, answer.text
    used = answer.json()["usage"]
    cost = used["prompt_tokens"] * Decimal("0.0000001") + 5 * Decimal("0.0000004")
    wait_for(lambda: payer.balance == Decimal("0.01") - cost, "the ledger has it")


def test_an_answer_is_as_long_as_credit_goes(up: Platform) -> None:
    payer = Payer(up, "short")
    payer.grant("0.0001")  # 250 tokens of an answer, less its prompt
    answer = payer.ask(max_tokens=4000)
    assert answer.status_code == 200, answer.text
    said = answer.json()["usage"]["completion_tokens"]
    assert 100 < said < 250
    wait_for(lambda: payer.balance < Decimal("0.0001"), "the ledger has it")
    assert payer.balance >= 0


def test_the_tenant_can_be_made_postpaid_again(up: Platform) -> None:
    payer = Payer(up, "turned")
    assert payer.ask(max_tokens=1).status_code == 402
    payer.call("PATCH", "/api/v1/tenants/turned", {"plan": "postpaid"})
    assert payer.ask(max_tokens=1).status_code == 200
    payer.call("PATCH", "/api/v1/tenants/turned", {"plan": "prepaid"})
    wait_for(lambda: payer.ask(max_tokens=1).status_code == 402, "prepaid again")


def test_a_billing_that_restarts_costs_nobody_anything(up: Platform) -> None:
    payer = Payer(up, "patient")
    payer.grant("5")
    with ThreadPoolExecutor(8) as pool:
        stop = threading.Event()

        def ask() -> list[int]:
            found = []
            while not stop.is_set():
                found.append(payer.ask(max_tokens=200, stream=True).status_code)
            return found

        asking = [pool.submit(ask) for _ in range(8)]
        try:
            wait_for(lambda: payer.balance < 5, "some of it is spent")
            up.kill("billing")
            before = payer.balance
            wait_for(lambda: payer.balance < before, "and more after the restart")
        finally:
            stop.set()
        assert {status for one in asking for status in one.result()} == {200}
    up.settled()
    events = up.events(tenant="patient")
    spent = sum(
        Decimal("0.0000001") * one["prompt_tokens"] + Decimal("0.0000004") * one["completion_tokens"]
        for one in events if one["billed"]
    )  # fmt: skip
    assert payer.balance == 5 - spent


def test_what_a_restarted_router_held_is_there_again(up: Platform) -> None:
    payer = Payer(up, "again")
    payer.grant("0.001")
    assert payer.ask(max_tokens=100).status_code == 200
    up.kill("router")
    assert payer.ask(max_tokens=4000).status_code == 200
    up.settled()
    assert Decimal(0) <= payer.balance < Decimal("0.0001"), "all but a prompt was lent once more"


def test_blanks_buy_no_tokens(up: Platform) -> None:
    """The prompt's estimate is the caller's to bend; what is sent to the engine is not."""
    payer = Payer(up, "padded")
    payer.grant("0.0012")
    body = {"model": "sim", "n": 100, "messages": [{"role": "user", "content": "hi"}]}
    padded = json.dumps(body)[:-1] + " " * 30_000 + "}"
    headers = {"authorization": f"Bearer {payer.key}"}
    url = f"{up.base}/v1/chat/completions"
    answer = httpx.post(url, content=padded, headers=headers, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    up.settled()
    assert 0 <= payer.balance < Decimal("0.0012")


def test_a_plan_holds_for_what_waits_already(tmp_path: Path) -> None:
    slow = sim(start_seconds=3).replace("spec:\n", "spec:\n  access: {visibility: Public}\n")
    with platform(tmp_path, slow) as up, ThreadPoolExecutor(4) as pool:
        payer = Payer(up, "turner", "postpaid")
        asked = [pool.submit(payer.ask, max_tokens=50) for _ in range(4)]
        wait_for(lambda: up.models()["sim"]["held"] == 4, "they are held")
        payer.call("PATCH", "/api/v1/tenants/turner", {"plan": "prepaid"})
        assert {one.result().status_code for one in asked} == {402}


def test_credit_in_another_currency_pays_for_nothing(up: Platform) -> None:
    payer = Payer(up, "euros")
    payer.grant("5", currency="EUR")
    answer = payer.ask(max_tokens=5)
    assert answer.status_code == 402
    assert answer.json()["error"]["code"] == "credit_exhausted"
