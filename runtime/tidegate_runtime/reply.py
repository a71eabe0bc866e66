"""One answer on its way to the client: whole by status, or a stream of events once it has begun.

A stream begins with the first heartbeat or the first event. From then on there is no other status:
an answer that is not a stream, and every error, takes the place of an event, without [DONE].
"""

from typing import Final

from tidegate_runtime import http1
from tidegate_runtime.errors import Refusal
from tidegate_runtime.front import Front, Incoming

_HEARTBEAT: Final = b": held\n\n"


class Reply:
    """The answer to `incoming`, through `front`."""

    __slots__ = ("_front", "begun", "extra", "incoming")

    def __init__(self, front: Front, incoming: Incoming) -> None:
        self._front = front
        self.incoming = incoming
        self.begun = False
        self.extra = b""  # lines of the head

    def events(self, data: bytes) -> None:
        """Whole events of a stream (none at all would be a chunk of size 0, which means the end)."""
        self._begin()
        if data:
            self._front.send(data if self.incoming.http10 else http1.chunk(data))

    def heartbeat(self) -> None:
        """A comment that tells a waiting client (and what is between) that we are alive."""
        self.events(_HEARTBEAT)

    def end(self) -> None:
        """The end of a stream."""
        self._begin()
        if not self.incoming.http10:
            self._front.send(http1.LAST_CHUNK)

    def whole(
        self,
        status: int,
        body: bytes,
        content_type: bytes = http1.JSON,
        retry_after: int | None = None,
    ) -> None:
        """An answer that is not a stream, or an error."""
        if self.begun:
            self.in_band(body)
            self.end()
            return
        request_id, close = self.incoming.request_id, self.incoming.close
        self._front.send(
            http1.plain(
                status,
                body,
                request_id,
                content_type=content_type,
                retry_after=retry_after,
                close=close,
                extra=self.extra,
            )
        )

    def refuse(self, refusal: Refusal) -> None:
        """An error of ours."""
        self.whole(refusal.status, refusal.body(), retry_after=refusal.retry_after)

    def in_band(self, body: bytes) -> None:
        """What takes the place of an event in a stream that has begun."""
        self.events(b"data: " + body + b"\n\n")

    def _begin(self) -> None:
        if self.begun:
            return
        self.begun = True
        chunked = not self.incoming.http10
        self.incoming.close |= not chunked
        head = http1.stream_head(self.incoming.request_id, chunked=chunked, extra=self.extra)
        self._front.send(head)
