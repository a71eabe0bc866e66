"""The bytes vLLM would send; pure.

A stream's events differ from one another in three numbers, so each choice gets two byte formats
when its answer begins (one for the last token, which carries the finish reason), and an event
costs one formatting.
"""

from collections.abc import Sequence

import msgspec

from tidegate_runtime.engines.sim import pool
from tidegate_runtime.engines.sim.embed import encoded, vector
from tidegate_runtime.engines.sim.request import MAX_MODEL_LEN, Ask, RefusedError, Task

DONE = b"data: [DONE]\n\n"
LAST_CHUNK = b"0\r\n\r\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: tidegate-sim\r\n"
    b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
BROKEN_EVENT = b'data: {"id":"chatcmpl-","object":"chat.completion.chunk","choi\n\ndata'
BROKEN_JSON = b'{"id":"chatcmpl-","object":"chat.completion","choices":[{"index":0,"mess'
_PREFIXES: dict[Task, str] = {
    "chat": "chatcmpl-",
    "completion": "cmpl-",
    "embedding": "embd-",
    "rerank": "score-",
    "score": "score-",
    "classify": "classify-",
}
_REASONS = {
    200: b"OK",
    400: b"Bad Request",
    401: b"Unauthorized",
    404: b"Not Found",
    405: b"Method Not Allowed",
    413: b"Content Too Large",
    500: b"Internal Server Error",
}


class Script:
    """What one answer says, token by token and as a whole.

    `scale` multiplies every reported count (2 for the fault wrong-usage), `counts` False leaves
    them out. Token `j` of an answer belongs to choice `j % choices`.
    """

    __slots__ = (
        "_ask",
        "_cached",
        "_created",
        "_id",
        "_last",
        "_middle",
        "_model",
        "_scale",
        "counts",
    )

    def __init__(
        self, ask: Ask, name: str, model: str, created: int, cached: int, counts: bool, scale: int
    ) -> None:
        self._ask = ask
        self._id = msgspec.json.encode(_PREFIXES[ask.task] + name)
        self._model = msgspec.json.encode(model)
        self._created = created
        self._cached = cached
        self._scale = scale
        self.counts = counts
        self._middle: list[bytes] = []
        self._last: list[bytes] = []
        if ask.stream:
            self._middle = [self._event_format(i, last=False) for i in range(ask.choices)]
            self._last = [self._event_format(i, last=True) for i in range(ask.choices)]

    def opening(self) -> bytes:
        """The role events of a chat answer; a completion has none."""
        if self._ask.task != "chat":
            return b""
        usage = self._usage(self._ask.prompt_tokens, 0) if self._continuous else b""
        return b"".join(
            b'data: %b"choices":[{"index":%d,"delta":{"role":"assistant","content":""},'
            b'"logprobs":null,"finish_reason":null}]%b}\n\n' % (self._head(stream=True), i, usage)
            for i in range(self._ask.choices)
        )

    def events(self, start: int, end: int) -> bytes:
        """The events of tokens `start` to `end`."""
        width, final = self._ask.choices, self._ask.max_tokens - 1
        middle, last, scale = self._middle, self._last, self._scale
        if not self._continuous:
            return b"".join(
                [(last if j // width == final else middle)[j % width] % (j // width)
                 for j in range(start, end)]
            )  # fmt: skip
        prompts = [len(self._prompt_of(i)) for i in range(width)]
        out = []
        for j in range(start, end):
            k, i = divmod(j, width)
            form = last[i] if k == final else middle[i]
            out.append(form % (k, scale * (prompts[i] + k + 1), scale * (k + 1)))
        return b"".join(out)

    def closing(self) -> bytes:
        """What follows the last token: total usage if it was asked for, and `[DONE]`."""
        if not (self._ask.include_usage and self.counts):
            return DONE
        ask = self._ask
        usage = self._usage(ask.prompt_tokens, ask.choices * ask.max_tokens, details=True)
        return b'data: %b"choices":[]%b}\n\n' % (self._head(stream=True), usage) + DONE

    def whole(self, seed: int) -> bytes:
        """The body of an answer that is not streamed."""
        ask = self._ask
        if ask.task == "embedding":
            usage = self._usage(ask.prompt_tokens, 0) if self.counts else b""
            return b'%b"data":%b%b}' % (self._head(stream=False), _vectors(ask, seed), usage)
        if not ask.generates:
            prompt = self._scale * ask.prompt_tokens if self.counts else None
            return pool.whole(ask, self._id, self._created, self._model, prompt, seed)
        text = msgspec.json.encode("".join([f" t{k}" for k in range(ask.max_tokens)]))
        if ask.task == "chat":
            form = (
                b'{"index":%d,"message":{"role":"assistant","content":%b,"refusal":null},'
                b'"logprobs":null,"finish_reason":"length","stop_reason":null}'
            )
        else:
            form = (
                b'{"index":%d,"text":%b,"logprobs":null,"finish_reason":"length",'
                b'"stop_reason":null}'
            )
        choices = b",".join([form % (i, text) for i in range(ask.choices)])
        usage = self._usage(ask.prompt_tokens, ask.choices * ask.max_tokens, details=True)
        return b'%b"choices":[%b]%b}' % (
            self._head(stream=False),
            choices,
            usage if self.counts else b"",
        )

    @property
    def _continuous(self) -> bool:
        return self._ask.continuous and self.counts

    def _prompt_of(self, choice: int) -> tuple[str, ...]:
        return self._ask.prompts[choice * len(self._ask.prompts) // self._ask.choices]

    def _head(self, *, stream: bool) -> bytes:
        kind = {
            "chat": b"chat.completion.chunk" if stream else b"chat.completion",
            "completion": b"text_completion",
            "embedding": b"list",
        }[self._ask.task]
        return b'{"id":%b,"object":"%b","created":%d,"model":%b,' % (
            self._id,
            kind,
            self._created,
            self._model,
        )

    def _usage(self, prompt: int, completion: int, *, details: bool = False) -> bytes:
        scale = self._scale
        cached = b',"prompt_tokens_details":{"cached_tokens":%d}' % (scale * self._cached)
        return b',"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d%b}' % (
            scale * prompt,
            scale * (prompt + completion),
            scale * completion,
            cached if details else b"",
        )

    def _event_format(self, choice: int, *, last: bool) -> bytes:
        text = b'"delta":{"content":" t%d"}' if self._ask.task == "chat" else b'"text":" t%d"'
        end = b'"finish_reason":null'
        if last:
            end = b'"finish_reason":"length","stop_reason":null'
        usage = b""
        if self._continuous:
            prompt = self._scale * len(self._prompt_of(choice))
            usage = (
                b',"usage":{"prompt_tokens":%d,"total_tokens":%%d,"completion_tokens":%%d}' % prompt
            )
        return b'data: %b"choices":[{"index":%d,%b,"logprobs":null,%b}]%b}\n\n' % (
            self._head(stream=True).replace(b"%", b"%%"),
            choice,
            text,
            end,
            usage,
        )


def _vectors(ask: Ask, seed: int) -> bytes:
    data = []
    for index, words in enumerate(ask.prompts):
        values = vector(words, seed)
        embedding = encoded(values) if ask.base64 else values
        data.append({"index": index, "object": "embedding", "embedding": embedding})
    return msgspec.json.encode(data)


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def response(
    status: int, body: bytes, *, kind: bytes = b"application/json", close: bool = False
) -> bytes:
    """A whole response."""
    return (
        b"HTTP/1.1 %d %b\r\nserver: tidegate-sim\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b\r\n%b"
        % (
            status,
            _REASONS[status],
            kind,
            len(body),
            b"connection: close\r\n" if close else b"",
            body,
        )
    )


def refusal(error: RefusedError) -> bytes:
    """The body of a refusal, as vLLM shapes it."""
    detail = {"message": error.message, "type": error.kind, "param": error.param}
    return msgspec.json.encode({"error": {**detail, "code": error.status}})


def models(names: Sequence[str], created: int) -> bytes:
    """The body of `GET /v1/models`: a card for each name; the first is the model's own."""
    base = {"object": "model", "created": created, "owned_by": "tidegate-sim"}
    base |= {"root": names[0], "parent": None, "max_model_len": MAX_MODEL_LEN}
    return msgspec.json.encode({"object": "list", "data": [{"id": name, **base} for name in names]})


def tokens(ask: Ask) -> bytes:
    """The body of `POST /tokenize`: a word is a token, numbered by where it stands."""
    count = ask.prompt_tokens
    body = {"count": count, "max_model_len": MAX_MODEL_LEN, "tokens": list(range(count))}
    return msgspec.json.encode({**body, "token_strs": None})


def metrics(model: str, values: dict[str, tuple[str, float]]) -> bytes:
    """Prometheus text: name -> (type, value), labelled as vLLM labels."""
    label = model.replace("\\", "\\\\").replace('"', '\\"')
    out = []
    for name, (kind, value) in values.items():
        out.append(f"# HELP {name} {name.removeprefix('vllm:').replace('_', ' ')}")
        out.append(f"# TYPE {name} {kind}")
        out.append(f'{name}{{engine="0",model_name="{label}"}} {float(value)!r}')
    return ("\n".join(out) + "\n").encode()
