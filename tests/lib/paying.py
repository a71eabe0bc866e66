"""A tenant that pays before it asks, as tests need one."""

from decimal import Decimal
from typing import Any

import httpx

from running import Platform

PLENTY = {"messages": [{"role": "user", "content": "hello there"}], "model": "sim"}


class Payer:
    """A tenant of its own, with a key."""

    def __init__(self, up: Platform, name: str, plan: str = "prepaid") -> None:
        self.up = up
        self.name = name
        self.post("/api/v1/tenants", name=name, plan=plan)
        made = self.post("/api/v1/keys", tenant=name, project="p", name="k")
        self.key = made["key"]
        self.key_id = made["id"]

    @classmethod
    def of(cls, up: Platform, name: str, key: str) -> "Payer":
        """A tenant that is there, by one of its keys."""
        one = cls.__new__(cls)
        one.up, one.name, one.key, one.key_id = up, name, key, ""
        return one

    def call(self, method: str, path: str, body: dict[str, Any]) -> Any:
        """Ask the management API."""
        token = (self.up.data / "admin-token").read_text().strip()
        answer = self.up.admin.request(
            method, self.up.run["admin_url"] + path, json=body,
            headers={"authorization": f"Bearer {token}"},
        )  # fmt: skip
        assert answer.is_success, answer.text
        return answer.json()

    def post(self, path: str, **body: Any) -> Any:
        """Make something."""
        return self.call("POST", path, body)

    def grant(self, amount: str, **more: Any) -> Any:
        """Give credit."""
        return self.post("/api/v1/credit-grants", tenant=self.name, amount=amount, **more)

    def budget(self, limit: str, scope: str = "tenant", **more: Any) -> str:
        """Bound what may be spent; the budget's id."""
        subject = {} if scope == "tenant" else {"subject": more.pop("subject")}
        made = self.post(
            "/api/v1/budgets", tenant=self.name, scope=scope, limit=limit, hard=True,
            **{"period": "month", **subject, **more},
        )  # fmt: skip
        return str(made["id"])

    @property
    def balance(self) -> Decimal:
        """What the ledger says is left."""
        found = self.up.api("/api/v1/credit", tenant=self.name)["data"]
        return Decimal(found[0]["balance"]) if found else Decimal(0)

    def ask(self, base: str = "", **body: Any) -> httpx.Response:
        """One request at the gateway (or at the router at `base`)."""
        headers = {"authorization": f"Bearer {self.key}"}
        url = f"{base or self.up.base}/v1/chat/completions"
        return httpx.post(
            url, json={**PLENTY, **body}, headers=headers, timeout=60, trust_env=False
        )
