"""One answer on its way to the client: whole by status, or a stream of events once it has begun.

A stream begins with the first heartbeat or the first event. From then on there is no other status:
an answer that is not a stream, and every error, takes the place of an event, without [DONE].
"""

from typing import Final

from tidegate_runtime import http1
from tidegate_runtime.front import Front, Incoming

_HEARTBEAT: Final = b": held\n\n"


class Reply:
    """The answer to `incoming`, through `front`."""

    __slots__ = ("_begun", "_front", "_incoming")

    def __init__(self, front: Front, incoming: Incoming) -> None:
        self._front = front
        self._incoming = incoming
        self._begun = False

    def events(self, data: bytes) -> None:
        """Whole events of a stream (none at all would be a chunk of size 0, which means the end)."""
        self._begin()
        if data:
            self._front.send(data if self._incoming.http10 else http1.chunk(data))

    def heartbeat(self) -> None:
        """A comment that tells a waiting client (and what is between) that we are alive."""
        self.events(_HEARTBEAT)

    def end(self) -> None:
        """The end of a stream."""
        self._begin()
        if not self._incoming.http10:
            self._front.send(http1.LAST_CHUNK)

    def whole(
        self,
        status: int,
        body: bytes,
        content_type: bytes = http1.JSON,
        retry_after: int | None = None,
    ) -> None:
        """An answer that is not a stream, or an error."""
        if self._begun:
            self.events(b"data: " + body + b"\n\n")
            self.end()
            return
        request_id, close = self._incoming.request_id, self._incoming.close
        self._front.send(
            http1.plain(
                status,
                body,
                request_id,
                content_type=content_type,
                retry_after=retry_after,
                close=close,
            )
        )

    def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        chunked = not self._incoming.http10
        self._incoming.close |= not chunked
        self._front.send(http1.stream_head(self._incoming.request_id, chunked=chunked))
