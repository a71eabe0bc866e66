"""Bodies: what is read of them, what is refused, what is spliced in."""

import json

import pytest

from tidegate_runtime import openai
from tidegate_runtime.errors import TenantError
from tidegate_runtime.route import Wait, least_load

MESSAGES = [{"role": "user", "content": "hi"}]


def chat(**fields: object) -> bytes:
    return json.dumps({"model": "m", "messages": MESSAGES, **fields}).encode()


@pytest.mark.parametrize(
    ("endpoint", "body", "param"),
    [
        (openai.CHAT, b"{", None),
        (openai.CHAT, b"\xff\xfe", None),
        (openai.CHAT, b"[]", None),
        (openai.CHAT, b'{"messages":[]}', "model"),
        (openai.CHAT, b'{"model":7,"messages":[{}]}', "model"),
        (openai.CHAT, b'{"model":"m"}', "messages"),
        (openai.CHAT, b'{"model":"m","messages":"hi"}', "messages"),
        (openai.CHAT, b'{"model":"m","messages":[]}', "messages"),
        (openai.CHAT, chat(stream="yes"), "stream"),
        (openai.CHAT, chat(n=0), "n"),
        (openai.CHAT, chat(n=10**6), "n"),
        (openai.CHAT, chat(max_tokens="many"), "max_tokens"),
        (openai.CHAT, chat(stream=True, stream_options=[]), None),
        (openai.CHAT, chat(stream_options={"include_usage": True}), "stream_options"),
        (openai.CHAT, chat(cache_salt=1), "cache_salt"),
        (openai.CHAT, chat(use_beam_search=True), "use_beam_search"),
        (openai.COMPLETIONS, b'{"model":"m"}', "prompt"),
        (openai.EMBEDDINGS, b'{"model":"m","input":""}', "input"),
        (openai.CHAT, b'{"model":"m","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
    ],
)
def test_bad_bodies(endpoint: str, body: bytes, param: str | None) -> None:
    with pytest.raises(TenantError) as caught:
        openai.parse(endpoint, body)
    assert caught.value.status == 400
    assert caught.value.param == param
    error = json.loads(caught.value.body())["error"]
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("fields", "merged"),
    [
        ({}, {}),
        ({"stream_options": None}, {}),
        ({"stream_options": {}}, {}),
        ({"stream_options": {"include_usage": False, "x": [1]}}, {"x": [1]}),
        ({"stream_options": {"include_usage": True}, "stream_options_": "}"}, {}),
    ],
)
def test_splice(fields: dict[str, object], merged: dict[str, object]) -> None:
    body = chat(stream=True, **fields) + b" \n"
    request = openai.parse(openai.CHAT, body)
    doc = json.loads(openai.splice(body, request, "salt"))
    options = {"include_usage": True, "continuous_usage_stats": True, **merged}
    assert doc["stream_options"] == options
    assert doc["cache_salt"] == "salt"
    assert doc["messages"] == MESSAGES
    assert request.want_usage is bool((fields.get("stream_options") or {}).get("include_usage"))


@pytest.mark.parametrize(
    ("prompt", "count"), [("a", 1), (["a"], 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1], [2, 3]], 2)]
)
def test_how_many_prompts(prompt: object, count: int) -> None:
    body = json.dumps({"model": "m", "prompt": prompt, "n": 3}).encode()
    request = openai.parse(openai.COMPLETIONS, body)
    assert (request.prompts, request.choices) == (count, 3)


def test_plain_bodies_are_forwarded_as_they_are() -> None:
    body = chat(n=2, max_completion_tokens=5)
    request = openai.parse(openai.CHAT, body)
    assert (request.choices, request.max_tokens, request.stream) == (2, 5, False)
    assert openai.splice(body, request, "") is body


class Replica:
    def __init__(self, id: str, in_flight: int, usable: bool = True) -> None:
        self.id, self.in_flight, self.usable = id, in_flight, usable


@pytest.mark.parametrize(
    ("replicas", "failed", "chosen"),
    [
        ([], set(), Wait("no_replica")),
        ([Replica("a", 0, usable=False)], set(), Wait("no_replica")),
        ([Replica("a", 4)], set(), Wait("all_busy")),
        ([Replica("a", 0)], {"a"}, Wait("all_failed")),
        ([Replica("a", 0), Replica("b", 4)], {"a"}, Wait("all_busy")),
        ([Replica("a", 2), Replica("b", 1), Replica("c", 1)], set(), "b"),
        ([Replica("a", 2), Replica("b", 1)], {"b"}, "a"),
    ],
)
def test_least_load(replicas: list[Replica], failed: set[str], chosen: Wait | str) -> None:
    got = least_load(replicas, 4, failed)
    assert (got if isinstance(got, Wait) else got.id) == chosen
