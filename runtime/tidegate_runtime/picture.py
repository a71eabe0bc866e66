"""The last good picture on disk, so that a router starts and serves while others are away.

It holds key digests and engines' secrets: mode 0600, replaced atomically.
"""

import os
import time
from pathlib import Path

import msgspec

from tidegate_billing.links import SnapshotLine
from tidegate_runtime.contract.links import WorldLine
from tidegate_runtime.tenants import MAX_AGE


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """What was known at `at` (seconds since the epoch)."""

    at: float
    snapshot: SnapshotLine | None = None
    world: WorldLine | None = None


def load(path: Path, now: float) -> Picture | None:
    """The picture, or None where there is none, it is unreadable or older than MAX_AGE."""
    try:
        picture = msgspec.json.decode(path.read_bytes(), type=Picture)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return picture if now - picture.at <= MAX_AGE else None


def save(path: Path, snapshot: SnapshotLine, world: WorldLine | None) -> None:
    """Replace the picture. Raises OSError."""
    fresh = path.with_suffix(".new")
    data = msgspec.json.encode(Picture(at=time.time(), snapshot=snapshot, world=world))
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
    fresh.replace(path)
