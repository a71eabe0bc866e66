"""What lies in the cache: how large it is, when it was last used, whether it is used now; and
throwing away what is not.

    engines/NAME            vLLM's environment                      kind engine
    packages/NAME           an unpacked package with a model        kind package
    models/KEY              converted from a GGUF                   kind converted
    hub/models--O--N/...    a commit of a hub's model               kind hub
    */*.tmp, hub/partial/   what a killed process left unfinished   kind unfinished

A platform that runs holds a shared lock on a small file per entry, `in-use/KEY`: the kernel lets go
of it however the process ends, and its time of change is when the entry was last used. Other
folders of the cache are none of ours and are not looked at.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tidegate_runtime.engines.vllm import hub

_FOLDERS = {"engines": "engine", "packages": "package", "models": "converted"}
_IGNORED = (".lock",)
_QUIET_SECONDS = 600.0
"""A download that nothing was added to for so long has nobody who goes on with it."""


class Entry(NamedTuple):
    """One thing that can be thrown away. `size` in bytes, `used` in seconds since the epoch."""

    kind: str
    name: str
    path: Path
    size: int
    used: float
    busy: bool


def entries(cache: Path) -> list[Entry]:
    """Everything in the cache, what was used longest ago first."""
    found = []
    for kind, name, path in _known(cache):
        with contextlib.suppress(FileNotFoundError):  # it has just become another, or is gone
            size, used = _size(path), _last_use(cache, path)
            found.append(Entry(kind, name, path, size, used, _busy(cache, path)))
    return sorted(found, key=lambda entry: (entry.used, entry.name))


def stale(found: Iterable[Entry], now: float, older_than: float) -> list[Entry]:
    """Those that nobody uses, and nobody has used for `older_than` seconds."""
    return [entry for entry in found if not entry.busy and now - entry.used >= older_than]


def hold(cache: Path, path: Path) -> list[int]:
    """Marks the entries that `path` is part of as used from now until this process ends.

    Returns the descriptors that hold the marks; none where the cache cannot be written, or the
    path is outside of it."""
    held = []
    with contextlib.suppress(OSError):
        for part in _parts(cache, path):
            mark = _mark(cache, part)
            mark.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            os.utime(mark)
            held.append(fd)
    return held


def release(held: list[int]) -> None:
    """Ends the marks of `hold`."""
    while held:
        os.close(held.pop())


def remove(cache: Path, entry: Entry) -> bool:
    """Throws an entry away; False where somebody began to use it meanwhile. Raises OSError."""
    mark = _mark(cache, entry.path)
    mark.parent.mkdir(parents=True, exist_ok=True)
    with _alone(mark) as mine:
        if not mine:
            return False
        lock = _maker(cache, entry)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with _alone(lock) as quiet:
            if not quiet:
                return False  # it is being made
            if entry.kind == "hub":
                _remove_commit(cache, entry.path.parents[1], entry.path)
            else:
                _discard(entry.path)
            mark.unlink(missing_ok=True)
    return True


def _known(cache: Path) -> Iterator[tuple[str, str, Path]]:
    for folder, kind in _FOLDERS.items():
        for path in _inside(cache / folder):
            if path.suffix == ".tmp":
                yield "unfinished", f"{folder}/{path.name}", path
            elif path.suffix not in _IGNORED:
                yield kind, path.name, path
    root = hub.folder(cache)
    for path in _inside(root / "partial"):
        yield "unfinished", f"hub/partial/{path.name}", path
    for repository in _inside(root):
        if repository.name.startswith("models--"):
            name = repository.name.removeprefix("models--").replace("--", "/")
            for snapshot in _inside(repository / "snapshots"):
                yield "hub", f"{name}@{snapshot.name[:12]}", snapshot


def _parts(cache: Path, path: Path) -> Iterator[Path]:
    """The entry that holds `path`."""
    if not path.is_relative_to(cache):
        return
    inside = path.relative_to(cache).parts
    if len(inside) >= 2 and inside[0] in _FOLDERS:
        yield cache.joinpath(*inside[:2])
    elif len(inside) >= 4 and inside[0] == "hub" and inside[2] == "snapshots":
        yield cache.joinpath(*inside[:4])


def _maker(cache: Path, entry: Entry) -> Path:
    """The lock of whoever makes or fetches an entry."""
    if entry.kind == "hub":
        name = entry.path.parents[1].name.removeprefix("models--")
        return hub.folder(cache) / "locks" / f"{name}.lock"
    if entry.kind == "unfinished":
        return cache / "in-use" / "unfinished.lock"  # its maker is gone
    return entry.path.with_name(f"{entry.path.name}.lock")


def _remove_commit(cache: Path, repository: Path, snapshot: Path) -> None:
    """A commit, the pins that name it, and the files that no other commit has."""
    for pin in _inside(hub.folder(cache) / "pins"):
        known = hub.read_pin(pin)
        place = None if known is None else hub.folder(cache) / known.path
        if place is None or place == snapshot or snapshot in place.parents:
            pin.unlink(missing_ok=True)
    shutil.rmtree(snapshot)
    if not _inside(repository / "snapshots"):
        shutil.rmtree(repository)
        return
    kept = {path.resolve() for path in (repository / "snapshots").rglob("*") if path.is_symlink()}
    for blob in _inside(repository / "blobs"):
        if blob.resolve() not in kept:
            blob.unlink()


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _size(path: Path) -> int:
    """Bytes on disk. Links are followed, because a hub's snapshot is links to its files; a file
    with several names inside counts once."""
    files = path.rglob("*") if path.is_dir() else [path]
    seen: dict[tuple[int, int], int] = {}
    for file in files:
        with contextlib.suppress(OSError):
            facts = file.stat()
            if file.is_file():
                seen[facts.st_dev, facts.st_ino] = facts.st_size
    return sum(seen.values())


def _mark(cache: Path, path: Path) -> Path:
    key = str(path.relative_to(cache))
    return cache / "in-use" / hashlib.sha256(key.encode()).hexdigest()[:16]


def _last_use(cache: Path, path: Path) -> float:
    for place in (_mark(cache, path), path):
        with contextlib.suppress(OSError):
            return place.stat().st_mtime
    return 0.0


def _busy(cache: Path, path: Path) -> bool:
    pid = path.name.removesuffix(".tmp").rpartition(".")[2]
    if path.suffix == ".tmp" and pid.isdigit() and Path(f"/proc/{pid}").exists():
        return True  # its maker lives
    if path.parent.name == "partial":
        return time.time() - path.stat().st_mtime < _QUIET_SECONDS
    mark = _mark(cache, path)
    if not mark.exists():
        return False
    with _alone(mark) as mine:
        return not mine


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[bool]:
    """Whether nobody else holds the lock; if so nobody gets it meanwhile."""
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(fd)
