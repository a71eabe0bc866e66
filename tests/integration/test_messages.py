"""Anthropic's Messages API on the gateway, asked with Anthropic's own SDK, and billed exactly."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest

import running
from paying import Payer

HELLO: list[Any] = [{"role": "user", "content": "one two three"}]
TOOLS: list[Any] = [
    {"name": "weather", "description": "Of a city.", "input_schema": {"properties": {"city": {}}}}
]
COLD = running.sim("cold", start_seconds=2.5, heartbeat=1)
FRAIL = running.sim("frail", tokens_per_second=100)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[running.Platform]:
    folder = tmp_path_factory.mktemp("messages")
    with running.platform(folder, running.sim() + COLD + FRAIL) as one:
        yield one
        one.settled()
        assert not running.audit(one.events(), one.truth())
        assert all(row["unexplained"] == 0 for row in one.conservation())
        assert one.drifts() == []
        assert "Traceback" not in (folder / "up.out").read_text()


@pytest.fixture
def sdk(up: running.Platform) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=up.base, api_key=up.key, max_retries=0, timeout=60) as one:
        yield one


def settled(up: running.Platform, request_id: str | None) -> list[dict[str, Any]]:
    """The settlements of a request."""
    up.settled()
    return up.events(request_id=request_id)


def fault(up: running.Platform, model: str, fail: str | None) -> None:
    """Change what a running sim does wrong."""
    engine = next(one for one in up.run["engines"] if one["model"].endswith(model))
    headers = {"authorization": f"Bearer {engine['guard']}"}
    answer = httpx.put(
        engine["url"] + "/sim/faults", json={"fail": fail}, headers=headers, trust_env=False
    )
    assert answer.status_code == 200, answer.text


def test_whole_and_streamed_are_billed_as_they_say(
    up: running.Platform, sdk: anthropic.Anthropic
) -> None:
    """Many turns, a system prompt, a tool's call and its result: the sim counts the words of all."""
    turns: list[Any] = [
        *HELLO,
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "so", "signature": "x"},
                                          {"type": "text", "text": "four"},
                                          {"type": "tool_use", "id": "toolu_1", "name": "weather",
                                           "input": {"city": "Rome"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1",
                                      "content": [{"type": "text", "text": "it is sunny"}]},
                                     {"type": "text", "text": "five six"}]},
    ]  # fmt: skip
    ask: dict[str, Any] = {
        "model": "sim", "max_tokens": 7, "system": "be brief", "messages": turns, "tools": TOOLS,
        "stop_sequences": ["never"], "metadata": {"user_id": "u"},
    }  # fmt: skip
    whole = sdk.messages.create(**ask)
    with sdk.messages.stream(**ask) as stream:
        texts = list(stream.text_stream)
        streamed = stream.get_final_message()
    assert "".join(texts) == "".join(f" t{i}" for i in range(7))
    assert len(texts) == 7, "as it is made, not at the end"
    requests = (whole._request_id, stream.response.headers["request-id"])
    for message, request in zip((whole, streamed), requests, strict=True):
        assert (message.type, message.role, message.model) == ("message", "assistant", "sim")
        assert message.id.startswith("msg_")
        assert [block.to_dict() for block in message.content] == [
            {"type": "text", "text": "".join(texts)}
        ]
        assert (message.stop_reason, message.stop_sequence) == ("max_tokens", None)
        (event,) = settled(up, request)
        cached = event["cached_tokens"]
        assert (event["billed"], event["outcome"], event["source"]) == (True, "completed", "engine")
        assert event["prompt_tokens"] == 2 + 3 + 1 + 3 + 2
        assert message.usage.input_tokens == event["prompt_tokens"] - cached
        assert message.usage.cache_read_input_tokens == cached
        assert message.usage.output_tokens == event["completion_tokens"] == 7


def test_the_how_to_does_what_it_says(
    up: running.Platform, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "messages.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    code = code.replace("http://127.0.0.1:8080", up.base).replace("smollm2", "sim")
    names: dict[str, Any] = {"KEY": up.key}
    exec(compile(code, "messages.md", "exec"), names)
    names["client"].close()
    told = capsys.readouterr().out.split()
    assert told.count("t99") == 2
    assert told[100:102] == ["8", "100"]
    assert told[-1] == "4"


def test_tokens_are_counted_and_not_billed(up: running.Platform, sdk: anthropic.Anthropic) -> None:
    said = sdk.messages.with_raw_response.count_tokens(
        model="sim", system="be brief", messages=HELLO, tools=TOOLS
    )
    assert said.parse().input_tokens == 5
    (event,) = settled(up, said.headers["request-id"])
    assert (event["billed"], event["prompt_tokens"], event["amount_exact"]) == (False, 0, None)


def test_a_key_may_come_as_x_api_key(up: running.Platform) -> None:
    body = {"model": "sim", "max_tokens": 1, "messages": HELLO}
    for headers in ({"x-api-key": up.key}, {"authorization": f"bearer {up.key}"}):
        answer = httpx.post(
            up.base + "/v1/messages?beta=true", json=body, trust_env=False, timeout=60,
            headers={"anthropic-version": "2023-06-01", "anthropic-beta": "x", **headers},
        )  # fmt: skip
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_anthropics_shape(
    up: running.Platform, sdk: anthropic.Anthropic, stream: bool
) -> None:
    good: dict[str, Any] = {
        "model": "sim",
        "max_tokens": 2,
        "messages": HELLO,
        "stream": stream,
    }
    document = {"type": "document", "source": {"type": "text", "data": "x"}}
    cases: list[tuple[dict[str, Any], type[anthropic.APIStatusError], str, str]] = [
        (
            {"model": "nobody"},
            anthropic.NotFoundError,
            "not_found_error",
            "`nobody` does not exist",
        ),
        ({"max_tokens": 0}, anthropic.BadRequestError, "invalid_request_error", "max_tokens: "),
        ({"messages": []}, anthropic.BadRequestError, "invalid_request_error", "messages: "),
        (
            {"messages": [{"role": "user", "content": [document]}]},
            anthropic.BadRequestError,
            "invalid_request_error",
            "messages[0].content[0].type: Invalid value 'document'; allowed: text, image, ",
        ),
        (
            {"max_tokens": 10_000_000},  # what the engine refuses, in its words
            anthropic.BadRequestError,
            "invalid_request_error",
            "maximum context length",
        ),
    ]
    for change, kind, name, message in cases:
        with pytest.raises(kind) as caught:
            sdk.messages.create(**{**good, **change})
        error = caught.value
        assert (error.type, message in (error.api_message or "")) == (name, True), error
        body = error.body
        assert isinstance(body, dict)
        assert body["type"] == "error"
        assert body["request_id"] == error.request_id == error.response.headers["x-request-id"]
    with pytest.raises(anthropic.AuthenticationError) as refused:
        sdk.with_options(api_key="sk-wrong").messages.create(**good)
    assert (refused.value.type, refused.value.error_code) == (
        "authentication_error",
        "invalid_api_key",
    )


def test_what_never_became_a_request_is_refused_in_that_shape(up: running.Platform) -> None:
    big = b"x" * (33 * 1024 * 1024)
    with up.client() as client:
        cases = [
            (client.get("/v1/messages"), 405, "invalid_request_error"),
            (client.post("/v1/messages", content=b"{"), 400, "invalid_request_error"),
            (client.post("/v1/messages/batches", json={}), 404, "not_found_error"),
            (client.post("/v1/messages?beta=true", content=big), 413, "request_too_large"),
        ]
        other = client.post("/v1/messagesx", json={})
    for answer, status, kind in cases:
        assert answer.status_code == status, answer.text
        said = answer.json()
        assert (said["type"], said["error"]["type"]) == ("error", kind)
        assert said["request_id"] == answer.headers["request-id"]
    assert other.json()["error"]["code"] == "not_found", "other routes keep OpenAI's shape"


def test_a_cold_start_is_waited_for(up: running.Platform, sdk: anthropic.Anthropic) -> None:
    """The first request streams: comments come before `message_start`, and the SDK passes them over."""
    ask: dict[str, Any] = {"model": "cold", "max_tokens": 3, "messages": HELLO}
    body = json.dumps({**ask, "stream": True})
    with up.client() as client, client.stream("POST", "/v1/messages", content=body) as raw:
        lines = raw.iter_lines()
        assert next(lines) == ": held"
        with sdk.messages.stream(**ask) as stream:  # begun while nothing is ready yet
            assert stream.get_final_text() == " t0 t1 t2"
        events = [line for line in lines if line.startswith("event: ")]
    assert [name for name, _ in itertools.groupby(events)] == [
        "event: message_start", "event: content_block_start", "event: content_block_delta",
        "event: content_block_stop", "event: message_delta", "event: message_stop",
    ]  # fmt: skip


def test_an_abort_pays_for_what_it_received(up: running.Platform, sdk: anthropic.Anthropic) -> None:
    for received in (1, 5):
        with sdk.messages.stream(model="frail", max_tokens=5000, messages=HELLO) as stream:
            texts = itertools.islice(stream.text_stream, received)
            assert list(texts) == [f" t{i}" for i in range(received)]
            request = stream.response.headers["request-id"]
        (event,) = running.wait_for(lambda r=request: settled(up, r), "the settlement")
        assert (event["outcome"], event["source"], event["billed"]) == ("aborted", "partial", True)
        made = up.truth()[event["attempt_id"]]["generated_tokens"]
        assert received <= event["completion_tokens"] <= made < 5000
        assert event["prompt_tokens"] == 3


def test_an_engine_that_breaks_off(up: running.Platform, sdk: anthropic.Anthropic) -> None:
    sdk.messages.create(model="frail", max_tokens=1, messages=HELLO)
    for kind in ("malformed@4", "crash@4"):
        fault(up, "frail", kind)
        texts: list[str] = []
        with (
            pytest.raises(anthropic.APIStatusError) as caught,
            sdk.messages.stream(model="frail", max_tokens=50, messages=HELLO) as stream,
        ):
            texts.extend(stream.text_stream)
        error = caught.value
        assert (error.type, error.error_code) == ("api_error", "engine_broke_off"), error
        (event,) = settled(up, stream.response.headers["request-id"])
        assert (event["outcome"], event["billed"]) == ("broken", True)
        assert len(texts) <= event["completion_tokens"] <= 4
        body = error.body
        assert isinstance(body, dict)
        assert body["request_id"] == event["request_id"]


def test_before_the_first_byte_it_is_tried_again(
    up: running.Platform, sdk: anthropic.Anthropic
) -> None:
    sdk.messages.create(model="sim", max_tokens=1, messages=HELLO)
    for stream in (False, True):
        fault(up, "sim", "refuse@1")
        said = sdk.messages.with_raw_response.create(
            model="sim", max_tokens=4, messages=HELLO, stream=stream
        )
        list(said.parse()) if stream else said.parse()
        first, second = sorted(settled(up, said.headers["request-id"]), key=lambda e: e["billed"])
        assert (first["billed"], first["reason"]) == (False, "retry")
        assert (second["billed"], second["completion_tokens"]) == (True, 4)
    fault(up, "sim", None)


def test_credit_cuts_an_answer_and_then_refuses(up: running.Platform) -> None:
    payer = Payer.of(up, "default", up.key)
    payer.call("PATCH", "/api/v1/tenants/default", {"plan": "prepaid"})
    try:
        payer.grant("0.00002")
        with anthropic.Anthropic(base_url=up.base, api_key=up.key, max_retries=0) as sdk:
            message = sdk.messages.create(model="sim", max_tokens=5000, messages=HELLO)
            assert message.stop_reason == "max_tokens"
            assert message.usage.output_tokens < 60
            up.settled()
            with pytest.raises(anthropic.APIStatusError) as refused:
                sdk.messages.create(model="sim", max_tokens=1, messages=HELLO * 40)
        error = refused.value
        assert (error.status_code, error.type) == (402, "billing_error")
        assert error.error_code == "credit_exhausted"
    finally:
        payer.call("PATCH", "/api/v1/tenants/default", {"plan": "postpaid"})


def test_a_key_for_other_routes_may_not(up: running.Platform) -> None:
    payer = Payer(up, "scoped", "postpaid")
    other = payer.post(
        "/api/v1/keys", tenant="default", project="p", name="chat-only", routes=["chat"]
    )
    own = payer.post("/api/v1/keys", tenant="default", project="p", name="own", routes=["messages"])
    ask: dict[str, Any] = {"model": "sim", "messages": HELLO}
    with anthropic.Anthropic(base_url=up.base, api_key=other["key"], max_retries=0) as sdk:
        for call in (
            lambda: sdk.messages.create(**ask, max_tokens=1),
            lambda: sdk.messages.count_tokens(**ask),
        ):
            with pytest.raises(anthropic.PermissionDeniedError) as refused:
                call()
            assert refused.value.type == "permission_error"
    with anthropic.Anthropic(base_url=up.base, api_key=own["key"], max_retries=0) as sdk:
        assert sdk.messages.create(**ask, max_tokens=1).stop_reason == "max_tokens"
        assert sdk.messages.count_tokens(**ask).input_tokens == 3
