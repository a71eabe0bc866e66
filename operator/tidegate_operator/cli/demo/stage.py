"""The demo's own platform: `tidegate up` as a process, in a directory that goes when it ends.

The demo uses what anybody would use: the command, its NDJSON, `run.json` and the APIs. The
process gets a session of its own, so that a Ctrl-C in the terminal reaches the demo alone and the
demo decides when the platform ends; it always does, engines included, before the directory goes.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from tidegate_operator.cli.failure import CommandError
from tidegate_operator.cli.platform import read_run, read_secret

READY_SECONDS = 60.0
STOP_SECONDS = 45.0
KEPT = ("TIDEGATE_CACHE", "TIDEGATE_LOG_LEVEL")
"""Settings of the caller that make sense for a platform of the demo's own."""

Listener = Callable[[dict[str, Any]], None]


class Stage:
    """A running `tidegate up`. A context manager: leaving it ends everything it started."""

    def __init__(self, resources: str, cache: str | None, listen: Listener) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="tidegate-demo-")
        self.data = Path(self._directory.name) / "data"
        self._file = Path(self._directory.name) / "models.yaml"
        self._file.write_text(resources)
        self._cache = cache
        self._listen = listen
        self._ready = threading.Event()
        self._said: deque[str] = deque(maxlen=20)
        self.failures: dict[str, str] = {}
        """The last failure of each model's start, in the engine's words."""
        self._process: subprocess.Popen[bytes] | None = None
        self._readers: list[threading.Thread] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        command = [sys.executable, "-Im", "tidegate_operator.cli", "up", "--json"]
        command += ["-f", str(self._file), "--data", str(self.data), "--host", "127.0.0.1"]
        command += ["--port", "0", "--admin-port", "0", "--ops-port", "0"]
        if self._cache:
            command += ["--cache", self._cache]
        self._process = subprocess.Popen(
            command,
            env=clean(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        for read in (self._read_events, self._read_errors):
            thread = threading.Thread(target=read, daemon=True)
            thread.start()
            self._readers.append(thread)
        deadline = time.monotonic() + READY_SECONDS
        while not self._ready.wait(0.1):
            if self._process.poll() is not None:
                raise CommandError(f"the platform did not start{self.last_words()}")
            if time.monotonic() > deadline:
                raise CommandError(
                    f"the platform was not ready after {READY_SECONDS:.0f} s{self.last_words()}"
                )

    @property
    def alive(self) -> bool:
        """Whether the platform still runs."""
        return self._process is not None and self._process.poll() is None

    def last_words(self) -> str:
        """What the platform said last, for an error message."""
        return "".join(f"\n  {line}" for line in self._said)

    def secret(self, name: str) -> str:
        """A secret of the platform: `admin-token` or `api-key`. Raises CommandError."""
        return read_secret(self.data / name)

    def run_json(self) -> dict[str, Any]:
        """What the platform says of itself now. Raises CommandError where it has ended."""
        try:
            return read_run(self.data)
        except CommandError:
            raise CommandError(f"the platform has ended{self.last_words()}") from None

    def _read_events(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                self._said.append(line.decode(errors="replace").rstrip())
                continue
            if event.get("event") == "ready":
                self._ready.set()
            elif event.get("event") == "error":
                message = str(event.get("message", ""))
                self._said.append(message)
                self.failures[str(event.get("name", ""))] = message
            self._listen(event)

    def _read_errors(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said.append(line.decode(errors="replace").rstrip())

    def close(self) -> None:
        """End the platform and its engines, then remove its directory."""
        process = self._process
        if process is not None:
            engines = self._engine_pids()
            end(process, STOP_SECONDS)
            if process.returncode in {-signal.SIGKILL, None}:
                for pid in engines:  # `up` could not end them itself any more
                    kill(pid)
            for thread in self._readers:
                thread.join(5)
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        self._directory.cleanup()

    def _engine_pids(self) -> list[int]:
        try:
            run = self.run_json()
        except CommandError:
            return []
        parts = [*run.get("engines", []), *run.get("parts", [])]
        return [int(part["pid"]) for part in parts if part.get("pid")]


def clean(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without settings of another platform: the demo's is its own."""
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith("TIDEGATE_") or name in KEPT
    }


def end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Ask a process to stop, and make it stop after `seconds`."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def kill(pid: int) -> None:
    """End a process that may be gone already."""
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
