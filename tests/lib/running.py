"""A whole platform for tests: `tidegate up` as a process of its own, and what one asks of it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

DEADLINE = 60.0

SIM = """
apiVersion: tidegate.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: {name}}}
spec:
  model: {{uri: "sim://{name}"}}
  engine: {{type: sim, args: {args}}}
  scaling: {{maxReplicas: {replicas}, targetConcurrency: {target}, idleSeconds: {idle}, scaleDownDelaySeconds: 1, stableWindowSeconds: 6}}
  coldStart: {{holdSeconds: {hold}, nonStreamHoldSeconds: {hold}, heartbeatSeconds: {heartbeat}, maxHeld: 2048}}
  drain: {{timeoutSeconds: 20}}
  pricing: {{currency: USD, inputPerMillion: "0.10", cachedInputPerMillion: "0.02", outputPerMillion: "0.40"}}
---
"""


def sim(
    name: str = "sim",
    *,
    replicas: int = 1,
    target: int = 512,
    idle: int = 60,
    hold: int = 60,
    heartbeat: int = 10,
    **args: object,
) -> str:
    """A sim model's document; `args` are engine arguments (start_seconds=1)."""
    given = {"start_seconds": 0.2, "ttft_ms": 5, "tokens_per_second": 200, **args}
    flags = [x for k, v in given.items() for x in (f"--{k.replace('_', '-')}", str(v))]
    return SIM.format(
        name=name,
        replicas=replicas,
        target=target,
        idle=idle,
        hold=hold,
        heartbeat=heartbeat,
        args=json.dumps(flags),
    )


def wait_for(look: Callable[[], Any], what: str, seconds: float = DEADLINE) -> Any:
    """Look until there is an answer that is not falsy."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"never came: {what}")


class Platform:
    """A running `tidegate up`."""

    def __init__(self, data: Path, process: subprocess.Popen[bytes]) -> None:
        self.data = data
        self.process = process
        self.admin = httpx.Client(timeout=30, trust_env=False)

    @property
    def run(self) -> dict[str, Any]:
        """run.json."""
        return json.loads((self.data / "run.json").read_text())

    @property
    def key(self) -> str:
        """The default tenant's key."""
        return (self.data / "api-key").read_text().strip()

    @property
    def base(self) -> str:
        """The gateway's URL."""
        return str(self.run["base_url"])

    def client(self, **kwargs: Any) -> httpx.Client:
        """A client of the gateway with the default key."""
        return httpx.Client(
            base_url=self.base,
            headers={"authorization": f"Bearer {self.key}"},
            timeout=60,
            trust_env=False,
            **kwargs,
        )

    def _get(self, url: str, **params: Any) -> Any:
        token = (self.data / "admin-token").read_text().strip()
        answer = self.admin.get(url, params=params, headers={"authorization": f"Bearer {token}"})
        answer.raise_for_status()
        return answer.json()

    def api(self, path: str, **params: Any) -> Any:
        """GET of the management API."""
        return self._get(self.run["admin_url"] + path, **params)

    def operator(self, path: str) -> Any:
        """GET of the operator's port."""
        return self._get(self.run["operator"]["ops_url"] + path)

    def events(self, **params: Any) -> list[dict[str, Any]]:
        """All settlements, over all pages."""
        found: list[dict[str, Any]] = []
        while True:
            after = {"after": found[-1]["event_id"]} if found else {}
            page = self.api("/api/v1/events", limit=500, **after, **params)["data"]
            found += page
            if len(page) < 500:
                return found

    def models(self) -> dict[str, dict[str, Any]]:
        """`tidegate models`, by name."""
        return {m["name"]: m for m in self.operator("/api/v1/models")["data"]}

    def told(self, event: str) -> list[dict[str, Any]]:
        """What it has said with `--json`, of one kind."""
        lines = (self.data.parent / "up.out").read_text().splitlines()
        said = [json.loads(line) for line in lines if line.startswith('{"ts":')]
        return [one for one in said if one["event"] == event]

    def part(self, name: str) -> dict[str, Any]:
        """A part's entry of run.json."""
        return next(p for p in self.run["parts"] if p["name"] == name)

    def kill(self, name: str) -> None:
        """kill -9 of a part; returns when another one is in its place and ready."""
        old = self.part(name)["pid"]
        os.kill(old, signal.SIGKILL)
        wait_for(lambda: self.part(name)["pid"] != old, f"a new {name}")
        self.ready(name)

    def ready(self, name: str) -> None:
        """Wait until a part says it is ready."""

        def look() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                return self.admin.get(self.part(name)["ops_url"] + "/readyz").status_code == 200
            return False

        wait_for(look, f"{name} ready")

    def metric(self, name: str, part: str = "router") -> float:
        """Sum of a metric over its labels."""
        text = self.admin.get(self.part(part)["ops_url"] + "/metrics").text
        return sum(float(x.rsplit(" ", 1)[1]) for x in text.splitlines() if x.startswith(name))

    def settled(self) -> None:
        """Wait until every router has told everything."""

        def look() -> bool:
            routers = [p["name"] for p in self.run["parts"] if p["name"].startswith("router")]
            with contextlib.suppress(httpx.HTTPError):
                return all(not self.metric("tidegate_journal_unacked", r) for r in routers)
            return False

        wait_for(look, "everything told")

    def truth(self) -> dict[str, dict[str, Any]]:
        """The sims' truth: the last line of each attempt."""
        found = {}
        for path in (self.data / "truth").glob("*.ndjson"):
            for line in path.read_text().splitlines():
                row = json.loads(line)
                found[row["attempt_id"]] = row
        return found

    def conservation(self) -> list[dict[str, Any]]:
        """Billing's conservation rows."""
        return list(self.api("/api/v1/conservation")["data"])

    def drifts(self) -> list[dict[str, Any]]:
        """Where rollups or journals part from the ledger."""
        return list(self.api("/api/v1/conservation/days")["data"])

    def stop(self, number: int = signal.SIGINT) -> int:
        """End it as Ctrl-C does."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)


def audit(
    events: list[dict[str, Any]],
    truth: dict[str, dict[str, Any]],
    received: dict[str, int] | None = None,
) -> list[str]:
    """What is wrong between the ledger and the engines' truth; empty when the numbers close.

    `received`: completion tokens a client got, by request id."""
    wrong = [
        f"{k}: {n} settlements"
        for k, n in Counter(e["attempt_id"] for e in events).items()
        if n > 1
    ]
    by_attempt = {e["attempt_id"]: e for e in events}
    for attempt, row in truth.items():
        event = by_attempt.get(attempt)
        if event is None:
            wrong.append(f"{attempt}: generated {row['generated_tokens']}, no settlement")
        elif event["billed"] and event["outcome"] == "completed":
            if event["completion_tokens"] != row["generated_tokens"]:
                wrong.append(
                    f"{attempt}: billed {event['completion_tokens']}, generated {row['generated_tokens']}"
                )
            if event["prompt_tokens"] != row["prompt_tokens"]:
                wrong.append(
                    f"{attempt}: billed prompt {event['prompt_tokens']}, was {row['prompt_tokens']}"
                )
        elif event["completion_tokens"] > row["generated_tokens"]:
            wrong.append(
                f"{attempt}: billed {event['completion_tokens']} > generated {row['generated_tokens']}"
            )
    wrong += [
        f"{k}: settled, no truth"
        for k in by_attempt
        if k not in truth and by_attempt[k]["completion_tokens"]
    ]
    billed: Counter[str] = Counter()
    for e in events:
        if e["billed"]:
            billed[e["request_id"]] += e["completion_tokens"]
    for request_id, n in (received or {}).items():
        if n > billed[request_id]:
            wrong.append(f"{request_id}: received {n}, billed {billed[request_id]}")
    return wrong


@contextlib.contextmanager
def platform(
    folder: Path,
    document: str,
    *flags: str,
    env: dict[str, str] | None = None,
    stdin: str | None = None,
) -> Iterator[Platform]:
    """`tidegate up` over a document, ready; ended at the end. `stdin`: what it may read there."""
    file = folder / "models.yaml"
    file.write_text(document)
    data = folder / "data"
    command = [
        sys.executable,
        "-Im",
        "tidegate_operator.cli",
        "up",
        "-f",
        str(file),
        "--data",
        str(data),
        "--json",
        *flags,
    ]
    for flag in ("--port", "--admin-port", "--ops-port"):
        if flag not in flags:
            command += [flag, "0"]
    with (folder / "up.out").open("ab") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=out,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        )
    if stdin is not None:
        assert process.stdin is not None
        with process.stdin as pipe:
            pipe.write(stdin.encode())
    up = Platform(data, process)
    try:

        def look() -> bool:
            assert process.poll() is None, (folder / "up.out").read_text()
            return (data / "run.json").exists()

        wait_for(look, "up ready")
        up.ready("router")
        yield up
    finally:
        up.stop()
        up.admin.close()
