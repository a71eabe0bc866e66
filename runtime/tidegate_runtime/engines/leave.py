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
    """The engine's metrics. Raises OSError, HTTPException where it does not tell them."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        link.request("GET", "/metrics", headers={"Authorization": f"Bearer {secret}"})
        answer = link.getresponse()
        text = answer.read().decode()
        if answer.status != 200:
            raise OSError(f"/metrics answered {answer.status}")
        return text
    finally:
        link.close()


def main(port: int, least: float, most: float, secret: str) -> None:
    """Returns when the engine may be told to stop."""
    began = now = time.monotonic()
    idle_since = None
    while now - began < most:
        try:
            idle = not busy(ask(port, secret))
        except (OSError, ValueError, http.client.HTTPException):
            idle = True  # it has not begun to listen, or is gone: nothing to wait for
        idle_since = None if not idle else now if idle_since is None else idle_since
        if idle_since is not None and now - idle_since >= STEADY_SECONDS and now - began >= least:
            return
        time.sleep(INTERVAL)
        now = time.monotonic()


if __name__ == "__main__":
    main(
        int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]),
        os.environ.get("ENGINE_GUARD_SECRET", ""),
    )  # fmt: skip
