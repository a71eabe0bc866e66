"""What preparing an engine says while it works, and how its ways of failing differ.

PrepareError
|- SourceError     the resource names a model that is not there, or is not one: change the resource
|- FetchError      a registry could not be reached or does not have it: trying again may help
|- DiskError       no room, or no permission, where the cache is
`- InstallError    anything else that uv or the conversion could not do; carries their last lines
"""

import errno
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

Phase = Literal["installing", "fetching", "converting"]


class Progress(NamedTuple):
    """One step. `fraction` is how much of the phase is done, in [0, 1]; None = not known."""

    phase: Phase
    detail: str
    fraction: float | None


Report = Callable[[Progress], None]


class PrepareError(Exception):
    """An engine or its model could not be prepared; the message is for people."""


class SourceError(PrepareError):
    """The model's address is wrong; no retry will help."""


class FetchError(PrepareError):
    """A registry could not be reached, or does not have what was asked for."""


class DiskError(PrepareError):
    """The cache's disk is full or may not be written."""


class InstallError(PrepareError):
    """A tool failed for a reason of its own."""


_DISK = ("No space left on device", "Disk quota exceeded", "Read-only file system")
_ABSENT = ("was not found in the package registry", "there is no version of", "no versions of")
_NETWORK = (
    "error sending request",
    "dns error",
    "Failed to fetch",
    "Could not connect",
    "Connection refused",
    "operation timed out",
    "network connectivity is disabled",
    "network was disabled",
    "Network unreachable",
)


def failure(what: str, lines: Sequence[str], where: str) -> PrepareError:
    """The error for a tool that failed with these last lines while it wrote to `where`."""
    text = "\n".join(lines).strip() or "it printed nothing"
    if _shows(text, _DISK):
        return DiskError(
            f"{what}: no room on the disk of {where}, or it may not be written\n{text}"
        )
    if _shows(text, _ABSENT):
        return FetchError(f"{what}: the package registry does not have it\n{text}")
    if _shows(text, _NETWORK):
        return FetchError(f"{what}: the package registry could not be reached\n{text}")
    return InstallError(f"{what} failed:\n{text}")


def _shows(text: str, signs: Sequence[str]) -> bool:
    """Whether a sign stands in a tool's words, which begin a sentence here and not there."""
    folded = text.lower()
    return any(sign.lower() in folded for sign in signs)


def disk_failure(error: OSError, where: str) -> PrepareError:
    """The error for a file operation that failed under `where`."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}:
        return DiskError(f"{where} cannot be written: {error}")
    return InstallError(f"{where}: {error}")
