"""The API server by plain HTTP, for tests that ask it hundreds of times.

`kubectl proxy` signs in as the kubeconfig says, whatever it says, and one process serves all calls:
a kubectl per question would cost a tenth of a second of one of two cores.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from .kubectl import environment
from .layout import Cluster


@contextmanager
def client(cluster: Cluster, timeout: float = 30) -> Iterator[httpx.Client]:
    """A client whose base URL is the API server. Raises RuntimeError where kubectl does not serve."""
    words = [str(cluster.kubectl), "proxy", "--port=0", "--disable-filter=false"]
    process = subprocess.Popen(
        words,
        env=environment(cluster),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        if "Starting to serve on " not in said:
            raise RuntimeError(f"kubectl proxy: {said.strip() or 'said nothing'}")
        base = f"http://{said.rsplit(' ', 1)[1].strip()}"
        with httpx.Client(base_url=base, timeout=timeout, trust_env=False) as made:
            yield made
    finally:
        process.terminate()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()
