"""API keys: how one is made, and how it is known again without being kept.

A key is 192 random bits, so a plain keyed hash is enough: no slow hash can protect it better, and
one would stand in every request's path. The pepper lives outside the database, so that a stolen
database tells nothing; it has a version, so that it can be rotated while old keys keep working.
"""

import hmac
import secrets
from collections.abc import Mapping

KEY_START = "sk-tg-"


def parse_peppers(value: str) -> dict[int, bytes]:
    """Peppers by version from `1:secret[,2:secret]`, or a bare `secret`, which is version 1.

    The highest version is the current one: new keys are hashed under it. Raises ValueError, which
    names the position and never shows a secret.
    """
    parts = value.split(",")
    if len(parts) == 1 and not parts[0].partition(":")[0].isdigit():
        return {1: _secret(value, 1)}
    peppers: dict[int, bytes] = {}
    for position, part in enumerate(parts, 1):
        version, colon, secret = part.strip().partition(":")
        if not (colon and version.isascii() and version.isdigit() and int(version) > 0):
            raise ValueError(
                f"pepper {position} has no version; allowed: VERSION:SECRET[,VERSION:SECRET...]"
                " with whole versions from 1, or one bare secret"
            )
        if int(version) in peppers:
            raise ValueError(f"pepper version {int(version)} is given twice")
        peppers[int(version)] = _secret(secret, position)
    return peppers


def _secret(secret: str, position: int) -> bytes:
    if not secret:
        raise ValueError(f"pepper {position} is empty; allowed: a secret of at least one character")
    return secret.encode()


def current(peppers: Mapping[int, bytes]) -> int:
    """The version under which new keys are hashed: the highest."""
    return max(peppers)


def digest(pepper: bytes, key: bytes) -> bytes:
    """HMAC-SHA-256 of a key under a pepper: all that the database and the routers keep of it."""
    return hmac.digest(pepper, key, "sha256")


def new_key() -> str:
    """A fresh key, to be shown once."""
    return KEY_START + secrets.token_urlsafe(24)


def prefix(key: str) -> str:
    """The first 12 characters, by which a person knows a key again in a list."""
    return key[:12]
