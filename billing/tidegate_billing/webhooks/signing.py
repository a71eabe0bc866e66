"""An endpoint's secrets: the newest one, and those that still sign along for a while."""

import msgspec

MOST = 5
"""Secrets that sign a message; an endpoint that is rotated more often loses its oldest."""


class Kept(msgspec.Struct, frozen=True):
    """A secret. `until` (microseconds): when it signs no more; null: it is the newest."""

    secret: str
    until: int | None = None


def read(text: str) -> list[Kept]:
    """What an endpoint's row keeps, newest first."""
    return msgspec.json.decode(text, type=list[Kept])


def first(secret: str) -> str:
    """What a row keeps of a new endpoint."""
    return msgspec.json.encode([Kept(secret)]).decode()


def rotated(text: str, secret: str, until: int, now: int) -> str:
    """What a row keeps with a new secret; the others sign until `until`, none longer than it would have."""
    old = [
        Kept(one.secret, until if one.until is None else min(one.until, until))
        for one in read(text)
        if until > now and (one.until is None or one.until > now)
    ]
    return msgspec.json.encode([Kept(secret), *old][:MOST]).decode()


def in_force(text: str, now: int) -> list[str]:
    """The secrets that sign at `now`, newest first."""
    return [one.secret for one in read(text) if one.until is None or one.until > now]


def old_until(text: str, now: int) -> int | None:
    """Until when an older secret signs along; None: there is only one."""
    return max((one.until for one in read(text) if one.until and one.until > now), default=None)
