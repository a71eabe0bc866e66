"""The platform on one machine: what `tidegate up` runs.

`up` is the cluster's stand-in: it starts router and billing as processes of their own, decides
replicas with the same pure functions as the operator, starts engines instead of pods, and serves
the world that a cluster's API server would. Everything it starts, it ends.
"""

from collections.abc import Callable

from tidegate_operator.local.options import Event, UpOptions

__all__ = ["Event", "UpOptions", "run"]


def run(options: UpOptions, report: Callable[[Event], None]) -> int:
    """Runs the platform until it is told to stop, and returns the process's exit code.

    Blocks; takes over SIGINT and SIGTERM of the main thread. `report` is called from this thread.
    """
    from tidegate_operator.local.up import run as live

    return live(options, report)
