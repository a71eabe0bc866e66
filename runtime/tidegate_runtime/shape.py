"""In which shape a refusal is told: the route's, OpenAI's where it has none of its own."""

from typing import Final

from tidegate_runtime import http1
from tidegate_runtime.errors import Refusal
from tidegate_runtime.messages import errors
from tidegate_runtime.openai import MESSAGES

_BELOW: Final = (MESSAGES + "/", MESSAGES + "?")


def refused(
    refusal: Refusal, path: str, request_id: str, *, close: bool, head: bool = False
) -> bytes:
    """The whole answer that refuses a request to `path` (with or without its query)."""
    if path == MESSAGES or path.startswith(_BELOW):
        said, extra = errors.body(refusal, request_id), http1.request_id(request_id)
    else:
        said, extra = refusal.body(), b""
    return http1.plain(
        refusal.status, said, request_id,
        retry_after=refusal.retry_after, close=close, head=head, extra=extra,
    )  # fmt: skip
