"""Usage, costs and receipts on the gateway, with the tenant's own key and OpenAI's own SDK.

The real router and the real billing over real sim traffic; the ledger's events, read by the
platform's operator one by one, say what the tenant should be told.
"""

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import httpx
import openai
import pytest

import running

PUBLIC = "  access: {visibility: Public}\n---\n"
MINUTE, HOUR, DAY = 60, 3600, 86_400
WIDTHS = {"1m": MINUTE, "1h": HOUR, "1d": DAY}
NAMES = {"project_id": "project", "api_key_id": "key_id", "model": "model"}


def document() -> str:
    chat = running.sim("sim").replace("---\n", PUBLIC)
    other = running.sim("other").replace("---\n", PUBLIC)
    embed = running.sim("embed").replace('model: {uri: "sim://embed"}',
                                         'model: {uri: "sim://embed", task: embed}')  # fmt: skip
    return chat + other + embed.replace("---\n", PUBLIC)


class Tenant:
    """A tenant's key, and the SDK with it."""

    def __init__(self, up: running.Platform, tenant: str, project: str) -> None:
        self.up, self.tenant, self.project = up, tenant, project
        admin = (up.data / "admin-token").read_text().strip()
        made = up.admin.post(
            up.run["admin_url"] + "/api/v1/keys",
            json={"tenant": tenant, "project": project, "name": "k"},
            headers={"authorization": f"Bearer {admin}"},
        ).json()
        self.key, self.key_id = made["key"], made["id"]
        self.sdk = openai.OpenAI(
            base_url=up.base + "/v1", api_key=self.key, admin_api_key=self.key, max_retries=0,
            timeout=60,
        )  # fmt: skip
        self.usage = self.sdk.admin.organization.usage
        self.http = httpx.Client(
            base_url=up.base, headers={"authorization": f"Bearer {self.key}"}, timeout=30,
            trust_env=False,
        )  # fmt: skip

    def get(self, path: str, **query: Any) -> httpx.Response:
        return self.http.get(path, params=query)

    def chat(self, model: str = "sim", tokens: int = 9) -> str:
        """A plain answer; its x-request-id."""
        raw = self.sdk.chat.completions.with_raw_response.create(
            model=model, messages=[{"role": "user", "content": "a b c"}], max_tokens=tokens
        )
        return str(raw.headers["x-request-id"])

    def leave(self) -> str:
        """Leave a stream after its first events; its x-request-id."""
        body = {"model": "sim", "messages": [{"role": "user", "content": "a b"}],
                "max_tokens": 4000, "stream": True}  # fmt: skip
        with self.http.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()
            for _ in range(9):
                next(lines)
            return str(answer.headers["x-request-id"])

    def close(self) -> None:
        self.sdk.close()
        self.http.close()


class Served:
    """A platform that has served three keys of two tenants."""

    def __init__(self, up: running.Platform) -> None:
        self.up = up
        self.web, self.app = Tenant(up, "acme", "web"), Tenant(up, "acme", "app")
        self.rival = Tenant(up, "rival", "web")
        self.tenants = [self.web, self.app, self.rival]
        self.begun = int(time.time())
        self.left = self.web.leave()
        self.requests = [
            self.web.chat("sim", 5),
            self.web.chat("other", 7),
            self.app.chat("sim", 11),
        ]
        self.foreign = self.rival.chat("sim", 13)
        self.web.sdk.embeddings.create(model="embed", input=["one two", "three"])
        for _ in self.app.sdk.chat.completions.create(
            model="other", messages=[{"role": "user", "content": "x"}], max_tokens=4, stream=True
        ):
            pass

        def told() -> bool:
            up.settled()
            return any(e["outcome"] == "aborted" for e in up.events())

        running.wait_for(told, "the aborted stream")
        self.events = [e for e in up.events() if e["billed"]]

    def of(self, tenant: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["tenant"] == tenant]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with running.platform(tmp_path_factory.mktemp("up"), document()) as up:
        made = Served(up)
        try:
            yield made
        finally:
            for tenant in made.tenants:
                tenant.close()


def at(event: dict[str, Any]) -> int:
    """When an attempt was made, by its id, in seconds."""
    return int(event["attempt_id"].replace("-", "")[:12], 16) // 1000


def expected(events: list[dict[str, Any]], width: int, groups: list[str]) -> dict[Any, Any]:
    sums: dict[Any, Counter[str]] = {}
    for event in events:
        key = (at(event) // width * width, *(event[NAMES[name]] for name in groups))
        sums.setdefault(key, Counter()).update(
            requests=1, input=event["prompt_tokens"], output=event["completion_tokens"]
        )
    return {key: dict(counted) for key, counted in sums.items()}


def told(buckets: Any, groups: list[str]) -> dict[Any, Any]:
    return {
        (bucket.start_time, *(getattr(one, name) for name in groups)): {
            "requests": one.num_model_requests,
            "input": one.input_tokens,
            "output": getattr(one, "output_tokens", 0),
        }
        for bucket in buckets
        for one in bucket.results
    }


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("groups", [[], ["model"], ["project_id", "api_key_id"]])
def test_the_sdk_reads_usage_to_the_token(served: Served, width: Any, groups: Any) -> None:
    seconds = WIDTHS[width]
    start = served.begun // seconds * seconds - seconds
    mine = served.of("acme")
    for read, endpoint in (
        (served.web.usage.completions, False), (served.app.usage.embeddings, True),
    ):  # fmt: skip
        page = read(start_time=start, bucket_width=width, group_by=groups)
        assert (page.object, page.has_more, page.next_page) == ("page", False, None)
        events = [e for e in mine if (e["model"] == "embed") is endpoint]
        assert told(page.data, groups) == expected(events, seconds, groups)
        assert page.data[0].results == []
        assert all(bucket.end_time - bucket.start_time == seconds for bucket in page.data)


def test_pages_put_together_are_one_page(served: Served) -> None:
    query: dict[str, Any] = {
        "start_time": served.begun - 2 * HOUR, "end_time": served.begun + HOUR,
        "bucket_width": "1m", "group_by": ["model"],
    }  # fmt: skip
    whole = served.web.usage.completions(**query, limit=1440)
    pieces: list[Any] = []
    page = served.web.usage.completions(**query, limit=50)
    pieces += page.data
    while page.has_more:
        served.web.chat("sim", 1)  # what comes meanwhile moves no bucket
        page = served.web.usage.completions(**query, limit=50, page=str(page.next_page))
        pieces += page.data
    assert [p.start_time for p in pieces] == [b.start_time for b in whole.data]
    assert len(pieces) == 181 or len(pieces) == 180
    served.up.settled()
    served.events = [e for e in served.up.events() if e["billed"]]


def test_costs_are_exact(served: Served) -> None:
    start = served.begun // DAY * DAY
    page = served.web.get("/v1/organization/costs", start_time=start).json()
    amounts = [one["amount"] for bucket in page["data"] for one in bucket["results"]]
    exact = sum(Decimal(e["amount_exact"]) for e in served.of("acme"))
    assert sum(Decimal(amount["value_exact"]) for amount in amounts) == exact > 0
    assert {amount["currency"] for amount in amounts} == {"usd"}
    by_item = served.web.usage.costs(start_time=start, group_by=["line_item", "project_id"])
    costs = [one for bucket in by_item.data for one in bucket.results]
    assert {one.project_id for one in costs} == {"web", "app"}  # type: ignore[union-attr]
    quantities: Counter[str] = Counter()
    for one in costs:
        assert one.quantity_unit == "tokens"  # type: ignore[union-attr]
        quantities[str(one.line_item)] += int(one.quantity or 0)  # type: ignore[union-attr]
    output = sum(e["completion_tokens"] for e in served.of("acme") if e["model"] == "other")
    assert quantities["other, output_tokens"] == output
    value = sum(one.amount.value for one in costs)  # type: ignore[union-attr,misc]
    assert value == pytest.approx(float(exact))


def test_a_receipt_is_the_ledgers_entry(served: Served) -> None:
    for request_id in [*served.requests, served.left]:
        (event,) = [e for e in served.events if e["request_id"] == request_id]
        found = served.app.sdk.get(f"/generations/{request_id}", cast_to=httpx.Response).json()
        assert (found["id"], found["model"]) == (request_id, event["model"])
        assert found["usage"]["input_tokens"] == event["prompt_tokens"]
        assert found["usage"]["output_tokens"] == event["completion_tokens"]
        assert [a["value_exact"] for a in found["amounts"]] == [event["amount_exact"]]
        assert (found["outcome"], found["billed"]) == (event["outcome"], True)
        (attempt,) = found["attempts"]
        lines = attempt["price"]["lines"]
        assert sum(Decimal(line["amount_exact"]) for line in lines) == Decimal(
            event["amount_exact"]
        )
        assert found["latency"]["seconds"] > 0
        text = str(found)
        for hidden in (event["deployment"], event["replica"], "rival"):
            assert hidden not in text
    left = served.web.get(f"/v1/generations/{served.left}").json()
    assert left["outcome_reason"] == "The client left before the answer's end."


def test_a_receipt_is_found_by_the_answers_own_id(served: Served) -> None:
    answer = served.web.sdk.chat.completions.create(
        model="sim", messages=[{"role": "user", "content": "x"}], max_tokens=2
    )
    served.up.settled()
    found = served.web.get(f"/v1/generations/{answer.id}").json()
    assert found["usage"]["output_tokens"] == 2
    assert answer.id.endswith(found["attempts"][0]["id"])
    served.events = [e for e in served.up.events() if e["billed"]]


def test_there_is_no_receipt_until_a_request_has_ended(served: Served) -> None:
    body = {
        "model": "sim", "messages": [{"role": "user", "content": "a"}], "max_tokens": 700,
        "stream": True,
    }  # fmt: skip
    with served.rival.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        path = f"/v1/generations/{answer.headers['x-request-id']}"
        time.sleep(2.5)  # by then billing has been told that it runs
        assert served.web.get(path).json()["error"]["code"] == "generation_not_found"
        early = httpx.get(
            served.up.base + path, headers={"authorization": f"Bearer {served.rival.key}"},
            trust_env=False,
        )  # fmt: skip
        assert (early.status_code, early.json()["error"]["param"]) == (404, "id")
        assert list(lines)[-2:] == ["data: [DONE]", ""]
    served.up.settled()
    found = served.rival.get(path).json()
    assert (found["usage"]["output_tokens"], found["outcome"]) == (700, "completed")
    assert found["latency"]["seconds"] > 2.5
    served.events = [e for e in served.up.events() if e["billed"]]


def test_tenants_are_apart(served: Served) -> None:
    rival = served.rival
    start = served.begun // DAY * DAY
    page = rival.usage.completions(start_time=start, group_by=["api_key_id", "model"])
    groups = ["api_key_id", "model"]
    assert told(page.data, groups) == expected(served.of("rival"), DAY, groups)
    narrowed = rival.usage.completions(start_time=start, api_key_ids=[served.web.key_id])
    assert [bucket.results for bucket in narrowed.data] == [[] for _ in narrowed.data]
    foreign = rival.get(f"/v1/generations/{served.requests[0]}")
    unknown = rival.get(f"/v1/generations/{served.requests[0][:-4]}0000")
    assert (foreign.status_code, unknown.status_code) == (404, 404)
    mine, theirs = foreign.json()["error"], unknown.json()["error"]
    assert mine["code"] == theirs["code"] == "generation_not_found"
    assert mine["message"].replace(served.requests[0], "") == theirs["message"].replace(
        served.requests[0][:-4] + "0000", ""
    )
    assert rival.get(f"/v1/generations/{served.foreign}").status_code == 200
    token = served.web.get("/v1/organization/costs", start_time=0).json()["next_page"]
    assert rival.get("/v1/organization/costs", start_time=0, page=token).status_code == 400


def test_what_cannot_be_asked_is_refused_in_openais_shape(served: Served) -> None:
    cases: list[tuple[str, dict[str, Any], int, str | None]] = [
        ("/v1/organization/usage/completions", {}, 400, "start_time"),
        ("/v1/organization/usage/completions", {"start_time": 0, "tenant": "rival"}, 400, "tenant"),
        ("/v1/organization/usage/completions", {"start_time": [1, 2]}, 400, "start_time"),
        ("/v1/organization/usage/completions", {"start_time": 0, "limit": 99}, 400, "limit"),
        ("/v1/organization/costs", {"start_time": 0, "group_by": "model"}, 400, "group_by"),
        ("/v1/organization/costs", {"start_time": 0, "page": "page_AAAA"}, 400, "page"),
        ("/v1/organization/usage/images", {"start_time": 0}, 404, None),
        ("/v1/organization/projects", {}, 404, None),
        ("/v1/generations/", {}, 404, "id"),
        (f"/v1/generations/{served.left}", {"tenant": "acme"}, 400, "tenant"),
    ]
    for path, query, status, param in cases:
        answer = served.web.get(path, **query)
        assert answer.status_code == status, (path, query, answer.text)
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["type"], error["param"]) == ("invalid_request_error", param)
    with pytest.raises(openai.BadRequestError) as caught:
        served.web.usage.completions(start_time=0, group_by=["user_id"])
    assert (caught.value.param, caught.value.code) == ("group_by", "invalid_value")
    path = "/v1/organization/costs?start_time=0"
    assert served.web.http.post(path).status_code == 405
    assert httpx.get(served.up.base + path, trust_env=False).status_code == 401
    wrong = {"authorization": "Bearer sk-wrong"}
    assert httpx.get(served.up.base + path, headers=wrong, trust_env=False).status_code == 401


def test_asking_is_no_usage_and_is_not_held_up_by_keep_alive(served: Served) -> None:
    before = served.up.metric("tidegate_tokens_total")
    for _ in range(3):
        assert served.web.get("/v1/organization/costs", start_time=0).status_code == 200
    served.up.settled()
    assert len([e for e in served.up.events() if e["billed"]]) == len(served.events)
    assert served.up.metric("tidegate_tokens_total") == before
    assert served.up.metric("tidegate_in_flight") == 0


@contextlib.contextmanager
def stopped(up: running.Platform, part: str) -> Iterator[None]:
    """A part that takes connections and answers nothing."""
    pid = up.part(part)["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_billing_away_is_told_and_inference_goes_on(served: Served) -> None:
    query = {"start_time": served.begun}
    served.rival.chat()
    with stopped(served.up, "billing"), ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(served.web.get, "/v1/organization/costs", **query) for _ in range(12)]
        time.sleep(0.5)
        begun = time.monotonic()
        for _ in range(5):
            served.rival.chat("sim", 1)
        assert time.monotonic() - begun < 3, "while questions wait for their deadline"
        answers = [one.result() for one in asked]
    codes = Counter((a.status_code, a.json()["error"]["code"]) for a in answers)
    assert codes == {(503, "usage_unavailable"): 8, (429, "too_many_inquiries"): 4}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in answers)
    back = running.wait_for(
        lambda: (a := served.web.get("/v1/organization/costs", **query)).status_code == 200 and a,
        "billing back",
    )
    assert back.json()["object"] == "page"
    served.up.settled()


def test_billing_killed_comes_back_with_the_same_numbers(served: Served) -> None:
    query = {"start_time": served.begun // DAY * DAY, "end_time": served.begun + DAY}
    path = "/v1/organization/usage/completions"
    before = served.web.get(path, **query).json()
    os.kill(served.up.part("billing")["pid"], signal.SIGKILL)
    seen = []

    def back() -> Any:
        answer = served.web.get(path, **query)
        seen.append(answer.status_code)
        return answer.status_code == 200 and answer.json()

    assert running.wait_for(back, "billing back") == before
    assert set(seen) <= {200, 503, 429}
    served.up.ready("billing")
