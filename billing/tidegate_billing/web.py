"""What every route shares: whose request it is, what its parameters mean, and how errors read."""

import contextlib
import datetime as dt
import hmac
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from http import HTTPStatus
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]
MONTH = re.compile(r"2[0-9]{3}-(0[1-9]|1[0-2])")
"""Months in which there can be an event; at the ends of the calendar its arithmetic fails."""
DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
BODY_LIMIT = 64 * 1024 * 1024
"""Bytes of the largest body we read."""


class ErrorBody(msgspec.Struct, frozen=True):
    """The error in OpenAI's shape, which programs of before read."""

    message: str
    type: str
    code: str
    param: str | None


class Problem(msgspec.Struct, frozen=True):
    """An error as RFC 9457 has it; `code` is stable and for programs, `detail` is for people."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    param: str | None
    error: ErrorBody


class ApiError(Exception):
    """An answer that is an error: the caller's parameter `param` was wrong, or ours failed."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.headers = headers

    def response(self) -> Response:
        """The error as a problem document that holds OpenAI's shape too."""
        kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
        kind = "server_error" if self.status >= 500 else kinds.get(self.status)
        problem = Problem(
            type=f"urn:tidegate:problem:{self.code}",
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.message,
            code=self.code,
            param=self.param,
            error=ErrorBody(self.message, kind or "invalid_request_error", self.code, self.param),
        )
        headers = {"www-authenticate": "Bearer"} if self.status == 401 else {}
        headers.update(self.headers or {})
        content = msgspec.json.encode(problem)
        return Response(content, self.status, headers, media_type="application/problem+json")


def bad(param: str, message: str) -> ApiError:
    """A parameter that can't be used; `message` says what is allowed."""
    return ApiError(400, "invalid_value", f"{param}: {message}", param)


def reply(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """`content` as JSON."""
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")


def guarded(token: str, handler: Handler) -> Handler:
    """`handler`, for those who bear `token`; compared in constant time."""
    expected = token.encode()

    async def check(request: Request) -> Response:
        if not hmac.compare_digest(bearer(request), expected):
            raise wrong_token()
        return await handler(request)

    return check


def bearer(request: Request) -> bytes:
    """The request's Bearer token; empty where it has none."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return given.strip().encode("utf-8", "replace") if scheme.lower() == "bearer" else b""


def wrong_token() -> ApiError:
    """Nobody we know asks."""
    return ApiError(401, "invalid_token", "the Authorization header needs the right Bearer token")


async def body(request: Request, kind: type[T], *, nul: bool = False) -> T:
    """The request's JSON as `kind`. Raises ApiError, which names the field."""
    return decode(await raw(request), kind, nul=nul)


async def raw(request: Request) -> bytes:
    """The request's body. Raises ApiError where it is too large."""
    read = bytearray()
    async for chunk in request.stream():
        read += chunk
        if len(read) > BODY_LIMIT:
            raise ApiError(413, "body_too_large", f"the body is over {BODY_LIMIT} bytes")
    return bytes(read)


def decode(content: bytes, kind: type[T], *, nul: bool = False) -> T:
    """JSON as `kind`. Raises ApiError, which names the field.

    `nul`: texts may have the character that databases can't keep, and the caller sees to it."""
    if not nul and b"\\u0000" in content:
        raise ApiError(400, "invalid_json", "the body has a NUL character; allowed: text without")
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        found = re.search(r"`\$\.?([^`]*)`$", str(error)) or re.search(
            r"field `([^`]+)`", str(error)
        )
        raise ApiError(400, "invalid_value", str(error), found[1] if found else None) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, "invalid_json", f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise ApiError(400, "invalid_json", "the body is nested too deeply") from error


def only(request: Request, allowed: Collection[str]) -> None:
    """Refuse parameters that nobody reads, repeated ones, and empty ones."""
    for name in request.query_params:
        if name not in allowed:
            raise bad(name, f"unknown parameter; allowed: {', '.join(sorted(allowed))}")
        values = request.query_params.getlist(name)
        if len(values) > 1:
            raise bad(name, "given more than once; allowed: once")
        if values == [""]:
            raise bad(name, "is empty; leave it out or give it a value")
        if "\0" in values[0]:  # PostgreSQL has no text with one
            raise bad(name, "has a NUL character; allowed: text without one")


def limit(request: Request, default: int, most: int) -> int:
    """How many rows a page may have."""
    value = request.query_params.get("limit")
    if value is None:
        return default
    if not (value.isascii() and value.isdigit() and len(value) < 10 and 1 <= int(value) <= most):
        raise bad("limit", f"{value!r} is not a page size; allowed: 1 to {most}")
    return int(value)


def cursor(request: Request, what: str) -> int:
    """After which number a page goes on; `what`: what rows call it. From the start: 0."""
    value = request.query_params.get("after", "0")
    if not (value.isascii() and value.isdigit() and len(value) < 16):
        raise bad("after", f"{value[:80]!r} is not {what}; allowed: a whole number from 0")
    return int(value)


def day(request: Request, name: str) -> dt.date | None:
    """A day in UTC, `YYYY-MM-DD`."""
    value = request.query_params.get(name)
    if value is None:
        return None
    if DAY.fullmatch(value):
        with contextlib.suppress(ValueError):
            return dt.date.fromisoformat(value)
    raise bad(name, f"{value[:80]!r} is not a day; allowed: YYYY-MM-DD")


def iso(microseconds: int) -> str:
    """A time in UTC as RFC 3339, to the second."""
    moment = dt.datetime.fromtimestamp(microseconds // 1_000_000, dt.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
