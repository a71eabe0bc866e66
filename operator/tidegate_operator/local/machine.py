"""How much memory this process and its children may use: the machine's, or less in a control group.

A systemd unit with `MemoryMax=` and a container both live in a control group, whose limit
/proc/meminfo does not show. Version 1 and version 2 of them are read alike.
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple


class Memory(NamedTuple):
    """In bytes. `available` is what could be taken now without swapping."""

    total: int
    available: int


_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")


def memory(root: Path = Path("/")) -> Memory:
    """What there is now. Raises OSError where there is no /proc."""
    found = _meminfo((root / "proc/meminfo").read_text())
    for folder, unified in groups(root, "memory"):
        limit, used = _limited(folder, _V2 if unified else _V1)
        if 0 < limit < found.total:
            found = Memory(limit, min(found.available, max(0, limit - used)))
    return found


def taken(sessions: Collection[int], root: Path = Path("/")) -> dict[int, int]:
    """What the processes of each session hold in bytes: what would be free without them. Files that
    they map are not theirs, for those can be dropped; what they share is counted once.

    Raises OSError where there is no /proc."""
    private = dict.fromkeys(sessions, 0)
    shared = dict.fromkeys(sessions, 0)
    for session, folder in processes(sessions, root):
        try:
            lines = (folder / "status").read_text().splitlines()
        except OSError:  # it has ended
            continue
        rows = {line.partition(":")[0]: line.split()[1:2] for line in lines}
        private[session] += _kib(rows.get("RssAnon"))
        shared[session] = max(shared[session], _kib(rows.get("RssShmem")))
    return {session: private[session] + shared[session] for session in private}


def processes(sessions: Collection[int], root: Path = Path("/")) -> Iterator[tuple[int, Path]]:
    """Each process of these sessions: its session, and its folder in /proc."""
    for entry in (root / "proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # Past the name, which may hold anything: state, parent, group, session.
            session = int((entry / "stat").read_text().rpartition(")")[2].split()[3])
        except (OSError, ValueError, IndexError):  # it has ended
            continue
        if session in sessions:
            yield session, entry


def _kib(field: list[str] | None) -> int:
    return int(field[0]) * 1024 if field and field[0].isdigit() else 0


def _meminfo(text: str) -> Memory:
    rows = {line.partition(":")[0]: line.split()[1] for line in text.splitlines() if ":" in line}
    return Memory(int(rows["MemTotal"]) * 1024, int(rows["MemAvailable"]) * 1024)


def groups(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """Each control group of a kind that this process is in, its own and all above it, and whether
    it is of version 2."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            base = root / "sys/fs/cgroup" / controller
        else:
            continue
        own = base / path.lstrip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(base):
                yield folder, not controllers


def _limited(folder: Path, names: tuple[str, str, str]) -> tuple[int, int]:
    """The group's limit (0 = none) and what of it is used, without what can be dropped at once."""
    limit_file, used_file, idle_name = names
    try:
        limit = (folder / limit_file).read_text().strip()
        used = int((folder / used_file).read_text())
        rows = [line.split() for line in (folder / "memory.stat").read_text().splitlines()]
    except (OSError, ValueError):
        return 0, 0
    idle = sum(int(row[1]) for row in rows if len(row) == 2 and row[0] == idle_name)
    return (int(limit) if limit.isdigit() else 0), max(0, used - idle)
