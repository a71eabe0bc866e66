"""A sim engine as a real process: started, waited for by its own word, stopped whatever happens."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

GUARD = "guard-of-a-test"


@dataclasses.dataclass
class Sim:
    """A running engine. `guard` is what its callers present."""

    process: subprocess.Popen[str]
    port: int
    model: str
    truth_path: Path
    phases: list[str]
    ready_at: float
    guard: str = GUARD

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self.process.pid

    def headers(self, attempt: str = "") -> dict[str, str]:
        found = {"Authorization": f"Bearer {self.guard}"}
        return {**found, "X-Request-Id": attempt} if attempt else found

    def truth(self) -> dict[str, dict[str, Any]]:
        """The last line of each attempt."""
        return read_truth(self.truth_path)

    def metrics(self) -> dict[str, float]:
        """Name (without labels) to value, read now."""
        text = httpx.get(f"{self.url}/metrics", headers=self.headers()).raise_for_status().text
        found = re.findall(r"^([\w:]+)\{[^}]*\} (\S+)$", text, re.MULTILINE)
        return {name: float(value) for name, value in found}

    def set_fault(self, fail: str | list[str] | None) -> None:
        """`PUT /sim/faults`."""
        body = {"fail": fail}
        httpx.put(f"{self.url}/sim/faults", json=body, headers=self.headers()).raise_for_status()

    def kill(self) -> None:
        """kill -9, and wait."""
        self.process.kill()
        self.process.wait(10)

    def terminate(self) -> int:
        """SIGTERM, and wait for the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def read_truth(path: Path) -> dict[str, dict[str, Any]]:
    """The last whole line of each attempt in a truth file."""
    lines = path.read_text().split("\n") if path.exists() else []
    return {line["attempt_id"]: line for line in map(json.loads, filter(None, lines[:-1]))}


def command(*flags: str) -> list[str]:
    return [sys.executable, "-Im", "tidegate_runtime.engines.sim", *flags]


def environment(guard: str = GUARD, **more: str) -> dict[str, str]:
    return {**os.environ, "ENGINE_GUARD_SECRET": guard, **more}


@contextlib.contextmanager
def running(
    directory: Path, *flags: str, model: str = "m", guard: str = GUARD, port: int = 0
) -> Iterator[Sim]:
    """Start a sim with its truth in `directory` and wait until it says `ready`."""
    truth = directory / "truth.ndjson"
    base = ["--port", str(port), "--model", model, "--truth", str(truth)]
    process = subprocess.Popen(
        command(*base, *flags), stdout=subprocess.PIPE, text=True, env=environment(guard)
    )
    try:
        assert process.stdout is not None
        phases: list[str] = []
        for text in process.stdout:
            line = json.loads(text)
            if line["event"] == "ready":
                break
            phases.append(line["phase"])
        else:
            raise AssertionError(f"the sim ended with {process.wait()} and never got ready")
        yield Sim(process, line["port"], model, truth, phases, line["at"], guard)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
