"""One question to one engine, on a connection of its own, away from the requests' connections."""

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tidegate_runtime.endpoints import ReplicaState

BROKEN: Final = (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)
"""What a replica that does not speak HTTP (yet, or any more) does to us; TimeoutError is an OSError."""
_LIMIT: Final = 16 * 1024 * 1024


def get(replica: "ReplicaState", path: str) -> bytes:
    """A GET request of `path`, with the replica's guard, after which it closes."""
    return (
        b"GET %b HTTP/1.1\r\nhost: %b\r\nauthorization: Bearer %b\r\nconnection: close\r\n\r\n"
        % (
            path.encode(),
            replica.host_header,
            replica.guard,
        )
    )


async def ask(replica: "ReplicaState", request: bytes) -> tuple[int, bytes]:
    """Send a whole request: (status, body). Raises one of BROKEN; waits for as long as it takes."""
    reader, writer = await asyncio.open_connection(replica.host, replica.port)
    try:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        lower = head.lower()
        at = lower.find(b"\r\ncontent-length:")
        if at >= 0:
            length = int(lower[at + 17 : lower.index(b"\r", at + 17)])
            return status, await reader.readexactly(min(length, _LIMIT))
        body = b""
        while len(body) < _LIMIT and (piece := await reader.read(65536)):
            body += piece
        return status, _dechunk(body) if b"chunked" in lower else body
    finally:
        writer.close()


def _dechunk(body: bytes) -> bytes:
    parts, at = [], 0
    while (end := body.find(b"\r\n", at)) >= 0:
        size = int(body[at:end], 16)
        if not size:
            break
        parts.append(body[end + 2 : end + 2 + size])
        at = end + 4 + size
    return b"".join(parts)
