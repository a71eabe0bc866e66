"""Prepaid credit at the gateway: real routers, real billing, the sim engine."""

from collections.abc import Iterator
from decimal import Decimal

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
