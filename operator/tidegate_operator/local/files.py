"""The files that `up -f` names: what there is of them, when it has come to rest, what is in it.

They are looked at twice a second instead of being waited for with inotify: a look at a few files
costs microseconds, and it sees what a watch on an inode does not: an editor's rename over a file, a
symlinked directory that is swapped as Kubernetes swaps a mounted one, a file on a network.

What has changed is read when it has come to rest: the same for QUIET_SECONDS, or gone or empty for
GONE_SECONDS, for an editor may take a file away for a moment, or empty it before it is written.
While one file changes the others wait for it, STUBBORN_SECONDS at most: a model that moves from one
file to another is never met in both or in none.
"""

import os
import stat
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from tidegate_runtime.contract import resource as contract
from tidegate_runtime.contract.resource import Parsed, Problem

QUIET_SECONDS: Final = 0.2
GONE_SECONDS: Final = 1.0
STUBBORN_SECONDS: Final = 5.0
STDIN: Final = Path("-")
STDIN_NAME: Final = "standard input"
_READ_AT_MOST: Final = (1 << 20) + 1


class Stamp(NamedTuple):
    """By what a file is told from what it was; `ctime_ns` also tells that it may be read now. All zero:
    it is there and cannot be looked at."""

    mtime_ns: int = 0
    size: int = 0
    inode: int = 0
    device: int = 0
    ctime_ns: int = 0


@dataclass(frozen=True)
class Look:
    """What there was at one moment. `files` are in the order they are read in; `folders` are the
    paths that are or were directories; `blind` says of those that cannot be read why. What was last
    seen in such a directory counts as unchanged."""

    files: dict[Path, Stamp] = field(default_factory=dict)
    folders: frozenset[Path] = frozenset()
    blind: dict[Path, str] = field(default_factory=dict)


def named(path: Path) -> str:
    """The path as it is told: one that is not UTF-8, which no JSON can hold, with its bytes spelled out."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def look(paths: Iterable[Path], before: Look) -> Look:
    """Looks at files and directories (not recursive, by name). A path that is missing and never was
    a directory is a file that is not there."""
    files: dict[Path, Stamp] = {}
    folders, blind = set(before.folders), dict[Path, str]()
    real: set[str] = set()
    for path in paths:
        inside: Iterable[tuple[Path, Stamp]]
        try:
            inside = _inside(path, folders)
        except OSError as error:
            blind[path] = error.strerror or type(error).__name__
            inside = [(one, known) for one, known in before.files.items() if one.parent == path]
        for one, stamp in inside:
            target = os.path.realpath(one)
            if target not in real:  # a file named twice is read once
                real.add(target)
                files.setdefault(one, stamp)
    return Look(files, frozenset(folders), blind)


def _inside(path: Path, folders: set[Path]) -> list[tuple[Path, Stamp]]:
    try:
        seen = path.stat()
    except FileNotFoundError:
        if path in folders:
            raise
        return []
    except OSError:
        if path in folders:
            raise
        return [(path, Stamp())]
    if not stat.S_ISDIR(seen.st_mode):
        folders.discard(path)
        return [(path, _stamp(seen))]
    folders.add(path)
    return list(
        _entries(sorted(one for one in path.iterdir() if contract.is_resource_file(one.name)))
    )


def _entries(paths: Iterable[Path]) -> Iterator[tuple[Path, Stamp]]:
    for path in paths:
        try:
            seen = path.stat()
        except OSError:  # a link to nothing: reading it says so
            yield path, Stamp()
            continue
        if stat.S_ISREG(seen.st_mode):  # a pipe would be waited for, and nobody might ever write
            yield path, _stamp(seen)


def _stamp(seen: os.stat_result) -> Stamp:
    return Stamp(seen.st_mtime_ns, seen.st_size, seen.st_ino, seen.st_dev, seen.st_ctime_ns)


class Settling:
    """Which files differ from what was last read of them, and which of those are at rest."""

    def __init__(self, read: dict[Path, Stamp]) -> None:
        self._read = dict(read)
        self._moving: dict[Path, tuple[Stamp | None, float, float]] = {}

    @property
    def moving(self) -> bool:
        """Whether something has changed that was not read yet."""
        return bool(self._moving)

    def rested(self, files: dict[Path, Stamp], now: float) -> list[Path]:
        """The files to be read now (`now`: seconds of any clock); they count as read from here on.
        One that is not in `files` is gone."""
        moving: dict[Path, tuple[Stamp | None, float, float]] = {}
        for path in {**self._read, **files}:
            stamp = files.get(path)
            if stamp == self._read.get(path):
                continue
            known, since, first = self._moving.get(path, (stamp, now, now))
            moving[path] = (stamp, since if known == stamp else now, first)
        still = [path for path, (stamp, since, _) in moving.items() if now - since >= _rest(stamp)]
        late = any(now - first >= STUBBORN_SECONDS for _, _, first in moving.values())
        if len(still) < len(moving) and not late:
            still = []
        for path in still:
            stamp = moving.pop(path)[0]
            if stamp is None:
                del self._read[path]
            else:
                self._read[path] = stamp
        self._moving = moving
        return still


def _rest(stamp: Stamp | None) -> float:
    return QUIET_SECONDS if stamp is not None and stamp.size else GONE_SECONDS


def read(path: Path) -> Parsed:
    """What is in a file; that it cannot be read is a problem like others."""
    try:
        with path.open("rb") as file:
            data = file.read(_READ_AT_MOST)
    except OSError as error:
        return Parsed([], [Problem(named(path), 0, "", f"cannot be read: {error.strerror}")])
    return contract.load(data, named(path))


@dataclass(frozen=True)
class Contents:
    """What all paths gave when `up` began: each file's resources and problems, in their order."""

    look: Look
    parsed: dict[str, Parsed]
    problems: list[Problem]


def first(paths: Sequence[Path]) -> Contents:
    """Reads everything, standard input for `-` included. A path that is not there is a problem."""
    given = [path for path in paths if path != STDIN]
    seen = look(given, Look())
    problems = [
        Problem(named(path), 0, "", f"cannot be read: {why}") for path, why in seen.blind.items()
    ]
    problems += _missing(given, seen)
    parsed: dict[str, Parsed] = {}
    if len(given) < len(paths):
        parsed[STDIN_NAME] = contract.load(sys.stdin.buffer.read(_READ_AT_MOST), STDIN_NAME)
    for path in seen.files:
        parsed[named(path)] = read(path)
    return Contents(seen, parsed, problems)


def _missing(given: Collection[Path], seen: Look) -> Iterator[Problem]:
    for path in given:
        if path not in seen.files and path not in seen.folders and not path.exists():
            yield Problem(named(path), 0, "", "does not exist")
