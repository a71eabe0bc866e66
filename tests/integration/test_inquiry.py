"""`/internal/inquiry` as routers use it: the real billing process, on both databases."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from billing_process import ADMIN, INTERNAL, Billing
from ledgers import Ledgers
from tidegate_billing.links import ModelPricing, Pricing, UsageBatch
from tidegate_billing.usage import Usage, uuid7

COSTS = "/v1/organization/costs"
COMPLETIONS = "/v1/organization/usage/completions"


@pytest.fixture
def billing(ledgers: Ledgers, tmp_path: Path) -> Iterator[Billing]:
    made = Billing(tmp_path, ledgers.empty_url(), ledgers.server)
    try:
        made.start()
        yield made
    finally:
        made.close()


def inquire(
    billing: Billing, path: str, query: str = "", tenant: str = "team-b", **more: Any
) -> httpx.Response:
    body = {"tenant": tenant, "path": path, "query": query, **more}
    return httpx.post(billing.url("/internal/inquiry"), json=body, headers=INTERNAL, timeout=20)


def used(billing: Billing, count: int) -> list[Usage]:
    """So many settlements of now, kept."""
    pricing = Pricing(input_per_million="0.10", output_per_million="0.40")
    model = ModelPricing(deployment="d/m", model="m", owner="team-a", pricing=pricing)
    billing.put("/internal/models", [model])
    events = []
    for _ in range(count):
        uuid = uuid7()
        events.append(
            Usage(
                attempt_id=uuid, kind="settlement", request_id=f"req-{uuid}", tenant="team-b",
                project="web", key_id="key_1", model="m", deployment="d/m",
                endpoint="/v1/chat/completions", started_at=time.time_ns() // 1000,
                finished_at=time.time_ns() // 1000 + 5, prompt_tokens=5, completion_tokens=16,
                outcome="completed", source="engine", billed=True, price_version=1,
            )
        )  # fmt: skip
    billing.send(UsageBatch(journal="j", first=1, last=count, events=events))
    return events


def test_usage_has_no_lag_and_outlives_the_process(billing: Billing) -> None:
    start = int(time.time()) // 60 * 60
    (first, *_) = used(billing, 3)
    query = f"start_time={start}&bucket_width=1m&group_by[]=api_key_id"
    page = inquire(billing, COMPLETIONS, query).json()
    results = [one for bucket in page["data"] for one in bucket["results"]]
    assert sum(one["num_model_requests"] for one in results) == 3
    assert {one["api_key_id"] for one in results} == {"key_1"}
    receipt = inquire(billing, f"/v1/generations/{first.request_id}").json()
    assert receipt["amounts"][0]["value_exact"] == "0.0000069"
    costs = inquire(billing, COSTS, f"start_time={start}&end_time={start + 120}").json()
    billing.end(signal.SIGKILL)
    billing.start()
    again = inquire(billing, COSTS, f"start_time={start}&end_time={start + 120}").json()
    assert again == costs
    value = [one["amount"]["value_exact"] for bucket in costs["data"] for one in bucket["results"]]
    assert value == ["0.0000207"]


def test_only_routers_may_ask_and_only_for_a_tenant(billing: Billing) -> None:
    body = {"tenant": "team-b", "path": COSTS, "query": "start_time=0"}
    url = billing.url("/internal/inquiry")
    for headers in ({}, ADMIN, {"authorization": "Bearer x"}):
        assert httpx.post(url, json=body, headers=headers).status_code == 401
    assert httpx.get(url, headers=INTERNAL).status_code == 405
    del body["tenant"]
    answer = httpx.post(url, json=body, headers=INTERNAL)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tenant")


@pytest.mark.parametrize(
    ("path", "query", "status", "param"),
    [
        (COMPLETIONS, "", 400, "start_time"),
        (COMPLETIONS, "start_time=0&tenant=x", 400, "tenant"),
        (COSTS, "start_time=0&page=page_", 400, "page"),
        ("/v1/organization/usage/images", "start_time=0", 404, None),
        ("/v1/generations/req-x", "", 404, "id"),
        ("/v1/generations/req-x", "a=b", 400, "a"),
    ],
)
def test_refusals_name_the_parameter(
    billing: Billing, path: str, query: str, status: int, param: str | None
) -> None:
    answer = inquire(billing, path, query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_many_at_once_get_the_same_answer_while_usage_is_kept(billing: Billing) -> None:
    used(billing, 50)
    start = int(time.time()) // 86_400 * 86_400 - 86_400
    with ThreadPoolExecutor(8) as pool:
        query = f"start_time={start}&group_by=line_item"
        asked = [pool.submit(inquire, billing, COSTS, query) for _ in range(40)]
        answers = {answer.result().content for answer in asked}
    (one,) = answers
    totals = [
        item["amount"]["value_exact"]
        for bucket in msgspec.json.decode(one)["data"]
        for item in bucket["results"]
    ]
    assert sorted(totals) == ["0.000025", "0.00032"]
