"""The usage event: what a router says of one attempt, and how its identity is derived.

An attempt is one try of one request at one engine. It has exactly one settlement, billed or not.
A stretch of a replica's life is an event too (`replica`): nobody asked for it, and its owner pays.
`event_id` is `attempt_id:kind`, and the month an event belongs to comes from the id and never
from the payload, so that a replayed event always meets its first copy under the same unique key.
"""

import functools
import hashlib
import random
import re
import time
from typing import Final, Literal

import msgspec

_RANDOM: Final = random.Random()  # noqa: S311 - ids must be unique, not secret
"""Seeded by the system once; a system call per id would cost more than all the rest of it."""

_UUID7: Final = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII
)
DAY_MS: Final = 86_400_000
LAST_ID: Final = "e677d21f-dc00"
"""The first millisecond of the year 10000, as a UUIDv7 begins with it."""
MOST_TOKENS: Final = 10**12
"""No attempt has more; millions of such attempts still sum up in 64 bits."""
LARGEST: Final = 2**53
"""No other number is past this: JSON readers stay exact below it."""
LONGEST: Final = 600
"""Characters of a text: databases index some of them, and have limits."""
MOST_VERSION: Final = 10**6
_NUMBERS: Final = (
    (
        (
            *("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"),
            *("audio_ms", "images", "cold_start_ms", "serving_ms", "idle_tail_ms"),
        ),
        MOST_TOKENS,
    ),
    (("started_at", "finished_at", "price_version"), LARGEST),
    (("version",), MOST_VERSION),
)
_TEXTS: Final = (
    *("request_id", "tenant", "project", "key_id", "model", "deployment", "endpoint"),
    *("replica", "client_request_id", "adapter", "reason", "service_tier"),
)

Kind = Literal["attempt", "settlement", "orphan", "replica"]
COUNTED: Final = ("settlement", "replica")
"""Kinds that say what was used: they may cost something, and sums are made of them."""
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
    service_tier: str = ""
    audio_ms: int = 0
    images: int = 0
    cold_start_ms: int = 0
    serving_ms: int = 0
    idle_tail_ms: int = 0

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

    Raises ValueError where the id is not a UUIDv7 in its canonical form.
    """
    if not _UUID7.fullmatch(attempt_id):
        raise ValueError(f"attempt id {attempt_id[:80]!r} is not a UUIDv7")
    return int(attempt_id[:8] + attempt_id[9:13], 16)


def day_of(milliseconds: int) -> str:
    """The day (UTC, `YYYY-MM-DD`) of a time in milliseconds since the epoch."""
    return _day(milliseconds // DAY_MS)


@functools.lru_cache(maxsize=1024)
def _day(days: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(days * 86_400))


def attempt_day(attempt_id: str) -> str:
    """The day (UTC, `YYYY-MM-DD`) of an attempt, from its id alone. Raises as attempt_time."""
    return day_of(attempt_time(attempt_id))


def attempt_month(attempt_id: str) -> str:
    """The month (UTC, `YYYY-MM`) of an attempt, from its id alone. Raises as attempt_time."""
    return attempt_day(attempt_id)[:7]


def problem(event: Usage) -> str | None:
    """Why an event can't be kept, or None."""
    if not _UUID7.fullmatch(event.attempt_id):
        return "attempt_id is not a UUIDv7 in the canonical form"
    if event.attempt_id >= LAST_ID:
        return "attempt_id is of after the year 9999"
    if event.billed and event.kind not in COUNTED:
        return f"billed is set on an event of kind {event.kind}; allowed: {', '.join(COUNTED)}"
    if _plainly_good(event):
        return None
    if event.kind != "replica" and (event.cold_start_ms or event.serving_ms or event.idle_tail_ms):
        return f"a replica's time is set on an event of kind {event.kind}; allowed: replica"
    return _wrong_field(event)


def _plainly_good(event: Usage) -> bool:
    """The usual case, quickly: what this says no to may still be good."""
    texts = "".join(
        (
            *(event.request_id, event.tenant, event.project, event.key_id, event.model),
            *(event.deployment, event.endpoint, event.replica, event.client_request_id),
            *(event.adapter, event.reason, event.service_tier),
        )
    )
    return (
        0 <= event.prompt_tokens <= MOST_TOKENS
        and 0 <= event.cached_tokens <= MOST_TOKENS
        and 0 <= event.completion_tokens <= MOST_TOKENS
        and 0 <= event.reasoning_tokens <= MOST_TOKENS
        and 0 <= event.audio_ms <= MOST_TOKENS
        and 0 <= event.images <= MOST_TOKENS
        and event.cold_start_ms == event.serving_ms == event.idle_tail_ms == 0
        and 0 <= event.started_at <= LARGEST
        and 0 <= event.finished_at <= LARGEST
        and 0 <= event.price_version <= LARGEST
        and 0 <= event.version <= MOST_VERSION
        and len(texts) <= LONGEST
        and "\0" not in texts
    )


def _wrong_field(event: Usage) -> str | None:
    for names, most in _NUMBERS:
        for name in names:
            if not 0 <= getattr(event, name) <= most:
                return f"{name} is {getattr(event, name)}, not from 0 to {most}"
    for name in _TEXTS:
        text = getattr(event, name)
        if len(text) > LONGEST or "\0" in text:
            return f"{name} is over {LONGEST} characters, or has a NUL in it"
    return None
