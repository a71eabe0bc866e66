"""Prepaid credit at the gateway: real routers, real billing, the sim engine."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from running import Platform, platform, sim, wait_for

PUBLIC = sim(tokens_per_second=5000).replace("spec:\n", "spec:\n  access: {visibility: Public}\n")
PLENTY = {"messages": [{"role": "user", "content": "hello there"}], "model": "sim"}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with platform(tmp_path_factory.mktemp("credit"), PUBLIC) as found:
        yield found


class Payer:
    """A tenant of its own, with a key."""

    def __init__(self, up: Platform, name: str, plan: str = "prepaid") -> None:
        self.up = up
        self.name = name
        self.post("/api/v1/tenants", name=name, plan=plan)
        made = self.post("/api/v1/keys", tenant=name, project="p", name="k")
        self.key = made["key"]
        self.key_id = made["id"]

    def call(self, method: str, path: str, body: dict[str, Any]) -> Any:
        token = (self.up.data / "admin-token").read_text().strip()
        answer = self.up.admin.request(
            method, self.up.run["admin_url"] + path, json=body,
            headers={"authorization": f"Bearer {token}"},
        )  # fmt: skip
        assert answer.is_success, answer.text
        return answer.json()

    def post(self, path: str, **body: Any) -> Any:
        return self.call("POST", path, body)

    def grant(self, amount: str, **more: Any) -> Any:
        return self.post("/api/v1/credit-grants", tenant=self.name, amount=amount, **more)

    @property
    def balance(self) -> Decimal:
        found = self.up.api("/api/v1/credit", tenant=self.name)["data"]
        return Decimal(found[0]["balance"]) if found else Decimal(0)

    def ask(self, **body: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.key}"}
        url = f"{self.up.base}/v1/chat/completions"
        return httpx.post(url, json={**PLENTY, **body}, headers=headers, timeout=30)


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
