"""Between an engine and its end: wait until it has nothing left to do and its counters were read.

A pod's `preStop`. Whoever deletes the pod (a rollout, a drained node, a person), routers send it
nothing new from then on; but what it still answers goes on, and an engine that is told to stop ends
at once after its last answer, with what it counted last. So it is told only when it has been idle
for longer than its reader's interval. It takes requests meanwhile, which a router that hears late
may send.

Standard library alone: it runs in any engine's image.

    python3 leave.py PORT LEAST MOST    seconds: not before LEAST, and no longer than MOST
"""

import http.client
import os
import sys
import time
from collections.abc import Callable

STEADY_SECONDS = 2.0
"""The operator reads twice a second; idle for so long, it has read the last count."""
INTERVAL = 0.25
RUNNING = ("vllm:num_requests_running", "vllm:num_requests_waiting")


def busy(text: str) -> float:
    """Requests that Prometheus text of an engine says are running or waiting."""
    return sum(
        float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(RUNNING)
    )


def ask(port: int, secret: str) -> str:
    """The engine's metrics; empty where it will not tell them, to us or at all.

    Raises OSError, HTTPException where it does not answer, TimeoutError where it cannot now."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        link.request("GET", "/metrics", headers={"Authorization": f"Bearer {secret}"})
        answer = link.getresponse()
        text = answer.read().decode()
        if answer.status >= 500:
            raise TimeoutError(f"/metrics answered {answer.status}")
        return text if answer.status == 200 else ""
    finally:
        link.close()


def wait(
    look: Callable[[], str], least: float, most: float,
    clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep,
) -> None:  # fmt: skip
    """Returns when the engine whose metrics `look` gives may be told to stop."""
    began = now = clock()
    idle_since = None
    while now - began < most:
        try:
            idle = not busy(look())
        except TimeoutError:
            idle = False  # it stands still, with whatever it has
        except (OSError, ValueError, http.client.HTTPException):
            idle = True  # it has not begun to listen, or is gone: nothing to wait for
        now = clock()
        idle_since = None if not idle else now if idle_since is None else idle_since
        if idle_since is not None and now - idle_since >= STEADY_SECONDS and now - began >= least:
            return
        sleep(INTERVAL)


if __name__ == "__main__":
    secret = os.environ.get("ENGINE_GUARD_SECRET", "")
    wait(lambda: ask(int(sys.argv[1]), secret), float(sys.argv[2]), float(sys.argv[3]))
