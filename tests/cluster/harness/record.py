"""What a test cluster has put on the machine, written down before it can be forgotten.

A run may be killed with SIGKILL at any line, so that nothing it started can be found through its
memory. Everything is therefore recorded in `state.json` as it is made, and taken away by that
record alone. A pid by itself names nothing: after its process has ended, the kernel gives the
number to another one. Together with the start time (field 22 of `/proc/PID/stat`, ticks since
boot) and the boot's id it names one process for good. Signals go through a pidfd that is opened
before the start time is compared, so a pid that is reused between look and signal is safe too.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

NAME = "state.json"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Process(msgspec.Struct, frozen=True):
    """One process of ours: `start` is its start time in clock ticks since boot."""

    name: str
    pid: int
    start: int
    argv: tuple[str, ...] = ()


class Record(msgspec.Struct, frozen=True):
    """Everything to be taken away again, in the kernel's own names."""

    boot: str
    processes: tuple[Process, ...] = ()
    links: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()  # nftables, as `family name`
    cgroups: tuple[str, ...] = ()  # below the root of every hierarchy
    sockets: tuple[str, ...] = ()  # of our containerds; their shims carry them in argv
    settings: tuple[tuple[str, str], ...] = ()  # file under /proc/sys, its value before us


def boot_id() -> str:
    """The running boot's id: pids and start times of another one say nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int | None:
    """When a process started, in ticks since boot; None where it is gone, or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name before may hold spaces and brackets
    return None if fields[0] in ("Z", "X") else int(fields[19])


def alive(process: Process) -> bool:
    """Whether exactly this process runs, and not another one with its pid."""
    return start_time(process.pid) == process.start


def send(process: Process, number: signal.Signals) -> bool:
    """Signal exactly this process; False where it is gone or its pid has gone to another one."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        if not alive(process):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def _reap(process: Process) -> None:
    with contextlib.suppress(ChildProcessError):  # not our child: init reaps it
        os.waitpid(process.pid, os.WNOHANG)


def _gone(processes: Iterable[Process], seconds: float) -> list[Process]:
    """Wait for processes to end; those that have not by then."""
    until = time.monotonic() + seconds
    left = list(processes)
    while True:
        for process in left:
            _reap(process)
        left = [process for process in left if alive(process)]
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.02)


def end(processes: Iterable[Process], grace: float = 5.0) -> None:
    """SIGTERM, then SIGKILL after `grace` seconds, to exactly these processes.

    Raises TimeoutError where one survives SIGKILL for 10 s.
    """
    told = [process for process in processes if send(process, signal.SIGTERM)]
    for process in (stubborn := _gone(told, grace)):
        send(process, signal.SIGKILL)
    if left := _gone(stubborn, 10):
        raise TimeoutError(f"not ended by SIGKILL: {[(p.name, p.pid) for p in left]}")


def read(folder: Path) -> Record | None:
    """The record of a cluster in this folder; None where there is none."""
    try:
        return msgspec.json.decode((folder / NAME).read_bytes(), type=Record)
    except FileNotFoundError:
        return None


def write(folder: Path, record: Record) -> None:
    """Replace the record atomically: a kill leaves the old one or the new one."""
    fresh = folder / f".{NAME}.new"
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(record)))
    fresh.replace(folder / NAME)


def _passed_on() -> list[int]:
    """What this process was given open by its own parent, a lock for example: not to be kept open
    by a process that outlives us both."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.append(int(name))
        except OSError:
            continue  # the listing's own
    return found


class Book:
    """The record while a cluster is brought up: whatever is about to be made is entered first."""

    def __init__(self, folder: Path, record: Record | None = None) -> None:
        self.folder = folder
        self.record = record or Record(boot=boot_id())
        write(folder, self.record)

    @classmethod
    def of(cls, folder: Path) -> "Book":
        """The book of a cluster that is up. Raises LookupError where there is none."""
        record = read(folder)
        if record is None:
            raise LookupError(f"no cluster in {folder}")
        return cls(folder, record)

    def part(self, name: str) -> Process:
        """A recorded process. Raises StopIteration where no part has this name."""
        return next(p for p in self.record.processes if p.name == name)

    def enter(self, field: str, value: object) -> None:
        """Append to one of the record's lists, before the thing itself is made."""
        grown = (*getattr(self.record, field), value)
        self._write(msgspec.structs.replace(self.record, **{field: grown}))

    def _write(self, record: Record) -> None:
        self.record = record
        write(self.folder, record)

    def spawn(self, name: str, argv: Sequence[str | Path], env: Mapping[str, str] = {}) -> Process:
        """Start a process in a session of its own, its output in `logs/NAME.log`.

        posix_spawn and not Popen: the process is meant to outlive this one. A part of this name
        that has ended loses its place in the record to it. `env`: variables beside the few that
        every part has.
        """
        log = self.folder / "logs" / f"{name}.log"
        words = [str(word) for word in argv]
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        pid = os.posix_spawn(
            words[0],
            words,
            {
                "PATH": PATH,
                "HOME": str(self.folder),
                "LANG": "C.UTF-8",
                "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
                **env,
            },
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
                *((os.POSIX_SPAWN_CLOSE, fd) for fd in _passed_on()),
            ],
            setsid=True,
        )
        start = start_time(pid)
        if start is None:
            raise RuntimeError(f"{name} ended at once: {log.read_text()[-2000:]}")
        process = Process(name, pid, start, tuple(words))
        others = tuple(p for p in self.record.processes if p.name != name)
        self._write(msgspec.structs.replace(self.record, processes=(*others, process)))
        return process
