"""A running `up` for tests: start it, read its events, wait for states, kill it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx

HERE = Path(__file__).resolve().parent
T = TypeVar("T")


def eventually(probe: Callable[[], T], *, within: float = 15.0, what: str = "") -> T:
    """The first truthy answer of `probe`; fails after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        if found := probe():
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what or probe}")
        time.sleep(0.01)


def model(name: str, *args: str, scaling: str = "{idleSeconds: 2}", extra: str = "") -> str:
    """A sim resource as YAML."""
    return f"""apiVersion: tidegate.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: {name}}}
spec:
  model: {{uri: "sim://{name}"}}
  engine: {{type: sim, args: {json.dumps(list(args))}}}
  scaling: {scaling}
  pricing: {{inputPerMillion: "0.10", outputPerMillion: "0.40"}}
{extra}---
"""


class Up:
    """`up` as a process. Events are collected as they come."""

    def __init__(self, tmp: Path, *resources: str, kind: str, port: int = 0, routers: int = 1):
        tmp.mkdir(exist_ok=True)
        self.data = tmp / "data"
        self.file = tmp / "models.yaml"
        self.file.write_text("".join(resources))
        self.events: list[dict[str, Any]] = []
        args = [sys.executable, str(HERE / "up_driver.py"), kind, str(self.data)]
        args += [str(port), str(routers), str(self.file)]
        env = {name: value for name, value in os.environ.items() if "TIDEGATE" not in name}
        self.process = subprocess.Popen(
            args, env=env, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    def ready(self) -> "Up":
        def seen() -> bool:
            assert self.process.poll() is None, self.events
            return bool(self.of("ready"))

        eventually(seen, within=40, what="ready")
        return self

    @property
    def run(self) -> dict[str, Any]:
        try:
            return json.loads((self.data / "run.json").read_bytes())
        except FileNotFoundError:
            return {"parts": [], "engines": []}

    def part(self, name: str) -> dict[str, Any]:
        return next(part for part in self.run["parts"] if part["name"] == name)

    def models(self) -> dict[str, dict[str, Any]]:
        rows = self.operator("/api/v1/models", "admin-token")["data"]
        return {row["name"]: row for row in rows}

    def operator(self, path: str, token: str) -> Any:
        url = self.run["operator"]["ops_url"] + path
        secret = (self.data / token).read_text().strip()
        answer = httpx.get(url, headers={"authorization": f"Bearer {secret}"}, trust_env=False)
        answer.raise_for_status()
        return answer.json()

    def hold(self, deployment: str, held: int, in_flight: int = 0, router: str = "router") -> float:
        """Tells the stand-in router that so many wait."""
        now = time.time()
        body = {"deployment": deployment, "held": held, "in_flight": in_flight}
        body |= {"held_since": now if held else 0.0, "last_request": now}
        url = self.part(router)["ops_url"] + "/test/demand"
        httpx.put(url, json=body, trust_env=False).raise_for_status()
        return now

    def stubborn(self, is_so: bool) -> None:
        """Whether the stand-in router goes on using replicas that drain."""
        url = self.part("router")["ops_url"] + "/test/stubborn"
        httpx.put(url, json=is_so, trust_env=False).raise_for_status()

    def fake(self, part: str) -> dict[str, Any]:
        """What a stand-in has seen."""
        return httpx.get(self.part(part)["ops_url"] + "/test/state", trust_env=False).json()

    def processes(self) -> list[int]:
        """Everything that carries this platform's mark."""
        return list(marked(self.data))

    def stop(self, number: int = signal.SIGINT, within: float = 40) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(within)
        self._reader.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


def marked(data: Path) -> Iterator[int]:
    needle = f"_TIDEGATE_PARENT={data.resolve()}:".encode()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and needle in (entry / "environ").read_bytes():
                yield int(entry.name)
        except OSError:
            continue


def ended(ups: Iterable[Up]) -> None:
    """Kills at once what still runs; nothing of it may be left."""
    for up in ups:
        if up.process.poll() is None:
            up.process.send_signal(signal.SIGTERM)
            up.process.send_signal(signal.SIGTERM)
        up.stop(signal.SIGTERM)
        assert not list(marked(up.data))
