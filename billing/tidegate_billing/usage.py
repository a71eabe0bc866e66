"""The usage event: what a router says of one attempt, and how its identity is derived.

An attempt is one try of one request at one engine. It has exactly one settlement, billed or not.
`event_id` is `attempt_id:kind`, and the month an event belongs to comes from the id and never
from the payload, so that a replayed event always meets its first copy under the same unique key.
"""

import hashlib
import random
import time
from typing import Final, Literal
from uuid import UUID

import msgspec

_RANDOM: Final = random.Random()  # noqa: S311 - ids must be unique, not secret
"""Seeded by the system once; a system call per id would cost more than all the rest of it."""

Kind = Literal["attempt", "settlement", "orphan"]
Source = Literal["engine", "partial", "estimated", "none"]
Outcome = Literal["open", "completed", "aborted", "broken", "failed", "lost"]
"""completed: the whole answer went out. aborted: the client left. broken: the engine broke off.
failed: the engine answered with an error or not at all. lost: the router died meanwhile."""


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event of an attempt. Times are microseconds since the epoch, quantities are tokens."""

    attempt_id: str
    kind: Kind
    request_id: str
    tenant: str
    project: str
    key_id: str
    model: str
    deployment: str
    endpoint: str
    started_at: int
    finished_at: int = 0
    replica: str = ""
    client_request_id: str = ""
    adapter: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    cached_known: bool = False
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    source: Source = "none"
    outcome: Outcome = "open"
    price_version: int = 0
    billed: bool = False
    reason: str = ""
    version: int = 1

    @property
    def event_id(self) -> str:
        """The key under which billing keeps this event once."""
        return f"{self.attempt_id}:{self.kind}"


def digest(event: Usage) -> str:
    """SHA-256 of the event's canonical JSON: equal ids with unequal digests are an alarm."""
    return hashlib.sha256(msgspec.json.encode(event)).hexdigest()


def uuid7(now_ns: int | None = None) -> str:
    """A UUIDv7 in text form (RFC 9562, section 5.7): 48 bits of milliseconds, 74 random bits."""
    ms = (time.time_ns() if now_ns is None else now_ns) // 1_000_000
    value = (ms & 0xFFFF_FFFF_FFFF) << 80 | _RANDOM.getrandbits(80)
    value = value & ~(0xF << 76) | 7 << 76
    value = value & ~(0x3 << 62) | 2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def attempt_time(attempt_id: str) -> int:
    """When an attempt was made, in milliseconds since the epoch, from its id alone.

    Raises ValueError where the id is not a UUIDv7.
    """
    value = UUID(attempt_id)
    if value.version != 7:
        raise ValueError(f"attempt id {attempt_id!r} is not a UUIDv7")
    return value.int >> 80


def attempt_day(attempt_id: str) -> str:
    """The day (UTC, `YYYY-MM-DD`) of an attempt, from its id alone. Raises as attempt_time."""
    return time.strftime("%Y-%m-%d", time.gmtime(attempt_time(attempt_id) / 1000))


def attempt_month(attempt_id: str) -> str:
    """The month (UTC, `YYYY-MM`) of an attempt, from its id alone. Raises as attempt_time."""
    return attempt_day(attempt_id)[:7]
