"""The fake pods, the load, and what a router's process tree costs meanwhile.

CPU is the sum over `/proc/PID/task/*/schedstat` of the tree (user and system, nanoseconds): the
figure to judge by, because wall-clock time moves with a machine's neighbours.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from peers import HERE

KEY = "sk-bench-0000"
TEXT = (
    "the of system you assistant must answer user policy tool result token cache model request"
    " when never always json field value return table price order invoice customer"
)
READY_SECONDS = 90.0


class Load(NamedTuple):
    """One kind of load: connections, requests in all, body, gap between a stream's chunks."""

    connections: int
    requests: int
    body: str
    gap_us: int = 0
    spread_us: int = 0


LOADS = {
    "c1": Load(1, 2000, "small"),
    "c32": Load(32, 8000, "small"),
    "c128": Load(128, 8000, "small"),
    "big32": Load(32, 4000, "big"),
    "sse20ms": Load(64, 64, "small_s", 20_000, 300),
    "sse2ms": Load(64, 256, "small_s", 2_000, 30),
    "sse0": Load(64, 640, "small_s"),
    "sse512": Load(512, 512, "small_s", 20_000, 40),
}


def build(root: Path) -> None:
    """The two C programs and the request bodies, made where they are missing or old."""
    for name in ("fakevllm", "sseload"):
        source, program = HERE / f"{name}.c", root / name
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            subprocess.run(["cc", "-O2", "-o", program, source], check=True)
    chooser = random.Random(7)
    for name, words in (("small", 200), ("big", 2700)):
        for stream in (False, True):
            path = root / f"body_{name}{'_s' if stream else ''}.json"
            path.write_text(json.dumps(_body(chooser, words, stream)))


def _body(chooser: random.Random, words: int, stream: bool) -> dict[str, Any]:
    vocabulary = TEXT.split()

    def text(count: int) -> str:
        return " ".join(chooser.choice(vocabulary) for _ in range(count))

    body: dict[str, Any] = {
        "model": "fake",
        "messages": [
            {"role": "system", "content": text(words * 3 // 4)},
            {"role": "user", "content": text(words // 4)},
        ],
        "max_tokens": 128,
        "temperature": 0.7,
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def start(
    command: Sequence[str], environ: Mapping[str, str], core: int, log: Path
) -> subprocess.Popen[bytes]:
    """A process in a session of its own, on one core."""
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with log.open("ab") as out:
        process = subprocess.Popen(
            command,
            env={**inherited, **environ},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    with contextlib.suppress(ProcessLookupError):
        os.sched_setaffinity(process.pid, {core})
    return process


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started."""
    started = tree(process.pid)
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    for pid in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        for path in Path(f"/proc/{found[-1]}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                todo += map(int, path.read_text().split())
    return found


def cpu(pid: int) -> dict[str, int]:
    """Nanoseconds on the CPU by thread of a process tree."""
    spent = {}
    for one in tree(pid):
        for path in Path(f"/proc/{one}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                spent[path.parent.name] = int(path.read_text().split()[0])
    return spent


def pss_mb(pid: int) -> float:
    """Memory of a process tree, shared pages in proportion."""
    kib = 0
    for one in tree(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    kib += int(line.split()[1])
    return kib / 1024


def pin(pid: int, core: int) -> None:
    """Put every thread of a process tree on one core."""
    for one in tree(pid):
        for path in Path(f"/proc/{one}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(path.name), {core})


def ready(port: int, root: Path, process: subprocess.Popen[bytes] | None) -> float:
    """Seconds until a request is answered. Raises RuntimeError where it never is."""
    began = time.monotonic()
    while time.monotonic() - began < READY_SECONDS:
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"it ended with status {process.returncode}; see its log")
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            (root / "body_small.json").read_bytes(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                if answer.status == 200:
                    return time.monotonic() - began
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError("it did not answer")


def run(root: Path, port: int, pod: int, load: Load, core: int) -> dict[str, Any]:
    """One slice of load; what the client saw. Raises RuntimeError where the client broke."""
    control(pod, load.gap_us)
    client = ["taskset", "-c", str(core), str(root / "sseload"), "-p", str(port), "-k", KEY]
    client += ["-c", str(load.connections), "-r", str(load.requests), "-s", str(load.spread_us)]
    client += ["-f", str(root / f"body_{load.body}.json"), "-t", "60"]
    done = subprocess.run(client, capture_output=True, text=True, timeout=120, check=False)
    control(pod, 0)
    try:
        seen: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise RuntimeError(done.stderr.strip() or "the client said nothing") from None
    return seen


def control(pod: int, gap_us: int) -> None:
    """Set the gap between chunks; both pods are one process."""
    with urllib.request.urlopen(
        f"http://127.0.0.1:{pod}/_ctl?gap_us={gap_us}", timeout=10
    ) as answer:
        answer.read()


def interpreter() -> str:
    """What the routers in Python run on, for the table's heading."""
    return f"Python {sys.version.split()[0]}"
