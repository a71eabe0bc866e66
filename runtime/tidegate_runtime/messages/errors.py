"""Errors as Anthropic's API tells them: pure.

The type follows from the status and the code. Our own stable code is in `details.error_code`, where
Anthropic's SDKs look for one.
"""

from typing import Any, Final

import msgspec

from tidegate_runtime.errors import Refusal

_TYPES: Final = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_OVERLOADED: Final = frozenset({"held_queue_full", "overloaded", "stopping", "too_many_streams"})
"""503 because there is too much to do. Others say that something is missing or broken."""


class _Error(msgspec.Struct):
    message: str = ""


class _Engine(msgspec.Struct):
    error: _Error


_ENGINE: Final = msgspec.json.Decoder(_Engine)


def body(refusal: Refusal, request_id: str) -> bytes:
    """A refusal as JSON."""
    details = {"error_code": refusal.code}
    if refusal.param is not None:
        details["param"] = refusal.param
    busy = refusal.status == 503 and refusal.code in _OVERLOADED
    kind = "overloaded_error" if busy else _kind(refusal.status)
    return _whole(kind, refusal.message, request_id, details)


def from_engine(status: int, said: bytes, request_id: str) -> bytes:
    """What an engine refused with `status`, in OpenAI's shape, as JSON in Anthropic's."""
    try:
        message = _ENGINE.decode(said).error.message
    except (msgspec.DecodeError, UnicodeDecodeError):
        message = ""
    message = message or f"The engine answered {status}."
    return _whole(_kind(status), message, request_id, {"error_code": "engine_error"})


def event(said: bytes) -> bytes:
    """An error as the event of a stream."""
    return b"event: error\ndata: %b\n\n" % said


def _kind(status: int) -> str:
    return _TYPES.get(status) or ("invalid_request_error" if status < 500 else "api_error")


def _whole(kind: str, message: str, request_id: str, details: dict[str, str]) -> bytes:
    error: dict[str, Any] = {"type": kind, "message": message, "details": details}
    return msgspec.json.encode({"type": "error", "error": error, "request_id": request_id})
