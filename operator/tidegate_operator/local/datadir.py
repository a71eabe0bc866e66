"""The data directory: one owner at a time, and secrets only its user can read.

The lock is a `flock`, so the kernel releases it however the process ends; a stale lock file
means nothing. A file is replaced by rename, so a reader sees the old one or the new one whole.
"""

import contextlib
import fcntl
import os
import secrets
from pathlib import Path
from typing import NamedTuple


class DataInUseError(Exception):
    """Another `tidegate up` holds this data directory."""


class Secrets(NamedTuple):
    """What the parts prove to one another, made once for a data directory."""

    internal: str
    pepper: str
    admin: str


def lock(data: Path) -> int:
    """Takes the directory, made when missing and closed to others, and returns the descriptor that holds it.

    Raises DataInUseError while another process has it, OSError where it cannot be written.
    """
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(
        PermissionError
    ):  # another's, such as a mounted volume: files are 0600
        data.chmod(0o700)
    fd = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise DataInUseError(
            f"{data} is in use by another `tidegate up` (setting: TIDEGATE_DATA)"
        ) from error
    return fd


def write_private(path: Path, content: bytes) -> None:
    """Replaces `path` in one step; only its owner may read it. Raises OSError, which names it."""
    partial = path.with_name(f".{path.name}.new")
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        partial.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def secret(path: Path) -> str:
    """The secret kept in `path`; a missing or empty one is made and kept first."""
    if path.exists() and (kept := path.read_text(encoding="ascii").strip()):
        return kept
    made = secrets.token_urlsafe(32)
    write_private(path, made.encode() + b"\n")
    return made


def read_secrets(data: Path) -> Secrets:
    """The directory's own secrets, made on first use."""
    return Secrets(
        internal=secret(data / "internal-token"),
        pepper=secret(data / "key-pepper"),
        admin=secret(data / "admin-token"),
    )
