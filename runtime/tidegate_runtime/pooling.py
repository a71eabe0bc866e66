"""Requests to models that make no text: embeddings, reranking, scores, classes.

What engines are asked is what the caller wrote, so here a body is only read: that it is what the
route takes, whom it is for, and how much more than its bytes the engine will count (a cross-encoder
reads the query once for each document). What would make an answer that says no usage, or bill what
nobody sent, is refused.
"""

import re
from collections.abc import Mapping
from itertools import islice
from typing import Final, Literal, NamedTuple

import msgspec

from tidegate_runtime.errors import TenantError
from tidegate_runtime.wallet import BYTES_PER_TOKEN

EMBEDDINGS: Final = "/v1/embeddings"
RERANK: Final = "/v1/rerank"
RERANK_2: Final = "/v2/rerank"
SCORE: Final = "/v1/score"
CLASSIFY: Final = "/v1/classify"

_SCORERS: Final = ("embed", "rerank", "score")
TASKS: Final[Mapping[str, tuple[str, ...]]] = {
    EMBEDDINGS: ("embed",),
    RERANK: _SCORERS,
    RERANK_2: _SCORERS,
    SCORE: _SCORERS,
    CLASSIFY: ("classify",),
}
"""The routes, and the tasks of which a model must have one to serve each."""

ENGINE_PATHS: Final[Mapping[str, str]] = {
    RERANK: "/rerank",
    RERANK_2: "/rerank",
    SCORE: "/score",
    CLASSIFY: "/classify",
}
"""Where an engine serves a route under another name: OpenAI has no such routes, says vLLM."""

MAX_TEXTS: Final = 2048
"""Documents, pairs or inputs of one request: each is a request to the engine's scheduler."""
SPECIAL_TOKENS: Final = 3
"""What a tokenizer adds to a prompt, about: its beginning, its end, and what separates a pair."""


class Asked(NamedTuple):
    """What a body says. `inputs`: the texts in it. `pairs`: what a cross-encoder makes of them, which reads
    the query once for each document: `repeated` bytes more than were sent."""

    model: str
    cache_salt: str
    inputs: int = 1
    pairs: int = 0
    repeated: int = 0


class _Body(msgspec.Struct, kw_only=True):
    model: str
    cache_salt: str | None = None
    padding: str | None = None


class _Embedding(_Body, kw_only=True):
    input: msgspec.Raw
    encoding_format: Literal["float", "base64"] | None = None


class _Strict(_Body, kw_only=True):
    stream: bool | None = None


class _Classify(_Strict, kw_only=True):
    input: msgspec.Raw


class _Scoring(_Strict, kw_only=True):
    max_tokens_per_query: int | None = None
    max_tokens_per_doc: int | None = None
    instruction: str | None = None
    chat_template_kwargs: msgspec.Raw = msgspec.Raw()


class _Rerank(_Scoring, kw_only=True):
    query: str
    documents: msgspec.Raw
    top_n: int | None = None


class _Score(_Scoring, kw_only=True):
    text_1: msgspec.Raw = msgspec.Raw()
    text_2: msgspec.Raw = msgspec.Raw()
    queries: msgspec.Raw = msgspec.Raw()
    documents: msgspec.Raw = msgspec.Raw()
    items: msgspec.Raw = msgspec.Raw()
    data_1: msgspec.Raw = msgspec.Raw()
    data_2: msgspec.Raw = msgspec.Raw()


_EMBEDDING: Final = msgspec.json.Decoder(_Embedding)
_CLASSIFY: Final = msgspec.json.Decoder(_Classify)
_RERANK: Final = msgspec.json.Decoder(_Rerank)
_SCORE: Final = msgspec.json.Decoder(_Score)
_TEXTS: Final = msgspec.json.Decoder(list[str])
_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_LIST: Final = re.compile(rb"\[")
_SIDES: Final = (
    ("text_1", "text_2"),
    ("queries", "documents"),
    ("queries", "items"),
    ("data_1", "data_2"),
)
_SAID: Final = ", ".join(f"`{one}` and `{other}`" for one, other in _SIDES)


def parse(endpoint: str, body: bytes) -> Asked:
    """Read a body of one of `TASKS`' routes.

    Raises TenantError (400) with the field at fault, and what msgspec raises."""
    if endpoint == EMBEDDINGS:
        return _embedding(_EMBEDDING.decode(body))
    if endpoint == CLASSIFY:
        return _classify(_CLASSIFY.decode(body))
    if endpoint == SCORE:
        return _score(_SCORE.decode(body))
    return _rerank(_RERANK.decode(body), endpoint)


def extra_tokens(asked: Asked, task: str) -> int:
    """About how many tokens an engine of a task may count beyond those of the body's bytes."""
    if task in {"rerank", "score"}:  # may be a cross-encoder
        return -(-asked.repeated // BYTES_PER_TOKEN) + asked.pairs * SPECIAL_TOKENS
    return asked.inputs * SPECIAL_TOKENS


def question(task: str, model: str) -> tuple[str, bytes] | None:
    """A small real request of a task: its route and body. None for a task that generates."""
    match task:
        case "embed":
            return EMBEDDINGS, _json(model, input="ready")
        case "rerank":
            return RERANK, _json(model, query="ready", documents=["ready"])
        case "score":
            return SCORE, _json(model, text_1="ready", text_2="ready")
        case "classify":
            return CLASSIFY, _json(model, input="ready")
    return None


def _json(model: str, **fields: object) -> bytes:
    return msgspec.json.encode({"model": model, **fields})


def _embedding(doc: _Embedding) -> Asked:
    """Its input's elements are not looked at: a body of millions of numbers must cost no more than its
    bytes."""
    _common(doc, EMBEDDINGS)
    _filled("input", bytes(doc.input))
    return Asked(doc.model, doc.cache_salt or "")


def _classify(doc: _Classify) -> Asked:
    """Texts are looked at; of tokens only into how many lists they are divided."""
    _common(doc, CLASSIFY)
    raw = bytes(doc.input)
    _filled("input", raw)
    first = raw[1:].lstrip(_SPACE)[:1]
    inputs = 1
    if raw[:1] == b"[" and first == b"[":
        inputs = _count("input", _LIST, raw, MAX_TEXTS + 1) - 1
    elif raw[:1] == b'"' or first == b'"':
        inputs = len(_texts("input", raw))
    return Asked(doc.model, doc.cache_salt or "", inputs)


def _rerank(doc: _Rerank, endpoint: str) -> Asked:
    _common(doc, endpoint)
    if doc.top_n is not None and doc.top_n < 0:
        raise _bad("top_n", f"`top_n` must not be negative (0 is all), got {doc.top_n}")
    documents = _texts("documents", bytes(doc.documents))
    return _pairs(doc, "query", [doc.query], "documents", documents)


def _score(doc: _Score) -> Asked:
    _common(doc, SCORE)
    raws = {name: bytes(getattr(doc, name)) for side in _SIDES for name in side}
    given = {name for name, raw in raws.items() if raw not in {b"", b"null"}}
    sides = next((one for one in _SIDES if set(one) == given), None)
    if sides is None:
        missing = next((other for one, other in _SIDES if one in given), "text_1")
        said = ", ".join(f"`{name}`" for name in sorted(given)) or "none"
        raise _bad(missing, f"Two sides must be given: {_SAID}; got {said}")
    first, second = sides
    return _pairs(doc, first, _texts(first, raws[first]), second, _texts(second, raws[second]))


def _pairs(
    doc: _Scoring, first: str, queries: list[str], second: str, documents: list[str]
) -> Asked:
    """One query and many documents, or as many of either."""
    if len(queries) not in {1, len(documents)}:
        counts = f"got {len(queries)} and {len(documents)}"
        raise _bad(second, f"`{first}` must have one text, or as many as `{second}`: {counts}")
    again = len(bytes(doc.chat_template_kwargs)) + len((doc.instruction or "").encode())
    if len(queries) == 1:
        again += len(queries[0].encode())
    pairs = len(documents)
    return Asked(doc.model, doc.cache_salt or "", len(queries) + pairs, pairs, again * (pairs - 1))


def _texts(param: str, raw: bytes) -> list[str]:
    """A text, or texts. They are counted before they are read: too many of them cost no memory."""
    _filled(param, raw, empty=True)
    if raw[:1] == b'"':
        raw = b"[%b]" % raw
    _count(param, _STRING, raw, MAX_TEXTS)
    try:
        return _TEXTS.decode(raw)
    except msgspec.ValidationError as exc:
        raise _bad(param, f"`{param}` must be a text or a list of texts") from exc


def _count(param: str, pattern: re.Pattern[bytes], raw: bytes, most: int) -> int:
    count = sum(1 for _ in islice(pattern.finditer(raw), most + 1))
    if count > most:
        raise _bad(param, f"`{param}` has too many texts; allowed: {MAX_TEXTS} in one request")
    return count


_SPACE: Final = b" \t\r\n"


def _filled(param: str, raw: bytes, *, empty: bool = False) -> None:
    """A text or a list, and not an empty list. `empty`: the text may be so."""
    if raw[:1] == b"[" and raw[1:].lstrip(_SPACE)[:1] != b"]":
        return
    if raw[:1] != b'"' or (raw == b'""' and not empty):
        raise _bad(param, f"`{param}` must be a text or a list, and not empty")


def _common(doc: _Body, endpoint: str) -> None:
    if doc.padding not in {None, "do_not_pad"}:
        raise _bad("padding", "`padding` is not served: tokens that nobody sent would be billed")
    if isinstance(doc, _Strict) and doc.stream:
        raise _bad("stream", f"{endpoint} does not stream")
    if isinstance(doc, _Scoring):
        for name in ("max_tokens_per_query", "max_tokens_per_doc"):
            limit = getattr(doc, name)
            if limit is not None and limit < 0:
                raise _bad(name, f"`{name}` must not be negative (0 is no limit), got {limit}")


def _bad(param: str, message: str) -> TenantError:
    return TenantError(400, "invalid_request", message, param=param)
