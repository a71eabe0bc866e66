"""`sim`: a deterministic stand-in for vLLM, with its HTTP surface and no model behind it.

It owns: what an engine looks like from outside (routes, byte shapes, counters, draining), its
latencies, and its failures on demand. It does not own: what text means. Every prompt token is a
whitespace-separated word, every answer is `" t0"`, `" t1"`, ... up to `max_tokens`.

Two things make it worth more than a stub. Its **truth file** says, for every attempt and through
kill -9, what was really generated, so that a bill can be checked against it. And it is fast:
one timer advances all streams, so it can load a router with tens of thousands of chunks a second
from a single core.

`options` is pure and is what the validation of a resource's `engine.args` calls.
"""

from collections.abc import Sequence

from tidegate_runtime.engines.sim.settings import Options, options

__all__ = ["Options", "main", "options"]


def main(argv: Sequence[str]) -> int:
    """Run the engine until it is told to stop; `argv` is without the program's name.

    Returns the exit status: 0 after a drain, 1 when it could not start, 2 for bad use.
    """
    from tidegate_runtime.engines.sim.server import run

    return run(argv)
