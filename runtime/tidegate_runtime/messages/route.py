"""The routes of the Messages API, as the gateway needs them: who reads, counts and answers."""

from collections.abc import Callable
from typing import Final, NamedTuple

from tidegate_runtime import http1
from tidegate_runtime.errors import EngineError, Refusal
from tidegate_runtime.front import Front, Incoming
from tidegate_runtime.messages import answer, errors, request
from tidegate_runtime.messages.events import Events
from tidegate_runtime.openai import COUNT_TOKENS, MESSAGES, Request
from tidegate_runtime.reply import Reply
from tidegate_runtime.stream import Scanner


class MessagesReply(Reply):
    """An answer in Anthropic's shape: events come turned around already (`events`)."""

    __slots__ = ()

    def __init__(self, front: Front, incoming: Incoming) -> None:
        super().__init__(front, incoming)
        self.extra = http1.request_id(incoming.request_id)

    def refuse(self, refusal: Refusal) -> None:
        """An error of ours."""
        said = errors.body(refusal, self.incoming.request_id)
        super().whole(refusal.status, said, retry_after=refusal.retry_after)

    def whole(
        self,
        status: int,
        body: bytes,
        content_type: bytes = http1.JSON,
        retry_after: int | None = None,
    ) -> None:
        """A message, or what an engine refused with."""
        if status != 200:
            body = errors.from_engine(status, body, self.incoming.request_id)
        elif self.begun:  # a message whole, where events were promised
            self.refuse(EngineError(502, "engine_error", "The engine did not stream its answer."))
            return
        super().whole(status, body, content_type, retry_after)

    def in_band(self, body: bytes) -> None:
        """An error in a stream that has begun."""
        self.events(errors.event(body))


class Dialect(NamedTuple):
    """How a route is served that engines are asked for in other words (`openai.engine_path`). `read`
    gives what is asked and the engine's body, `answer` turns a whole answer around."""

    read: Callable[[bytes], tuple[Request, bytes]]
    answer: Callable[[bytes], bytes]
    scanner: type[Scanner] = Events
    reply: type[Reply] = MessagesReply


DIALECTS: Final = {
    MESSAGES: Dialect(request.read, answer.message),
    COUNT_TOKENS: Dialect(request.read_counted, answer.counted),
}
