"""What the platform holds in its quiet states, and whether that grows.

In a quiet state all models are at zero, nobody is connected and everything is told, so the same
processes hold the same things as in the quiet state before, whatever happened in between. What
`/proc` shows of them is read by `look`; the judgement is pure.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import running
import up_process

FDS, THREADS = 6, 2
"""What may differ between two quiet states: kept connections that nobody has closed yet, a thread
of a pool. There are more cold starts and aborts than that in any calm round."""
KIB = 12 * 1024
"""Memory that a process may gain beside what it gains in its first round, in KiB ..."""
KIB_PER_MINUTE = 256.0
"""... or a minute, by the median of all slopes, where there are enough quiet states for one."""
ENOUGH = 6
JOURNAL = 64 * 1024
"""Bytes that a journal's sums by day and model may take; a segment has 4 MiB."""
PAUSE = 0.3
"""Seconds between two looks."""


class Process(NamedTuple):
    """One process. `kib`: memory of its own, without what it maps of files, whose share per process
    changes with who else maps them; `held`: how many descriptors of each kind, a file by
    its name."""

    name: str
    pid: int
    fds: int
    threads: int
    kib: int
    held: Mapping[str, int] = {}


class Quiet(NamedTuple):
    """A quiet state. `journal`: bytes of all routers' journals; `files`: bytes on disk by folder;
    `owed`: files of engines' counters that billing does not have."""

    at: float
    after: str
    processes: tuple[Process, ...]
    journal: int
    files: Mapping[str, int]
    owed: int
    cold_starts: int
    left: int


def look(
    up: running.Platform, after: str, cold_starts: int, left: int, seconds: float = 0.6
) -> Quiet:
    """The state now: the least of several looks over some seconds, for connections that nobody uses
    are closed after five."""
    looks = [_processes(up)]
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(PAUSE)
        looks.append(_processes(up))
    least = [
        min(same, key=lambda one: one.fds)._replace(
            threads=min(one.threads for one in same), kib=min(one.kib for one in same)
        )
        for key in sorted({key for found in looks for key in found})
        if (same := [found[key] for found in looks if key in found])
    ]
    return Quiet(
        time.time(),
        after,
        tuple(least),
        _bytes(up.data / "journal"),
        {name: _bytes(up.data / name) for name in ("truth", "logs", "billing.db", "processes")},
        len(list((up.data / "epochs").glob("*.json"))),
        cold_starts,
        left,
    )


def _processes(up: running.Platform) -> dict[tuple[str, int], Process]:
    run = up.run
    names = {part["pid"]: part["name"] for part in run["parts"]}
    names |= {one["pid"]: "engine" for one in run["engines"]}
    names[up.process.pid] = "up"
    found = {}
    for pid in {*up_process.marked(up.data), up.process.pid, *_children(up.process.pid)}:
        try:
            one = _process(pid, names.get(pid, "unknown"))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        found[one.name, one.pid] = one
    return found


def _process(pid: int, name: str) -> Process:
    place = Path(f"/proc/{pid}")
    status = dict(
        line.split(":", 1) for line in (place / "status").read_text().splitlines() if ":" in line
    )
    if status["State"].split()[0] == "Z":
        return Process("zombie", pid, 0, 0, 0)
    rollup = (place / "smaps_rollup").read_text().splitlines()
    own = next(int(line.split()[1]) for line in rollup if line.startswith("Anonymous:"))
    held = Counter(_kind(fd) for fd in (place / "fd").iterdir())
    return Process(name, pid, held.total(), int(status["Threads"]), own, held)


def _kind(fd: Path) -> str:
    """What a descriptor is of: a file's name, or `socket`, `pipe`, `anon_inode`."""
    try:
        target = str(fd.readlink())
    except FileNotFoundError:
        return "closed just now"
    return target.rsplit("/", 1)[1] if target.startswith("/") else target.partition(":")[0]


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def _bytes(path: Path) -> int:
    """On disk, for a file made to its size beforehand holds that much."""
    files = path.rglob("*") if path.is_dir() else [path]
    total = 0
    for file in files:
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def wrong(quiets: Sequence[Quiet]) -> Iterator[str]:
    """Everything that grew, or is there and should not be."""
    for number, quiet in enumerate(quiets):
        strange = Counter(one.name for one in quiet.processes)
        if strange != Counter({one.name: 1 for one in quiets[0].processes}) or not _known(strange):
            yield f"quiet state {number}: these processes: {dict(strange)}"
        if quiet.owed:
            yield f"quiet state {number}: counters of {quiet.owed} engines are not told"
    yield from _lives(quiets)
    if len(quiets) > 1 and quiets[-1].journal > quiets[0].journal + JOURNAL:
        yield f"journals grew from {quiets[0].journal} to {quiets[-1].journal} bytes"


def _known(names: Iterable[str]) -> bool:
    return all(name in {"up", "billing"} or name.startswith("router") for name in names)


def lives(quiets: Sequence[Quiet]) -> dict[tuple[str, int], list[tuple[Quiet, Process]]]:
    """Each process that was there in more than one quiet state, with what it held in each."""
    found: dict[tuple[str, int], list[tuple[Quiet, Process]]] = {}
    for quiet in quiets:
        for one in quiet.processes:
            found.setdefault((one.name, one.pid), []).append((quiet, one))
    return {key: states for key, states in found.items() if len(states) > 1}


def _lives(quiets: Sequence[Quiet]) -> Iterator[str]:
    for (name, pid), states in lives(quiets).items():
        (begin, first), (end, last) = states[0], states[-1]
        between = (
            f"{end.cold_starts - begin.cold_starts} cold starts, {end.left - begin.left} aborts"
        )
        for what, slack in (("fds", FDS), ("threads", THREADS)):
            before, after = getattr(first, what), getattr(last, what)
            if after - before > slack:
                yield f"{name} ({pid}): {what} grew from {before} to {after} over {between}{_more(first, last)}"
        more = last.kib - max(one.kib for _, one in states[: max(1, min(2, len(states) - 1))])
        rate = slope([((quiet.at - begin.at) / 60, one.kib) for quiet, one in states])
        if len(states) >= ENOUGH and rate > KIB_PER_MINUTE:
            yield f"{name} ({pid}): memory grows by {rate:.0f} KiB a minute over {between}"
        if len(states) < ENOUGH and more > KIB:
            yield f"{name} ({pid}): memory grew by {more} KiB over {between}"


def _more(first: Process, last: Process) -> str:
    more = Counter(last.held)
    more.subtract(first.held)
    named = ", ".join(f"{count:+} {kind}" for kind, count in more.items() if count)
    return f": {named}" if named else ""


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The median of the slopes between all pairs of points (Theil and Sen): a few outliers do not
    move it."""
    slopes = sorted(
        (b[1] - a[1]) / (b[0] - a[0])
        for at, a in enumerate(points)
        for b in points[at + 1 :]
        if b[0] > a[0]
    )
    if not slopes:
        return 0.0
    middle = len(slopes) // 2
    return slopes[middle] if len(slopes) % 2 else (slopes[middle - 1] + slopes[middle]) / 2


def figures(quiets: Sequence[Quiet]) -> dict[str, Any]:
    """For the report: what each process held, quiet state by quiet state."""
    found: dict[str, Any] = {}
    for name in sorted({one.name for quiet in quiets for one in quiet.processes}):
        mine = [
            next((one for one in quiet.processes if one.name == name), None) for quiet in quiets
        ]
        found[name] = {
            what: [None if one is None else getattr(one, what) for one in mine]
            for what in ("pid", "fds", "threads", "kib")
        }
    found["journal_bytes"] = [quiet.journal for quiet in quiets]
    for name in quiets[-1].files if quiets else ():
        found[f"{name}_bytes"] = [quiet.files[name] for quiet in quiets]
    return found
