"""`tidegate price-book`, `contract` and `ledger` against the real billing process."""

import datetime as dt
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from billing_process import Billing
from tidegate_billing.links import ModelPricing, UsageBatch
from tidegate_billing.usage import Usage, uuid7

BOOK = """
name: list
currency: USD
effectiveFrom: "2026-01-01T00:00:00Z"
entries:
  - model: m
    prices:
      input:
        kind: graduated
        tiers: [{upTo: 1000, unitPrice: "2"}, {unitPrice: "1"}]
      output: "8"
"""
CONTRACT = """
{"tenant": "acme", "currency": "USD", "effectiveFrom": "2026-01-01T00:00:00Z", "discount": "50"}
"""
MONTH = dt.datetime.now(dt.UTC).strftime("%Y-%m")


@pytest.fixture
def billing(tmp_path: Path) -> Iterator[Billing]:
    made = Billing(tmp_path, f"sqlite:///{tmp_path}/ledger.db")
    try:
        made.start()
        made.key(tenant="acme")
        made.put("/internal/models", [ModelPricing(deployment="d/m", model="m", owner="o")])
        yield made
    finally:
        made.close()


def tidegate(
    billing: Billing, *words: str, code: int = 0, given: str = ""
) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, "-Im", "tidegate_operator.cli", *words],
        env={
            "PATH": os.environ["PATH"],
            "TIDEGATE_ADMIN_URL": billing.url(""),
            "TIDEGATE_ADMIN_TOKEN": "admin-token",
        },
        input=given, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == code, done.stderr + done.stdout
    return done


def said(billing: Billing, *words: str, **more: Any) -> Any:
    return json.loads(tidegate(billing, *words, "--json", **more).stdout)


def test_prices_from_the_command_line_to_the_bill(billing: Billing, tmp_path: Path) -> None:
    event = Usage(
        attempt_id=uuid7(), kind="settlement", request_id="r", tenant="acme", project="p",
        key_id="k", model="m", deployment="d/m", endpoint="chat", started_at=1,
        prompt_tokens=1500, outcome="completed", source="engine", billed=True,
    )  # fmt: skip
    billing.send(UsageBatch(journal="j", first=1, last=1, events=[event]))
    assert "d/m" in tidegate(billing, "ledger", "parked").stdout
    file = tmp_path / "book.yaml"
    file.write_text(BOOK)
    assert said(billing, "price-book", "write", "-f", str(file))["released"] == 1
    assert json.loads(tidegate(billing, "price-book", "show", "list").stdout)["name"] == "list"
    written = said(billing, "contract", "write", "-f", "-", given=CONTRACT)
    assert written["tenant"] == "acme"
    usage = billing.get("/api/v1/usage", tenant="acme").json()["data"]
    assert usage[0]["amount_exact"] == "0.0025"
    why = ("ledger", "rerate", "--from", MONTH, "--tenant", "acme", "--note", "late")
    assert said(billing, *why) == {"changed": 1}
    rows = said(billing, "ledger", "adjustments", "--tenant", "acme")["data"]
    assert [row["after"] for row in rows] == ["0.0025", "0.00125"]
    assert "add up" in tidegate(billing, "ledger", "conservation").stdout
    assert said(billing, "ledger", "refused")["data"] == []
    assert len(said(billing, "price-book", "list")["data"]) == 1
    gone = said(billing, "contract", "withdraw", "acme")
    assert gone["document"] is None
    assert said(billing, "price-book", "withdraw", "list")["document"] is None


def test_what_cannot_be_written_is_one_line_and_exit_code_1(
    billing: Billing, tmp_path: Path
) -> None:
    for text, expected in {
        "a: [": "neither YAML nor JSON",
        "- a": "not one document",
        BOOK.replace('"2026-01-01T00:00:00Z"', "2026-01-01T00:00:00Z"): "put it in quotes",
        BOOK.replace('"8"', "8.5"): "entries[0].prices.output",
        BOOK.replace("currency: USD", "currency: usd"): "currency",
    }.items():
        file = tmp_path / "bad.yaml"
        file.write_text(text)
        done = tidegate(billing, "price-book", "write", "-f", str(file), code=1)
        assert expected in done.stderr
    missing = tidegate(billing, "price-book", "write", "-f", str(tmp_path / "no"), code=1)
    assert "cannot be read" in missing.stderr
    tidegate(billing, "contract", "show", "nobody", code=1)
    tidegate(billing, "ledger", "rerate", "--from", MONTH, code=2)


def test_a_difference_is_an_exit_code(billing: Billing) -> None:
    event = Usage(
        attempt_id=uuid7(), kind="settlement", request_id="r", tenant="acme", project="p",
        key_id="k", model="m", deployment="d/m", endpoint="chat", started_at=1,
        prompt_tokens=15, outcome="completed", source="engine", billed=True,
    )  # fmt: skip
    billing.send(UsageBatch(journal="j", first=1, last=1, events=[event]))
    with billing.tampered("UPDATE rollup_day SET prompt_tokens = 14"):
        done = tidegate(billing, "ledger", "conservation", code=1)
    assert "1 prompt_tokens fewer than in the ledger" in done.stdout
    assert said(billing, "ledger", "conservation")["days"]["data"] == []


def test_a_suggestion_is_a_draft_that_no_book_takes(billing: Billing, tmp_path: Path) -> None:
    draft = json.loads(tidegate(billing, "price-book", "suggest", "gpt-4o").stdout)
    assert "genai-prices" in json.dumps(draft["provenance"])
    file = tmp_path / "draft.json"
    file.write_text(json.dumps(draft["document"]))
    done = tidegate(billing, "price-book", "write", "-f", str(file), code=1)
    assert "effectiveFrom" in done.stderr
    tidegate(billing, "price-book", "suggest", "no-such-model", code=1)
