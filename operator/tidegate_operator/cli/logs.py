"""`tidegate logs`: the end of an engine's log file, and what is added to it.

The files outlive their engines and `up` itself, so that a failed start can be read afterwards.
Following polls: a file system tells nothing across mounts, and five looks a second cost nothing.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tidegate_operator.cli import interrupts, platform
from tidegate_operator.cli.failure import CommandError
from tidegate_operator.local import enginelog

POLL_SECONDS = 0.2
_CHUNK = 65536


def find(data: Path, model: str) -> Path:
    """The directory of a model's logs. Raises CommandError for an unknown model, with the names
    that are known, and where there is no platform and never was such a model."""
    try:
        running = platform.local(data)
        with platform.Client(running) as client:
            rows = client.ops("/api/v1/models")["data"]
    except CommandError:
        kept = _kept(data, model)
        if kept is None:
            raise
        return kept
    for row in rows:
        if model in {row["name"], row["deployment"]}:
            return enginelog.folder(data, row["deployment"])
    names = ", ".join(sorted(row["name"] for row in rows)) or "none"
    raise CommandError(f"no model {model!r}; known: {names}")


def show(where: Path, replica: str | None, lines: int) -> None:
    """Prints the end of one replica's log. Raises CommandError where there is none."""
    found = _chosen(where, replica)
    if found is None:
        raise CommandError(f"no engine of {_name(where)} has said anything yet")
    for line in tail(found, lines):
        print(line)


def follow(where: Path, replica: str | None, lines: int) -> None:
    """Prints what engines say until Ctrl-C: of one replica, else of all that come."""
    first = _chosen(where, replica)
    seen = {file: size(file) for file in enginelog.replicas(where)}
    if first is not None:
        _print(tail(first, lines))
    interrupts.hear()
    try:
        while True:
            for file in enginelog.replicas(where):
                if replica is not None and file.stem != replica:
                    continue
                seen[file] = _added(file, seen.get(file, 0), len(seen) > 1 and replica is None)
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        return


def tail(file: Path, lines: int) -> list[str]:
    """The last lines of a file, without reading what comes before them."""
    if not lines:
        return []
    with file.open("rb") as opened:
        start = opened.seek(0, 2)
        end = b""
        while start and end.count(b"\n") <= lines:
            step = min(_CHUNK, start)
            start -= step
            opened.seek(start)
            end = opened.read(step) + end
    return end.decode("utf-8", "replace").splitlines()[-lines:]


def size(file: Path) -> int:
    """Bytes of a file; 0 where it is gone."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _added(file: Path, read: int, named: bool) -> int:
    """Prints the whole lines that were added after `read` bytes; how many were read now."""
    if size(file) < read:
        read = 0  # it was moved aside and begun anew
    try:
        with file.open("rb") as opened:
            opened.seek(read)
            content = opened.read()
    except OSError:
        return read
    whole = content.rpartition(b"\n")[0]
    if not whole:
        return read
    mark = f"{file.stem} | " if named else ""
    _print(mark + line for line in whole.decode("utf-8", "replace").splitlines())
    return read + len(whole) + 1


def _print(lines: "Iterator[str] | list[str]") -> None:
    for line in lines:
        print(line)
    sys.stdout.flush()


def _chosen(where: Path, replica: str | None) -> Path | None:
    found = enginelog.replicas(where)
    if replica is None:
        return found[-1] if found else None
    for file in found:
        if file.stem == replica:
            return file
    names = ", ".join(file.stem for file in found) or "none"
    raise CommandError(f"no replica {replica!r} of {_name(where)}; known: {names}")


def _kept(data: Path, model: str) -> Path | None:
    """The logs that a platform which is gone left of a model."""
    wanted = enginelog.folder(data, model)
    for kept in sorted(wanted.parent.glob("*")):
        if kept == wanted or _name(kept) == model:
            return kept
    return None


def _name(where: Path) -> str:
    return where.name.partition("_")[2]
