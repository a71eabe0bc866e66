"""The last good picture on disk, so that a router starts and serves while others are away.

It holds key digests and engines' secrets: mode 0600, replaced atomically.
"""

import os
from errno import ENOSPC
from pathlib import Path

import msgspec

from tidegate_billing.links import SnapshotLine
from tidegate_runtime.contract.links import WorldLine
from tidegate_runtime.tenants import MAX_AGE


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """What was known. `at`: when billing last confirmed the snapshot (seconds since the epoch; 0:
    it never did), which only a beat renews, so that its age counts over restarts."""

    at: float
    snapshot: SnapshotLine | None = None
    world: WorldLine | None = None


def load(path: Path, now: float) -> Picture | None:
    """The picture, or None where there is none or it is unreadable; without its snapshot where that
    is older than MAX_AGE. The world has no age: it is what the cluster said last."""
    try:
        picture = msgspec.json.decode(path.read_bytes(), type=Picture)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    if now - picture.at <= MAX_AGE:
        return picture
    return msgspec.structs.replace(picture, snapshot=None)


def save(path: Path, at: float, snapshot: SnapshotLine, world: WorldLine | None) -> None:
    """Replace the picture. Raises OSError."""
    fresh = path.with_suffix(".new")
    data = msgspec.json.encode(Picture(at=at, snapshot=snapshot, world=world))
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        if os.write(fd, data) != len(data):
            raise OSError(ENOSPC, f"no disk space for {path}")
    finally:
        os.close(fd)
    fresh.replace(path)
