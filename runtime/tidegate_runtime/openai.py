"""What routing and metering need of a request body, and what is spliced into it.

A body is parsed once and never re-serialised: options are appended before its closing brace.
Engines read JSON with the last of equal keys winning (Python's json does), so an appended option
overrides the caller's, and so does the parser here; both therefore see the same request.
"""

from typing import Final, NamedTuple

import msgspec

from tidegate_runtime import pooling
from tidegate_runtime.errors import TenantError

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
EMBEDDINGS: Final = pooling.EMBEDDINGS
MESSAGES: Final = "/v1/messages"
COUNT_TOKENS: Final = "/v1/messages/count_tokens"
"""Served in the scope of `MESSAGES`: see `messages`."""
TASKS: Final[dict[str, tuple[str, ...]]] = {
    CHAT: ("generate",),
    COMPLETIONS: ("generate",),
    MESSAGES: ("generate",),
    **pooling.TASKS,
}
"""The routes that reach an engine, and the tasks of which a model must have one to serve each."""
_ENGINE_PATHS: Final = {**pooling.ENGINE_PATHS, MESSAGES: CHAT, COUNT_TOKENS: "/tokenize"}

MAX_CHOICES: Final = 128
COMPLETION_TOKENS: Final = 16
"""What a completion gets that names no limit, by OpenAI's reference and by vLLM."""


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class _Generation(msgspec.Struct):
    model: str
    stream: bool | None = None
    stream_options: msgspec.Raw = msgspec.Raw()
    n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    cache_salt: str | None = None
    use_beam_search: bool | None = None


class _Chat(_Generation, kw_only=True):
    messages: msgspec.Raw


class _Completion(_Generation, kw_only=True):
    prompt: msgspec.Raw


class Request(NamedTuple):
    """One request as the router needs it. `choices` is `n`, `prompts` how many prompts each get
    so many. `want_usage`: the caller asked for the final usage event; `want_continuous`: for usage
    in every event. `pooled`: what a request to a model that makes no text has in it."""

    model: str
    endpoint: str = CHAT
    stream: bool = False
    choices: int = 1
    prompts: int = 1
    max_tokens: int | None = None
    want_usage: bool = False
    want_continuous: bool = False
    stream_options: bytes = b""
    cache_salt: str = ""
    pooled: pooling.Asked | None = None


_DECODERS: Final[dict[str, msgspec.json.Decoder[_Chat] | msgspec.json.Decoder[_Completion]]] = {
    CHAT: msgspec.json.Decoder(_Chat),
    COMPLETIONS: msgspec.json.Decoder(_Completion),
}
_LIST: Final = msgspec.json.Decoder(list[msgspec.Raw])
_OPTIONS: Final = msgspec.json.Decoder(_StreamOptions)


def engine_path(endpoint: str) -> str:
    """Where an engine serves a route."""
    return _ENGINE_PATHS.get(endpoint, endpoint)


def parse(endpoint: str, body: bytes) -> Request:
    """Read a request body. Raises TenantError (400) with the field at fault."""
    try:
        if endpoint in pooling.TASKS:
            return _pooled(endpoint, pooling.parse(endpoint, body))
        return _generation(endpoint, _DECODERS[endpoint].decode(body))
    except msgspec.ValidationError as exc:
        raise _bad(_field(str(exc)), str(exc)) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise _bad(None, f"The request body is not valid JSON: {exc}") from exc
    except RecursionError as exc:
        raise _bad(None, "The request body is nested too deeply") from exc


def _pooled(endpoint: str, asked: pooling.Asked) -> Request:
    return Request(asked.model, endpoint, cache_salt=asked.cache_salt, pooled=asked)


def _generation(endpoint: str, doc: _Generation) -> Request:
    if isinstance(doc, _Chat) and not _is_filled_list(bytes(doc.messages)):
        raise _bad("messages", "`messages` must be a list of at least one message")
    choices = 1 if doc.n is None else doc.n
    if not 1 <= choices <= MAX_CHOICES:
        raise _bad("n", f"`n` must be from 1 to {MAX_CHOICES}, got {choices}")
    if doc.use_beam_search:
        raise _bad("use_beam_search", "`use_beam_search` is not served: its usage is not exact")
    # Of a chat engines differ in which of the two they follow: nobody must get more than is reserved.
    told = (doc.max_tokens, doc.max_completion_tokens if isinstance(doc, _Chat) else None)
    limits = [one for one in told if one is not None]
    limit = max(limits, default=None)
    if limit is not None and limit < 0:
        raise _bad("max_tokens", f"`max_tokens` must not be negative, got {limit}")
    raw = bytes(doc.stream_options)
    if raw == b"null":
        raw = b""
    options = _OPTIONS.decode(raw) if raw else _StreamOptions()
    if raw and not doc.stream:
        raise _bad("stream_options", "`stream_options` is allowed only when `stream` is true")
    return Request(
        doc.model,
        endpoint,
        bool(doc.stream),
        choices,
        _prompts(doc),
        limit,
        bool(options.include_usage),
        bool(options.continuous_usage_stats),
        raw,
        doc.cache_salt or "",
    )


_SPACE: Final = b" \t\r\n"


def _is_filled_list(raw: bytes) -> bool:
    return raw[:1] == b"[" and raw[1:].lstrip(_SPACE)[:1] != b"]"


def _text_or_list(param: str, raw: bytes) -> None:
    """Elements are not looked at: a body of millions of numbers must cost no more than its bytes."""
    if not (_is_filled_list(raw) or (raw[:1] == b'"' and raw != b'""')):
        raise _bad(param, f"`{param}` must be a text or a list, and not empty")


def _prompts(doc: _Generation) -> int:
    """A completion may ask several prompts at once; a list of numbers is one prompt's tokens."""
    if not isinstance(doc, _Completion):
        return 1
    raw = bytes(doc.prompt)
    _text_or_list("prompt", raw)
    if raw[:1] == b'"' or raw[1:].lstrip(_SPACE)[:1] not in {b'"', b"["}:
        return 1
    return len(_LIST.decode(raw))


def _field(message: str) -> str | None:
    """The top-level field of msgspec's complaint (`... - at `$.messages[0]``, or a missing one)."""
    if "missing required field" in message:
        return message.split("`")[1]
    _, _, path = message.partition("at `$.")
    return path.rstrip("`").split(".")[0].split("[")[0] or None


def _bad(param: str | None, message: str) -> TenantError:
    return TenantError(400, "invalid_request", message, param=param)


def splice(body: bytes, request: Request, salt: str, cap: int | None = None) -> bytes:
    """The body to forward: usage options for a stream, the tenant's cache salt (empty: none), and how
    many tokens an answer may have (None: as the caller said)."""
    extra = b""
    if request.stream:
        extra += b',"stream_options":' + _stream_options(request.stream_options)
    if salt:
        extra += b',"cache_salt":"%b"' % salt.encode()
    if cap is not None:
        extra += b',"max_tokens":%d' % cap
        if request.endpoint == CHAT:
            extra += b',"max_completion_tokens":%d' % cap
    if not extra:
        return body
    end = body.rindex(b"}")
    return b"%b%b}" % (body[:end], extra)


_BOTH: Final = b'{"include_usage":true,"continuous_usage_stats":true}'


def _stream_options(raw: bytes) -> bytes:
    """The caller's options with ours over them."""
    if not raw or raw.rstrip(b"} \t\r\n") == b"{":
        return _BOTH
    return raw[: raw.rindex(b"}")] + b"," + _BOTH[1:]
