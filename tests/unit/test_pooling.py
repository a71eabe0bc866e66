"""Bodies for models that make no text: what is read of them, what is refused, what is reserved."""

import json
from typing import Any

import pytest

from tidegate_runtime import openai, pooling
from tidegate_runtime.contract import tasks
from tidegate_runtime.engines.sim.request import read
from tidegate_runtime.errors import TenantError
from tidegate_runtime.pooling import CLASSIFY, EMBEDDINGS, RERANK, RERANK_2, SCORE, Asked

Body = dict[str, Any]
ASK: Body = {"query": "a b", "documents": ["c", "d"]}
PAIR: Body = {"text_1": "a", "text_2": ["b", "c"]}
MANY = ["x"] * (pooling.MAX_TEXTS + 1)


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", **fields}).encode()


@pytest.mark.parametrize(
    ("endpoint", "fields", "inputs", "pairs"),
    [
        (RERANK, ASK, 3, 2),
        (RERANK_2, ASK | {"documents": "c", "max_tokens_per_doc": 9}, 2, 1),
        (RERANK, ASK | {"top_n": 0, "return_documents": True, "stream": False}, 3, 2),
        (RERANK, {"query": "", "documents": [""]}, 2, 1),
        (RERANK, ASK | {"documents": ['quoted "twice", \\', "[d]"]}, 3, 2),
        (RERANK, ASK | {"documents": MANY[1:]}, pooling.MAX_TEXTS + 1, pooling.MAX_TEXTS),
        (SCORE, PAIR, 3, 2),
        (SCORE, {"text_1": ["a", "b"], "text_2": ["c", "d"]}, 4, 2),
        (SCORE, {"queries": "a", "documents": "b", "text_1": None}, 2, 1),
        (SCORE, {"queries": "a", "items": ["b"]}, 2, 1),
        (SCORE, {"data_1": "a", "data_2": ["b"], "cache_salt": None}, 2, 1),
        (CLASSIFY, {"input": "a b"}, 1, 0),
        (CLASSIFY, {"input": ["a", "b"]}, 2, 0),
        (CLASSIFY, {"input": [1, 2, 3]}, 1, 0),
        (CLASSIFY, {"input": [[1], [2, 3]], "padding": "do_not_pad"}, 2, 0),
        (EMBEDDINGS, {"input": [1], "encoding_format": "base64", "dimensions": 8}, 1, 0),
    ],
)
def test_good_bodies(endpoint: str, fields: Body, inputs: int, pairs: int) -> None:
    asked = openai.parse(endpoint, body(**fields)).pooled
    assert asked is not None
    assert (asked.model, asked.inputs, asked.pairs) == ("m", inputs, pairs)


@pytest.mark.parametrize(
    ("endpoint", "fields", "param", "says"),
    [
        (RERANK, {"documents": ["c"]}, "query", "missing"),
        (RERANK, {"query": "a"}, "documents", "missing"),
        (RERANK, ASK | {"query": ["a", "b"]}, "query", "Expected `str`"),
        (RERANK, ASK | {"documents": []}, "documents", "not empty"),
        (RERANK, ASK | {"documents": None}, "documents", "a text or a list"),
        (RERANK, ASK | {"documents": [1]}, "documents", "a list of texts"),
        (RERANK, ASK | {"documents": ["c", {"text": "d"}]}, "documents", "a list of texts"),
        (RERANK, ASK | {"documents": MANY}, "documents", "allowed: 2048"),
        (RERANK, ASK | {"top_n": -1}, "top_n", "got -1"),
        (RERANK, ASK | {"top_n": "3"}, "top_n", "Expected `int"),
        (RERANK_2, ASK | {"stream": True}, "stream", "/v2/rerank does not stream"),
        (RERANK, ASK | {"padding": "max_length"}, "padding", "nobody sent"),
        (RERANK, ASK | {"max_tokens_per_query": -1}, "max_tokens_per_query", "got -1"),
        (RERANK, ASK | {"max_tokens_per_doc": -1}, "max_tokens_per_doc", "got -1"),
        (RERANK, ASK | {"cache_salt": 1}, "cache_salt", "Expected `str"),
        (SCORE, {}, "text_1", "got none"),
        (SCORE, {"text_1": "a"}, "text_2", "got `text_1`"),
        (SCORE, {"text_2": "a"}, "text_1", "got `text_2`"),
        (SCORE, PAIR | {"queries": "a", "documents": "b"}, "text_2", "got `documents`"),
        (SCORE, {"text_1": "a", "documents": "b"}, "text_2", "Two sides"),
        (SCORE, {"text_1": [], "text_2": "b"}, "text_1", "not empty"),
        (SCORE, {"text_1": ["a", "b"], "text_2": ["c"]}, "text_2", "got 2 and 1"),
        (SCORE, {"text_1": "a", "text_2": [["b"]]}, "text_2", "a list of texts"),
        (CLASSIFY, {}, "input", "missing"),
        (CLASSIFY, {"input": ""}, "input", "not empty"),
        (CLASSIFY, {"input": []}, "input", "not empty"),
        (CLASSIFY, {"input": {"a": 1}}, "input", "a text or a list"),
        (CLASSIFY, {"input": ["a", 1]}, "input", "a list of texts"),
        (CLASSIFY, {"input": MANY}, "input", "too many texts"),
        (CLASSIFY, {"input": [[1]] * len(MANY)}, "input", "too many texts"),
        (CLASSIFY, {"messages": [{"role": "user", "content": "a"}]}, "input", "missing"),
        (EMBEDDINGS, {"input": []}, "input", "not empty"),
        (EMBEDDINGS, {"input": "a", "encoding_format": "bytes"}, "encoding_format", "bytes"),
        (EMBEDDINGS, {"input": "a", "padding": "max_length"}, "padding", "nobody sent"),
    ],
)
def test_bad_bodies(endpoint: str, fields: Body, param: str, says: str) -> None:
    with pytest.raises(TenantError) as caught:
        openai.parse(endpoint, body(**fields))
    assert (caught.value.status, caught.value.code) == (400, "invalid_request")
    assert caught.value.param == param
    assert says in caught.value.message


@pytest.mark.parametrize("endpoint", pooling.TASKS)
def test_what_is_no_json_is_told(endpoint: str) -> None:
    for raw in (b"{", b"\xff\xfe", b"[]", b"[" * 100_000):
        with pytest.raises(TenantError) as caught:
            openai.parse(endpoint, raw)
        assert (caught.value.status, caught.value.param) == (400, None)


def test_the_tenants_salt_goes_in_and_nothing_else_changes() -> None:
    sent = body(**ASK, cache_salt="mine", top_n=1)
    request = openai.parse(RERANK, sent)
    assert request.cache_salt == "mine"
    doc = json.loads(openai.splice(sent, request, "ours", 5 if request.stream else None))
    assert doc == json.loads(sent) | {"cache_salt": "ours"}


@pytest.mark.parametrize(
    ("asked", "task", "extra"),
    [
        (Asked("m", ""), "embed", 3),
        (
            Asked("m", "", inputs=101, pairs=100, repeated=900),
            "embed",
            303,
        ),  # the query is read once
        (Asked("m", "", inputs=101, pairs=100, repeated=900), "rerank", 600),
        (Asked("m", "", inputs=101, pairs=100, repeated=901), "score", 601),
        (Asked("m", "", inputs=7), "classify", 21),
    ],
)
def test_what_is_reserved_beyond_the_bodys_bytes(asked: Asked, task: str, extra: int) -> None:
    assert pooling.extra_tokens(asked, task) == extra


@pytest.mark.parametrize(
    ("fields", "repeated"),
    [
        (ASK, 3),
        (ASK | {"documents": "c"}, 0),
        (ASK | {"documents": ["c"] * 5, "query": "é"}, 8),
        (ASK | {"instruction": "rank"}, 7),
        (ASK | {"chat_template_kwargs": {"a": 1}}, 11),
    ],
)
def test_a_query_is_read_once_for_each_document(fields: Body, repeated: int) -> None:
    asked = openai.parse(RERANK, body(**fields)).pooled
    assert asked is not None
    assert asked.repeated == repeated


def test_pairs_of_many_and_many_repeat_nothing() -> None:
    asked = openai.parse(SCORE, body(text_1=["a", "b"], text_2=["c", "d"])).pooled
    assert asked is not None
    assert asked.repeated == 0


@pytest.mark.parametrize("task", tasks.SERVED)
def test_a_probe_asks_what_the_task_serves(task: str) -> None:
    """The readiness question is one that the gateway takes, and that the sim answers."""
    asked = pooling.question(task, "m")
    if task == "generate":
        assert asked is None
        return
    assert asked is not None
    endpoint, raw = asked
    assert task in openai.TASKS[endpoint]
    assert openai.parse(endpoint, raw).model == "m"
    kinds = {EMBEDDINGS: "embedding", RERANK: "rerank", SCORE: "score", CLASSIFY: "classify"}
    assert read(kinds[endpoint], raw, ("m",)).prompt_tokens  # type: ignore[arg-type]


def test_engines_have_other_paths_for_what_openai_has_not() -> None:
    assert {path: openai.engine_path(path) for path in openai.TASKS} == {
        "/v1/chat/completions": "/v1/chat/completions",
        "/v1/completions": "/v1/completions",
        "/v1/messages": "/v1/chat/completions",
        "/v1/embeddings": "/v1/embeddings",
        "/v1/rerank": "/rerank",
        "/v2/rerank": "/rerank",
        "/v1/score": "/score",
        "/v1/classify": "/classify",
    }
