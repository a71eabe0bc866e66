"""HTTP/1.1 as bytes: the heads the router writes, to clients and to engines."""

from http import HTTPStatus
from typing import Final

_REASONS: Final = {s.value: s.phrase.encode() for s in HTTPStatus}
LAST_CHUNK: Final = b"0\r\n\r\n"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
JSON: Final = b"application/json"


def status_line(status: int) -> bytes:
    """`HTTP/1.1 404 Not Found` with its line end."""
    return b"HTTP/1.1 %d %b\r\n" % (status, _REASONS.get(status, b"Unknown"))


def plain(
    status: int,
    body: bytes,
    request_id: str,
    *,
    content_type: bytes = JSON,
    retry_after: int | None = None,
    close: bool = False,
    head: bool = False,
    extra: bytes = b"",
) -> bytes:
    """A whole answer of known length; `head` answers a HEAD request, so without the body. `extra`: more
    lines of the head."""
    if retry_after is not None:
        extra += b"retry-after: %d\r\n" % retry_after
    if close:
        extra += b"connection: close\r\n"
    return b"%bcontent-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b\r\n%b" % (
        status_line(status), content_type, len(body), request_id.encode(), extra, b"" if head else body,
    )  # fmt: skip


def request_id(name: str) -> bytes:
    """The line in which Anthropic's SDKs look for a request's id."""
    return b"request-id: %b\r\n" % name.encode()


def stream_head(request_id: str, *, chunked: bool, extra: bytes = b"") -> bytes:
    """The head of an event stream; without chunks (HTTP/1.0) the connection's end ends it."""
    framing = b"transfer-encoding: chunked\r\n" if chunked else b"connection: close\r\n"
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
        b"cache-control: no-cache\r\nx-accel-buffering: no\r\nx-request-id: %b\r\n%b%b\r\n"
        % (request_id.encode(), framing, extra)
    )


def chunk(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def upstream_head(
    path: str, host: bytes, guard: bytes, attempt_id: str, trace: bytes, length: int
) -> bytes:
    """The head of a request to an engine."""
    return (
        b"POST %b HTTP/1.1\r\nhost: %b\r\nauthorization: Bearer %b\r\n"
        b"content-type: application/json\r\nx-request-id: %b\r\n%bcontent-length: %d\r\n\r\n"
        % (path.encode(), host, guard, attempt_id.encode(), trace, length)
    )
