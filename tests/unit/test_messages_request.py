"""A request of the Messages API as the chat request that it means."""

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_runtime import openai
from tidegate_runtime.errors import TenantError
from tidegate_runtime.messages.request import read, read_counted

BASE: dict[str, Any] = {
    "model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}],
}  # fmt: skip
TOOL = {"name": "f", "description": "d", "input_schema": {"properties": {"a": {}}}}


def chat(**fields: Any) -> dict[str, Any]:
    _, body = read(msgspec.json.encode({**BASE, **fields}))
    return msgspec.json.decode(body)


def said(*messages: Any, **fields: Any) -> list[dict[str, Any]]:
    return chat(messages=list(messages), **fields)["messages"]


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def assistant(*content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(content)}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value, "cache_control": {"type": "ephemeral"}}


def image(**source: str) -> dict[str, Any]:
    return {"type": "image", "source": source}


PNG = image(type="base64", media_type="image/png", data="AAAA")
PNG_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def test_the_smallest_request() -> None:
    request, body = read(msgspec.json.encode(BASE))
    assert msgspec.json.decode(body) == BASE
    assert request == openai.Request(
        "m", openai.MESSAGES, max_tokens=9, want_usage=True, want_continuous=True
    )


def test_what_bounds_an_answer_is_passed_on_by_its_chat_name() -> None:
    given = {"temperature": 0.5, "top_p": 0.9, "top_k": 4, "stream": True}
    found = chat(**given, stop_sequences=["x"], cache_salt="s", metadata={"user_id": "u"},
                 service_tier="auto", cache_control=None, speed="standard")  # fmt: skip
    assert found == {**BASE, **given, "stop": ["x"]}


@pytest.mark.parametrize(
    ("messages", "fields", "wanted"),
    [
        ([user(text("a"))], {"system": "s"}, [("system", "s"), ("user", "a")]),
        (
            [user(text("a"))],
            {"system": [text("s"), text("t")]},
            [
                (
                    "system",
                    [{"type": "text", "text": "s"}, {"type": "text", "text": "t"}],
                ),
                ("user", "a"),
            ],
        ),
        (
            [user(text("a"), PNG)],
            {},
            [("user", [{"type": "text", "text": "a"}, PNG_PART])],
        ),
        (
            [user(image(type="url", url="https://x/y.png"))],
            {},
            [
                (
                    "user",
                    [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}],
                )
            ],
        ),
        (
            [user(text("a")), user(text("b")), assistant(text("c")), user(text("d"))],
            {},
            [
                ("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
                ("assistant", "c"),
                ("user", "d"),
            ],
        ),
        (
            [user(text("a")), {"role": "system", "content": "now"}, user(text("b"))],
            {},
            [("user", "a"), ("system", "now"), ("user", "b")],
        ),
    ],
)
def test_conversations(messages: Any, fields: Any, wanted: Any) -> None:
    assert [(one["role"], one["content"]) for one in said(*messages, **fields)] == wanted


def test_calls_of_tools_and_their_results() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    hidden = {"type": "redacted_thinking", "data": "x"}
    call = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}
    results = [
        {"type": "tool_result", "tool_use_id": "t1", "content": "ok"},
        {"type": "tool_result", "tool_use_id": "t2", "is_error": True, "content": [text("no"), PNG]},
        {"type": "tool_result", "tool_use_id": "t3"},
    ]  # fmt: skip
    got = said(user(text("q")), assistant(thought, hidden, call), user(*results, text("go on")))
    function = {"name": "f", "arguments": '{"a":1}'}
    assert got[1:] == [
        {"role": "assistant", "content": None, "reasoning": "hm",
         "tool_calls": [{"id": "t1", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "t1", "content": "ok"},
        {"role": "tool", "tool_call_id": "t2", "content": "Error: no"},
        {"role": "tool", "tool_call_id": "t3", "content": ""},
        {"role": "user", "content": [PNG_PART, {"type": "text", "text": "go on"}]},
    ]  # fmt: skip


def test_an_answer_that_is_begun_is_gone_on_with() -> None:
    begun = chat(messages=[*BASE["messages"], {"role": "assistant", "content": "It is"}])
    assert (begun["continue_final_message"], begun["add_generation_prompt"]) == (True, False)
    assert "continue_final_message" not in chat()
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    assert "continue_final_message" not in chat(messages=[*BASE["messages"], assistant(call)])


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        (None, {"tool_choice": "auto"}),
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        (
            {"type": "any", "disable_parallel_tool_use": True},
            {"tool_choice": "required", "parallel_tool_calls": False},
        ),
        (
            {"type": "tool", "name": "f"},
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        ),
    ],
)
def test_tools(choice: Any, wanted: Any) -> None:
    found = chat(tools=[TOOL], tool_choice=choice)
    function = {
        "name": "f", "description": "d",
        "parameters": {"type": "object", "properties": {"a": {}}},
    }  # fmt: skip
    assert found == {**BASE, "tools": [{"type": "function", "function": function}], **wanted}


def test_thinking_and_the_form_of_an_answer() -> None:
    assert chat(thinking={"type": "disabled"})["reasoning_effort"] == "none"
    assert chat(thinking={"type": "adaptive", "display": "omitted"}) == BASE
    budget = chat(thinking={"type": "enabled", "budget_tokens": 8})
    assert budget["thinking_token_budget"] == 8
    form = {"type": "json_schema", "schema": {"type": "object"}}
    found = chat(output_config={"effort": "high", "format": form})
    assert found["reasoning_effort"] == "high"
    assert found["response_format"]["json_schema"]["schema"] == {"type": "object"}


def test_a_count_asks_for_the_same_prompt() -> None:
    ask = {key: BASE[key] for key in ("model", "messages")}
    full = {**ask, "system": "s", "tools": [TOOL], "tool_choice": {"type": "any"}}
    request, body = read_counted(msgspec.json.encode(full))
    found = msgspec.json.decode(body)
    whole = chat(**{**full, "max_tokens": 9})
    assert found == {key: whole[key] for key in ("model", "messages", "tools")}
    assert (request.endpoint, request.stream, request.max_tokens) == (openai.MESSAGES, False, 1)


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"max_tokens": None}, "max_tokens", "Expected `int`"),
        ({"max_tokens": 0}, "max_tokens", "at least 1, got 0"),
        ({"max_tokens": "9"}, "max_tokens", "Expected `int`"),
        ({"model": 7}, "model", "Expected `str`"),
        ({"messages": []}, "messages", "at least one"),
        ({"messages": "x"}, "messages", "Expected `array`"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "'tool'"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "Field required"),
        (
            {"messages": [user(text("a"), {"type": "document"})]},
            "messages[0].content[1].type",
            "'document'; allowed: text, image",
        ),
        (
            {"messages": [user({"type": "tool_use", "id": "t", "name": "f", "input": {}})]},
            "messages[0].content[0].type",
            "`tool_use` is not for the role `user`",
        ),
        (
            {"messages": [user(image(type="file", file_id="f"))]},
            "messages[0].content[0].source.type",
            "'file'; allowed: base64, url",
        ),
        ({"stop_sequences": ["a", ""]}, "stop_sequences[1]", "must not be empty"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens", "Field required"),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 9}},
            "thinking.budget_tokens",
            "less than `max_tokens` (9), got 9",
        ),
        (
            {"tools": [{"type": "web_search_20250305", "name": "w", "input_schema": {}}]},
            "tools[0].type",
            "allowed: custom",
        ),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema", "Field required"),
        ({"tool_choice": {"type": "any"}}, "tool_choice", "needs `tools`"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}},
            "tool_choice.name",
            "one of `tools`",
        ),
        ({"container": "c"}, "container", "not supported"),
        ({"mcp_servers": []}, "mcp_servers", "not supported"),
        ({"speed": "fast"}, "speed", "'fast'"),
    ],
)
def test_a_bad_request_names_the_field(change: Any, field: str, words: str) -> None:
    with pytest.raises(TenantError) as caught:
        read(msgspec.json.encode({**BASE, **change}))
    assert (caught.value.status, caught.value.param) == (400, field)
    assert words in caught.value.message
    assert caught.value.message.startswith(field)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_what_is_no_request(body: bytes) -> None:
    for reader in (read, read_counted):
        with pytest.raises(TenantError) as caught:
            reader(body)
        assert caught.value.status == 400


def test_a_tool_that_a_server_would_run_names_its_kind_even_without_a_schema() -> None:
    with pytest.raises(TenantError) as caught:
        chat(tools=[{"type": "bash_20250124", "name": "bash"}])
    assert caught.value.param == "tools[0].type"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(st.sampled_from([*BASE, "system", "tools", "tool_choice", "thinking"]), json_values)
def test_whatever_stands_in_a_field_is_read_or_refused_by_name(field: str, value: Any) -> None:
    fault = None
    try:
        request, body = read(msgspec.json.encode({**BASE, field: value}))
    except TenantError as refusal:
        fault = refusal
    if fault is None:
        assert request.max_tokens == msgspec.json.decode(body)["max_tokens"] >= 1
    else:
        assert (fault.status, (fault.param or "").startswith(field)) == (400, True)


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9)


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), words), min_size=1, max_size=9))
def test_no_word_of_a_conversation_is_lost_or_moved(turns: list[tuple[str, str]]) -> None:
    got = said(*({"role": role, "content": value} for role, value in turns))
    flat = []
    for one in got:
        content = one["content"]
        parts = [content] if isinstance(content, str) else [part["text"] for part in content]
        flat += [(one["role"], part) for part in parts]
    assert flat == turns
    roles = [one["role"] for one in got]
    assert all(a != b for a, b in itertools.pairwise(roles)), "they take turns"
