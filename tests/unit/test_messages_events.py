"""A chat's stream as a message's events, and a chat's whole answer as a message."""

import json
from typing import Any

import anthropic
import httpx2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_runtime.errors import PlatformError, Refusal, TenantError
from tidegate_runtime.messages import errors
from tidegate_runtime.messages.answer import counted, message
from tidegate_runtime.messages.events import Events
from tidegate_runtime.shape import refused
from tidegate_runtime.stream import MalformedAnswer

DONE = b"data: [DONE]\n\n"


def chunk(said: int, finish: str | None = None, stop: Any = None, **delta: Any) -> bytes:
    """A chunk as vLLM sends it, with the counts so far."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "stop_reason": stop}
    usage = {"prompt_tokens": 5, "completion_tokens": said, "total_tokens": 5 + said}
    body = {"id": "chatcmpl-a", "model": "m", "choices": [choice], "usage": usage}
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def final(said: int, cached: int = 0) -> bytes:
    usage = {
        "prompt_tokens": 5, "completion_tokens": said, "total_tokens": 5 + said,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }  # fmt: skip
    body = {"id": "chatcmpl-a", "model": "m", "choices": [], "usage": usage}
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def call(index: int, arguments: str = "", **more: Any) -> dict[str, Any]:
    name = more.pop("name", None)
    return {"index": index, **more, "function": {"name": name, "arguments": arguments}}


def arguments(given: dict[str, Any]) -> str:
    return str(given.get("INVALID_JSON", json.dumps(given)))


def events(*chunks: bytes) -> list[dict[str, Any]]:
    """The events of a stream, each checked for its frame."""
    scanner = Events(True, True)
    out = b"".join(scanner.feed(one) for one in chunks)
    found = []
    for block in out.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        one = json.loads(data.removeprefix("data: "))
        assert name == f"event: {one['type']}"
        found.append(one)
    return found


def read_by_sdk(stream: bytes) -> anthropic.types.Message:
    """What Anthropic's SDK makes of a stream."""

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=stream)

    with (
        httpx2.Client(transport=httpx2.MockTransport(answer)) as client,
        anthropic.Anthropic(api_key="k", http_client=client, max_retries=0) as sdk,
        sdk.messages.stream(model="m", max_tokens=9, messages=[]) as events,
    ):
        return events.get_final_message()


START = chunk(0, role="assistant", content="")
CASES: list[tuple[str, list[bytes], list[dict[str, Any]], str, str | None]] = [
    (
        "text",
        [chunk(1, content="a"), chunk(2, "stop", content="b")],
        [{"type": "text", "text": "ab"}],
        "end_turn",
        None,
    ),
    (
        "cut",
        [chunk(1, "length", content="a")],
        [{"type": "text", "text": "a"}],
        "max_tokens",
        None,
    ),
    (
        "stopped by a text",
        [chunk(1, "stop", "END", content="a")],
        [{"type": "text", "text": "a"}],
        "stop_sequence",
        "END",
    ),
    (
        "stopped by a token",
        [chunk(1, "stop", 7, content="a")],
        [{"type": "text", "text": "a"}],
        "end_turn",
        None,
    ),
    ("nothing said", [chunk(1, "stop")], [{"type": "text", "text": ""}], "end_turn", None),
    (
        "refused",
        [chunk(1, "content_filter", content="a")],
        [{"type": "text", "text": "a"}],
        "refusal",
        None,
    ),
    (
        "thought, then said",
        [chunk(1, reasoning="h"), chunk(2, reasoning="m"), chunk(3, "stop", content="a")],
        [
            {"type": "thinking", "thinking": "hm", "signature": "unsigned"},
            {"type": "text", "text": "a"},
        ],
        "end_turn",
        None,
    ),
    (
        "two calls after a text",
        [
            chunk(1, content="so "),
            chunk(2, tool_calls=[call(0, id="t0", name="f")]),
            chunk(3, tool_calls=[call(0, '{"a":')]),
            chunk(4, tool_calls=[call(0, "1}"), call(1, "{}", id="t1", name="g")]),
            chunk(5, "tool_calls"),
        ],
        [
            {"type": "text", "text": "so "},
            {"type": "tool_use", "id": "t0", "name": "f", "input": {"a": 1}},
            {"type": "tool_use", "id": "t1", "name": "g", "input": {}},
        ],
        "tool_use",
        None,
    ),
    (
        "a call that the caller named ends with `stop`",
        [chunk(1, tool_calls=[call(0, '{"a":1}', id="t0", name="f")]), chunk(2, "stop")],
        [{"type": "tool_use", "id": "t0", "name": "f", "input": {"a": 1}}],
        "tool_use",
        None,
    ),
    (
        "arguments that are no object",
        [
            chunk(1, tool_calls=[call(0, " ", id="t0", name="f")]),
            chunk(2, tool_calls=[call(0, '"a')]),
            chunk(3, tool_calls=[call(0, '"')]),
            chunk(4, "tool_calls"),
        ],
        [{"type": "tool_use", "id": "t0", "name": "f", "input": {"INVALID_JSON": ' "a"'}}],
        "tool_use",
        None,
    ),
    (
        "text within a call comes after it",
        [
            chunk(1, tool_calls=[call(0, '{"a"', id="t0", name="f")]),
            chunk(2, content="and"),
            chunk(3, tool_calls=[call(0, ":1}")]),
            chunk(4, "tool_calls"),
        ],
        [
            {"type": "tool_use", "id": "t0", "name": "f", "input": {"a": 1}},
            {"type": "text", "text": "and"},
        ],
        "tool_use",
        None,
    ),
]


@pytest.mark.parametrize(
    ("chunks", "content", "reason", "sequence"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_a_stream(
    chunks: list[bytes], content: list[dict[str, Any]], reason: str, sequence: str | None
) -> None:
    whole = [START, *chunks, final(9, cached=2), DONE]
    found = events(*whole)
    kinds = [one["type"] for one in found]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    started = found[0]["message"]
    assert (started["id"], started["content"], started["stop_reason"]) == ("msg_a", [], None)
    assert started["usage"]["input_tokens"] == 5
    opened = -1
    for one in found[1:-2]:  # one block after the other, each opened and closed
        if one["type"] == "content_block_start":
            opened += 1
        assert one["index"] == opened
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == opened + 1
    assert found[-2]["usage"] == {
        "input_tokens": 3, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 2,
        "output_tokens": 9, "output_tokens_details": {"thinking_tokens": 1},
    }  # fmt: skip
    said = read_by_sdk(Events(True, True).feed(b"".join(whole)))
    assert [block.to_dict() for block in said.content] == content
    assert (said.stop_reason, said.stop_sequence) == (reason, sequence)
    assert (said.usage.input_tokens, said.usage.output_tokens) == (3, 9)


@pytest.mark.parametrize(
    ("chunks", "content", "reason", "sequence"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_a_whole_answer_says_the_same_as_its_stream(
    chunks: list[bytes], content: list[dict[str, Any]], reason: str, sequence: str | None
) -> None:
    del chunks
    texts = "".join(one["text"] for one in content if one["type"] == "text")
    thoughts = "".join(one["thinking"] for one in content if one["type"] == "thinking")
    calls = [
        {"id": one["id"], "function": {"name": one["name"], "arguments": arguments(one["input"])}}
        for one in content
        if one["type"] == "tool_use"
    ]
    finish = {"max_tokens": "length", "refusal": "content_filter"}.get(reason, "stop")
    chat = {
        "id": "chatcmpl-a", "model": "m",
        "choices": [{"finish_reason": finish, "stop_reason": sequence,
                     "message": {"content": texts or None, "reasoning": thoughts or None,
                                 "tool_calls": calls}}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 9, "prompt_tokens_details": None},
    }  # fmt: skip
    found = json.loads(message(msgspec.json.encode(chat)))

    def ordered(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return sorted(blocks, key=lambda one: str(one["type"]))

    assert ordered(found["content"]) == ordered(content)
    assert (found["stop_reason"], found["stop_sequence"]) == (reason, sequence)
    assert found["usage"]["input_tokens"] == 5


def test_a_call_that_was_cut_short_is_not_passed_off_as_one() -> None:
    cut = chunk(1, "stop", "END", tool_calls=[call(0, '{"a":', id="t", name="f")])
    assert events(START, cut, DONE)[-2]["delta"]["stop_reason"] == "stop_sequence"
    function = {"name": "f", "arguments": '{"a":'}
    chat = {
        "id": "c", "model": "m",
        "choices": [{"finish_reason": "length",
                     "message": {"tool_calls": [{"id": "t", "function": function}]}}],
    }  # fmt: skip
    found = json.loads(message(msgspec.json.encode(chat)))
    assert found["stop_reason"] == "max_tokens"
    assert found["content"][0]["input"] == {"INVALID_JSON": '{"a":'}


@given(st.integers(0, len(CASES) - 1), st.lists(st.integers(0, 2000), max_size=8))
def test_how_the_network_splits_it_changes_nothing(case: int, cuts: list[int]) -> None:
    whole = b"".join([START, *CASES[case][1], final(9), DONE])
    at_once = Events(True, True).feed(whole)
    scanner, out, last = Events(True, True), b"", 0
    for cut in sorted(min(one, len(whole)) for one in cuts):
        out += scanner.feed(whole[last:cut])
        last = cut
    assert out + scanner.feed(whole[last:]) == at_once
    assert scanner.done
    assert scanner.final


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), st.integers(1, 7))
def test_every_character_comes_through(text: str, step: int) -> None:
    pieces = [text[at : at + step] for at in range(0, len(text), step)]
    chunks = [chunk(i + 1, content=piece) for i, piece in enumerate(pieces)]
    found = events(START, *chunks, chunk(len(pieces), "stop"), DONE)
    deltas = [one["delta"]["text"] for one in found if one["type"] == "content_block_delta"]
    assert deltas == pieces


def test_what_was_received_was_counted_before() -> None:
    scanner = Events(True, True)
    received = 0
    for said in range(1, 20):
        received += scanner.feed(chunk(said, content="x")).count(b"text_delta")
        assert received <= scanner.completion == said
    seen = scanner.seen()
    assert seen is not None
    assert (seen.prompt_tokens, seen.completion_tokens) == (5, 19)


@pytest.mark.parametrize(
    "chunks",
    [
        [b"data: {\n\n"],
        [b'data: {"choices": 7}\n\n'],
        [DONE],
        [START, DONE],
        [START, chunk(1, "abort"), DONE],
        [START, chunk(1, tool_calls=[call(0, "{}", id="t")])],
        [
            START,
            chunk(
                1,
                tool_calls=[
                    call(0, id="t", name="f"),
                    call(1, id="u", name="g"),
                    call(0, "{}"),
                ],
            ),
        ],
    ],
)
def test_an_engine_that_does_not_speak_its_protocol(chunks: list[bytes]) -> None:
    with pytest.raises(MalformedAnswer):
        events(*chunks)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"id":"c","model":"m","choices":[]}',
        b'{"id":"c","model":"m","choices":[{"message":{"content":"x"},"finish_reason":"abort"}]}',
    ],
)
def test_a_whole_answer_that_is_none(body: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        message(body)


def test_an_engines_own_error_in_a_stream() -> None:
    said = b'data: {"error":{"message":"out of memory","type":"x","code":500}}\n\n'
    found = events(START, said, DONE)
    assert [one["type"] for one in found] == ["message_start", "error"]
    assert found[1]["error"]["message"] == "out of memory"


def test_counts() -> None:
    assert counted(b'{"count": 7, "tokens": [1]}') == b'{"input_tokens":7}'
    with pytest.raises(MalformedAnswer):
        counted(b'{"tokens": []}')


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "invalid_request", "invalid_request_error"),
        (401, "invalid_api_key", "authentication_error"),
        (402, "credit_exhausted", "billing_error"),
        (403, "route_not_allowed", "permission_error"),
        (404, "model_not_found", "not_found_error"),
        (405, "method_not_allowed", "invalid_request_error"),
        (408, "request_timeout", "timeout_error"),
        (413, "body_too_large", "request_too_large"),
        (429, "held_queue_full", "rate_limit_error"),
        (503, "held_queue_full", "overloaded_error"),
        (429, "too_many_requests", "rate_limit_error"),
        (500, "internal_error", "api_error"),
        (502, "engine_broke_off", "api_error"),
        (503, "model_start_failed", "api_error"),
        (503, "model_not_ready", "api_error"),
        (503, "stopping", "overloaded_error"),
    ],
)
def test_errors_by_status_and_code(status: int, code: str, kind: str) -> None:
    said = json.loads(errors.body(Refusal(status, code, "why", param="p"), "req-1"))
    error = {"type": kind, "message": "why", "details": {"error_code": code, "param": "p"}}
    assert said == {"type": "error", "error": error, "request_id": "req-1"}


def test_the_route_has_the_shape() -> None:
    late = TenantError(408, "request_timeout", "late")
    for path in ("/v1/messages", "/v1/messages?beta=true", "/v1/messages/count_tokens"):
        head, _, body = refused(late, path, "req-1", close=True).partition(b"\r\n\r\n")
        assert b"\r\nrequest-id: req-1" in head
        assert json.loads(body)["error"]["type"] == "timeout_error"
    for path in ("", "/v1/messagesx", "/v1/chat/completions"):
        head, _, body = refused(late, path, "req-1", close=True).partition(b"\r\n\r\n")
        assert b"\r\nrequest-id:" not in head
        assert json.loads(body)["error"]["code"] == "request_timeout"
    busy = PlatformError(503, "overloaded", "much", retry_after=3)
    assert b"\r\nretry-after: 3\r\n" in refused(busy, "/v1/messages", "r", close=False)
