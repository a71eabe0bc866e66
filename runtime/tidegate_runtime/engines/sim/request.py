"""Bodies of inference requests: bytes in, an `Ask` or a `RefusedError` out; pure.

Only what decides counts and shapes is read; everything else a caller may send (temperature, tools,
...) is accepted and ignored, as it would not change what is billed.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

MAX_MODEL_LEN = 1_000_000
DEFAULT_MAX_TOKENS = 16
DIMENSIONS = 32

Task = Literal["chat", "completion", "embedding", "rerank", "score", "classify"]
Prompt = str | list[str | int | list[int]]


class Ask(NamedTuple):
    """One valid request. `prompts`: the words of each prompt; `choices` counts over all of them.
    `model`: the name it was asked by. `documents`: the texts to score, the last of the prompts;
    `top_n`: how many of them to give back (0: all)."""

    task: Task
    prompts: tuple[tuple[str, ...], ...]
    choices: int = 1
    max_tokens: int = 0
    stream: bool = False
    include_usage: bool = False
    continuous: bool = False
    cache_salt: str = ""
    base64: bool = False
    model: str = ""
    documents: tuple[str, ...] = ()
    top_n: int = 0

    @property
    def generates(self) -> bool:
        """Whether the answer is text."""
        return self.task in {"chat", "completion"}

    @property
    def prompt_tokens(self) -> int:
        """Words over all prompts."""
        return sum(map(len, self.prompts))


class RefusedError(Exception):
    """A request the engine does not take, in vLLM's words."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.param = param


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class _Part(msgspec.Struct):
    type: str = "text"
    text: str = ""


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None


class _Body(msgspec.Struct, kw_only=True):
    model: str | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    cache_salt: str | None = None


class _Chat(_Body, kw_only=True):
    messages: list[_Message]


class _Completion(_Body, kw_only=True):
    prompt: Prompt


class _Embedding(msgspec.Struct, kw_only=True):
    input: Prompt
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None


class _Rerank(msgspec.Struct, kw_only=True):
    query: str
    documents: str | list[str]
    model: str | None = None
    top_n: int = 0


class _Score(msgspec.Struct, kw_only=True):
    text_1: str | list[str] | None = None
    text_2: str | list[str] | None = None
    queries: str | list[str] | None = None
    documents: str | list[str] | None = None
    items: str | list[str] | None = None
    data_1: str | list[str] | None = None
    data_2: str | list[str] | None = None
    model: str | None = None


class _Classify(msgspec.Struct, kw_only=True):
    input: Prompt
    model: str | None = None


_SIDES = (
    ("queries", "documents"),
    ("queries", "items"),
    ("data_1", "data_2"),
    ("text_1", "text_2"),
)
_CHAT = msgspec.json.Decoder(_Chat)
_COMPLETION = msgspec.json.Decoder(_Completion)
_EMBEDDING = msgspec.json.Decoder(_Embedding)
_RERANK = msgspec.json.Decoder(_Rerank)
_SCORE = msgspec.json.Decoder(_Score)
_CLASSIFY = msgspec.json.Decoder(_Classify)


def read(task: Task, body: bytes, names: tuple[str, ...]) -> Ask:
    """Decode and check one body for the engine that serves `names`, its own name first.

    Raises RefusedError.
    """
    try:
        match task:
            case "chat":
                return _chat(_CHAT.decode(body), names)
            case "completion":
                return _completion(_COMPLETION.decode(body), names)
            case "embedding":
                return _embedding(_EMBEDDING.decode(body), names)
            case "rerank":
                return _rerank(_RERANK.decode(body), names)
            case "score":
                return _score(_SCORE.decode(body), names)
            case "classify":
                return _classify(_CLASSIFY.decode(body), names)
    except msgspec.ValidationError as error:
        raise _bad(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _bad(f"JSON decode error: {error}") from error


def _chat(body: _Chat, names: tuple[str, ...]) -> Ask:
    if not body.messages:
        raise _bad("messages must not be empty", "messages")
    words: list[str] = []
    for message in body.messages:
        if isinstance(message.content, str):
            words += message.content.split()
        else:
            for part in message.content or ():
                words += part.text.split()
    return _generation("chat", body, (tuple(words),), names)


def _completion(body: _Completion, names: tuple[str, ...]) -> Ask:
    return _generation("completion", body, _prompts(body.prompt, "prompt"), names)


def _embedding(body: _Embedding, names: tuple[str, ...]) -> Ask:
    model = _served(body.model, names)
    if body.dimensions not in {None, DIMENSIONS}:
        raise _bad(f"dimensions must be {DIMENSIONS}, got {body.dimensions}", "dimensions")
    prompts = _prompts(body.input, "input")
    return Ask("embedding", prompts, base64=body.encoding_format == "base64", model=model)


def _rerank(body: _Rerank, names: tuple[str, ...]) -> Ask:
    if body.top_n < 0:
        raise _bad("top_n: Input should be greater than or equal to 0", "top_n")
    ask = _pairs([body.query], _listed(body.documents), _served(body.model, names))
    return ask._replace(task="rerank", top_n=body.top_n)


def _score(body: _Score, names: tuple[str, ...]) -> Ask:
    for one, other in _SIDES:
        first, second = getattr(body, one), getattr(body, other)
        if first is not None and second is not None:
            return _pairs(_listed(first), _listed(second), _served(body.model, names))
    raise _bad("Field required: queries and documents, or text_1 and text_2")


def _classify(body: _Classify, names: tuple[str, ...]) -> Ask:
    return Ask("classify", _prompts(body.input, "input"), model=_served(body.model, names))


def _pairs(queries: list[str], documents: list[str], model: str) -> Ask:
    if not queries:
        raise _bad("At least one text element must be given")
    if not documents:
        raise _bad("At least one text_pair element must be given")
    if len(queries) not in {1, len(documents)}:
        raise _bad("Input lengths must be either 1:1, 1:N or N:N")
    prompts = tuple(tuple(text.split()) for text in (*queries, *documents))
    return Ask("score", prompts, model=model, documents=tuple(documents))


def _listed(texts: str | list[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else texts


def _generation(
    task: Task, body: _Body, prompts: tuple[tuple[str, ...], ...], names: tuple[str, ...]
) -> Ask:
    model = _served(body.model, names)
    limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    limit = DEFAULT_MAX_TOKENS if limit is None else limit
    if limit < 1:
        raise _bad(f"max_tokens must be at least 1, got {limit}.", "max_tokens")
    if max(map(len, prompts)) + limit > MAX_MODEL_LEN:
        raise _bad(f"This model's maximum context length is {MAX_MODEL_LEN} tokens.", "max_tokens")
    n = 1 if body.n is None else body.n
    if not 1 <= n <= 128:
        raise _bad(f"n must be from 1 to 128, got {n}.", "n")
    stream = bool(body.stream)
    if body.stream_options is not None and not stream:
        raise _bad("Stream options can only be defined when `stream=True`.", "stream_options")
    chosen = body.stream_options or _StreamOptions()
    include = bool(chosen.include_usage)
    return Ask(
        task,
        prompts,
        choices=n * len(prompts),
        max_tokens=limit,
        stream=stream,
        include_usage=include,
        continuous=include and bool(chosen.continuous_usage_stats),
        cache_salt=body.cache_salt or "",
        model=model,
    )


def _prompts(value: Prompt, field: str) -> tuple[tuple[str, ...], ...]:
    """The prompts of a text, texts, token ids or lists of token ids; a token id counts as a word."""
    if isinstance(value, str):
        return (tuple(value.split()),)
    if not value:
        raise _bad(f"{field} must not be empty", field)
    texts = [item for item in value if isinstance(item, str)]
    tokens = [item for item in value if isinstance(item, int)]
    lists = [item for item in value if isinstance(item, list)]
    if len(texts) == len(value):
        return tuple(tuple(text.split()) for text in texts)
    if len(tokens) == len(value):
        return (_words(tokens),)
    if len(lists) == len(value):
        return tuple(map(_words, lists))
    raise _bad(f"{field} must be text, texts, token ids or lists of token ids, not mixed", field)


def _words(tokens: Sequence[int]) -> tuple[str, ...]:
    return tuple(map(str, tokens))


def _served(asked: str | None, names: tuple[str, ...]) -> str:
    """The name that the answer carries: the one asked for."""
    if asked is None:
        return names[0]
    if asked not in names:
        message = f"The model `{asked}` does not exist."
        raise RefusedError(404, "NotFoundError", message, "model")
    return asked


def _bad(message: str, param: str | None = None) -> RefusedError:
    return RefusedError(400, "BadRequestError", message, param)
