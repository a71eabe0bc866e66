"""The API server's audit log: one JSON event a line, read by the lines that matter.

A long run writes hundreds of megabytes. So a line is decoded only where its bytes hold what is
looked for, and of an event only the fields below.
"""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec


class Reference(msgspec.Struct, frozen=True, rename="camel"):
    """What a request was about."""

    resource: str = ""
    subresource: str = ""
    api_group: str = ""
    namespace: str = ""
    name: str = ""


class User(msgspec.Struct, frozen=True):
    """Who asked."""

    username: str = ""


class Status(msgspec.Struct, frozen=True):
    """What came of it."""

    code: int = 0
    message: str = ""


class Event(msgspec.Struct, frozen=True, rename="camel"):
    """One request. The time stamps have microseconds."""

    verb: str
    user: User
    stage: str = ""
    object_ref: Reference | None = None
    response_status: Status = Status()
    request_uri: str = msgspec.field(name="requestURI", default="")
    request_received_timestamp: str = ""
    stage_timestamp: str = ""
    annotations: dict[str, str] = {}

    @property
    def about(self) -> Reference:
        """`object_ref`, empty where the request is about no object (/readyz)."""
        return self.object_ref or Reference()

    @property
    def at(self) -> float:
        """When the answer was ready, in seconds since the epoch."""
        return datetime.fromisoformat(self.stage_timestamp).timestamp()

    @property
    def received(self) -> float:
        """When the request had come, in seconds since the epoch."""
        return datetime.fromisoformat(self.request_received_timestamp).timestamp()

    @property
    def right(self) -> tuple[str, str, str]:
        """What RBAC was asked for: (verb, API group, resource or resource/subresource)."""
        about = self.about
        inner = f"/{about.subresource}" if about.subresource else ""
        return self.verb, about.api_group, about.resource + inner

    @property
    def unauthorized(self) -> bool:
        """Refused for want of a right; admission and quotas also answer 403, and are not meant."""
        return self.annotations.get("authorization.k8s.io/decision") == "forbid"


_DECODER = msgspec.json.Decoder(Event)


def events(log: Path, *any_of: str, start: int = 0) -> Iterator[Event]:
    """Events from byte `start` on whose line holds one of these texts, in the order of their stage.

    A last line that is still being written is left out."""
    wanted = [text.encode() for text in any_of]
    with log.open("rb") as lines:
        lines.seek(start)
        for line in lines:
            if any(text in line for text in wanted) and line.endswith(b"\n"):
                yield _DECODER.decode(line)
