"""Routers on one credit: callers that ask as fast as they can, until nothing is left.

Half of them stream; some name no `max_tokens`, some ask for several answers, some leave in the middle. Everything
follows from a seed, but for what the machine's own timing does.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

PATIENCE = 60


@dataclass
class Told:
    """What callers saw. `refused`: when each 402 came."""

    statuses: Counter[int] = field(default_factory=Counter)
    refused: list[float] = field(default_factory=list)
    broken: int = 0
    left: int = 0


class Callers:
    """Threads that ask, each at one router until it hears `enough` refusals in a row."""

    def __init__(self, bases: Callable[[], list[str]], key: str, model: str, seed: int) -> None:
        self._bases = bases
        self._key = key
        self._model = model
        self._seed = seed
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.told = Told()

    def start(self, each: int, routers: int, enough: int) -> None:
        """`each` callers at every one of the routers."""
        for router in range(routers):
            for number in range(each):
                rng = random.Random(f"{self._seed}/{router}/{number}")
                thread = threading.Thread(target=self._call, args=(router, rng, enough))
                thread.start()
                self._threads.append(thread)

    def join(self) -> None:
        """Wait until the last one has had enough."""
        for thread in self._threads:
            thread.join()

    def _call(self, router: int, rng: random.Random, enough: int) -> None:
        refused = 0
        headers = {"authorization": f"Bearer {self._key}"}
        with httpx.Client(headers=headers, timeout=PATIENCE, trust_env=False) as client:
            while refused < enough:
                url = f"{self._bases()[router]}/v1/chat/completions"
                status = self._ask(client, url, rng)
                refused = refused + 1 if status == 402 else 0
                if status in {0, 503}:
                    time.sleep(0.05)  # its router is being restarted

    def body(self, rng: random.Random) -> dict[str, Any]:
        """One request of any kind."""
        words = " ".join(
            rng.choice(["one", "two", "three", "12345"]) for _ in range(rng.randint(1, 60))
        )
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": words}],
            "stream": rng.random() < 0.5,
            "n": rng.choice([1, 1, 1, 2, 3]),
        }  # fmt: skip
        limit = rng.choice([None, 1, 20, 100, 300])
        if limit is not None:
            body[rng.choice(["max_tokens", "max_completion_tokens"])] = limit
        return body

    def _ask(self, client: httpx.Client, url: str, rng: random.Random) -> int:
        body = self.body(rng)
        leaves = rng.random() < 0.1
        try:
            with client.stream("POST", url, json=body) as answer:
                status = answer.status_code
                for _ in answer.iter_bytes():
                    if leaves and body["stream"] and status == 200:
                        break
            with self._lock:
                self.told.statuses[status] += 1
                self.told.left += leaves
                if status == 402:
                    self.told.refused.append(time.time())
        except httpx.HTTPError:
            with self._lock:
                self.told.broken += 1
            return 0
        return status
