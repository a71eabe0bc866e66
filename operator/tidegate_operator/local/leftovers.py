"""What a killed `up` left running, and how it is ended.

`kill -9` of `up` leaves its children alive. They are found in two ways: the list it kept of what
it started (a pid alone could by now be somebody else's, so the start time must agree), and a mark
in the environment that every descendant inherits, which also finds what an engine forked itself.
Only called by the holder of the data directory's lock, so nothing found is still wanted.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

MARK = "_TIDEGATE_PARENT"
LIST = "processes"
_PROC = Path("/proc")


class Started(NamedTuple):
    """A process by pid and start time (clock ticks since boot): unique while the machine runs."""

    pid: int
    start: int


def mark(data: Path) -> str:
    """The value of `MARK` for children of this process."""
    return f"{data.resolve()}:{os.getpid()}"


def start_time(pid: int) -> int:
    """Start time of a live process in clock ticks since boot; 0 for a dead one or a zombie."""
    try:
        # The name in parentheses may itself hold spaces and parentheses.
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def record(data: Path, pid: int) -> None:
    """Notes a started process. Called after the exec: a start never waits for the disk. Where it is
    full, the process is found by its mark."""
    with contextlib.suppress(OSError), (data / LIST).open("a", encoding="ascii") as file:
        file.write(f"{pid} {start_time(pid)}\n")


def recorded(data: Path) -> set[Started]:
    """The noted processes; a line cut off by a crash is passed over."""
    try:
        lines = (data / LIST).read_text(encoding="ascii").splitlines()
    except OSError:
        return set()
    pairs = [line.split() for line in lines]
    return {
        Started(int(pair[0]), int(pair[1]))
        for pair in pairs
        if len(pair) == 2 and pair[0].isdigit() and pair[1].isdigit()
    }


def marked(data: Path) -> set[Started]:
    """Every process that carries this data directory's mark in its environment."""
    needle = f"\0{MARK}={data.resolve()}:".encode()
    found = set()
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environ = b"\0" + (entry / "environ").read_bytes()
        except OSError:
            continue
        pid = int(entry.name)
        if needle in environ and pid != os.getpid() and (start := start_time(pid)):
            found.add(Started(pid, start))
    return found


def living(processes: Iterable[Started]) -> set[Started]:
    """Those that still run as the same process."""
    return {one for one in processes if one.start and start_time(one.pid) == one.start}


def _kill(found: set[Started]) -> None:
    pids = {one.pid for one in found}
    for pid in pids:
        try:
            group = os.getpgid(pid)
            if group in pids:  # a session of ours; never the group of whoever started `up`
                os.killpg(group, signal.SIGKILL)
            else:
                os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def clean(data: Path, *, patience: float = 10.0) -> int:
    """Kills what a former `up` left and returns how many processes that were.

    Blocks until they are gone, `patience` seconds at most: they hold ports, memory and the GPU.
    """
    first = living(recorded(data)) | marked(data)
    found = first
    deadline = time.monotonic() + patience
    while found and time.monotonic() < deadline:
        _kill(found)
        time.sleep(0.02)
        found = living(found) | marked(data)
    (data / LIST).unlink(missing_ok=True)
    (data / "run.json").unlink(missing_ok=True)
    return len(first)
