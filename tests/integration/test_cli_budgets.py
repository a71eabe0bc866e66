"""`tidegate budget` and `tidegate webhook` against the real billing process."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from billing_process import Billing
from receivers import Receiver, receiving
from running import wait_for
from tidegate_billing.links import ModelPricing, Pricing, UsageBatch
from tidegate_billing.usage import Usage, uuid7

MODEL = ModelPricing(deployment="d/m", model="m", owner="o", pricing=Pricing(input_per_million="1"))


@pytest.fixture
def billing(tmp_path: Path) -> Iterator[Billing]:
    made = Billing(tmp_path, f"sqlite:///{tmp_path}/ledger.db")
    made.flags = ["--webhook-destinations", "local"]
    try:
        made.start()
        made.key(tenant="acme")
        made.put("/internal/models", [MODEL])
        yield made
    finally:
        made.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


def tidegate(billing: Billing, *words: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, "-Im", "tidegate_operator.cli", *words],
        env={
            "PATH": os.environ["PATH"],
            "TIDEGATE_ADMIN_URL": billing.url(""),
            "TIDEGATE_ADMIN_TOKEN": "admin-token",
            "COLUMNS": "300",
        },
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == code, done.stderr + done.stdout
    return done


def said(billing: Billing, *words: str) -> Any:
    return json.loads(tidegate(billing, *words, "--json").stdout)


def test_a_budget_from_its_making_to_its_end(billing: Billing) -> None:
    of = ("--tenant", "acme")
    wanted = (*of, "--limit", "0.01", "--period", "total")
    made = said(billing, "budget", "create", *wanted, "--project", "web", "--hard",
                "--thresholds", "10,100")  # fmt: skip
    assert (made["scope"], made["subject"], made["hard"]) == ("project", "web", True)
    event = Usage(
        attempt_id=uuid7(), kind="settlement", request_id="r", tenant="acme", project="web",
        key_id="k", model="m", deployment="d/m", endpoint="chat", started_at=1,
        prompt_tokens=2500, outcome="completed", source="engine", billed=True,
    )  # fmt: skip
    billing.send(UsageBatch(journal="j", first=1, last=1, events=[event]))
    state = said(billing, "budget", "show", made["id"])
    assert (state["spent"], state["left"], state["reached"]) == ("0.0025", "0.0075", [10])
    assert "0.0075" in tidegate(billing, "budget", "show", made["id"]).stdout
    changed = said(billing, "budget", "update", made["id"], "--limit", "5", "--soft",
                   "--thresholds", "none", "--time-zone", "Europe/Berlin")  # fmt: skip
    assert (changed["limit"], changed["hard"], changed["thresholds"]) == ("5", False, [])
    back = said(billing, "budget", "update", made["id"], "--time-zone", "tenant")
    assert back["time_zone"] is None
    tidegate(billing, "budget", "update", made["id"], "--limit", "6", "--if-match", '"1"', code=1)
    assert len(said(billing, "budget", "list", *of)["data"]) == 1
    said(billing, "budget", "delete", made["id"])
    assert "no budgets" in tidegate(billing, "budget", "list").stdout
    missing = tidegate(billing, "budget", "show", made["id"], code=1)
    assert "there is no budget" in missing.stderr
    for wrong in (("--project", "no"), ("--key", "key_no"), ("--currency", "usd")):
        assert "allowed" in tidegate(billing, "budget", "create", *wanted, *wrong, code=1).stderr
    for bad in (("--thresholds", "x"), ("--project", "web", "--key", "k")):
        tidegate(billing, "budget", "create", *wanted, *bad, code=2)


def test_a_webhook_from_its_making_to_its_end(billing: Billing, receiver: Receiver) -> None:
    of = ("--tenant", "acme")
    secret = tidegate(billing, "webhook", "create", *of, receiver.url()).stdout.strip()
    assert secret.startswith("whsec_")
    receiver.secrets = [secret]
    (made,) = said(billing, "webhook", "list", *of)["data"]
    said(billing, "webhook", "test", made["id"])
    wait_for(lambda: receiver.ids, "the message came")

    def delivered() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = said(
            billing, "webhook", "deliveries", *of, "--state", "delivered"
        )["data"]
        return found

    wait_for(delivered, "it is written down")
    (delivery,) = delivered()
    logged = said(billing, "webhook", "deliveries", delivery["id"])
    assert [line["status"] for line in logged["log"]] == [200]
    assert "200" in tidegate(billing, "webhook", "deliveries", delivery["id"]).stdout
    fresh = tidegate(billing, "webhook", "rotate", made["id"], "--overlap", "0s").stdout.strip()
    receiver.secrets = [fresh]
    said(billing, "webhook", "replay", delivery["id"])
    wait_for(lambda: len(receiver.ids) == 2, "it came once more")
    assert len(set(receiver.ids)) == 1
    off = said(billing, "webhook", "update", made["id"], "--disable", "--events", "credit.low")
    assert (off["disabled_reason"], off["events"]) == ("by hand", ["credit.low"])
    refused = tidegate(billing, "webhook", "replay", delivery["id"], code=1)
    assert "enable it first" in refused.stderr
    on = said(billing, "webhook", "update", made["id"], "--enable", "--events", "all")
    assert (on["disabled_at"], on["events"]) == (None, None)
    assert "all" in tidegate(billing, "webhook", "show", made["id"]).stdout
    said(billing, "webhook", "delete", made["id"])
    assert "no endpoints" in tidegate(billing, "webhook", "list").stdout
    tidegate(billing, "webhook", "create", *of, "ftp://x.test/", code=1)
    tidegate(billing, "webhook", "update", made["id"], "--events", "x", code=1)
