"""The console script `tidegate`: the composition root people and programs start from.

Three kinds of commands live here. Parts as processes (`router`, `billing`, `sim`) replace this
process by exec, so that a supervisor's signals and a `ps` line reach the part itself and nothing
of the command line stays in its memory. Client commands speak to a running platform's management
API and never to its database. `up` and `demo` start a platform.

Whatever a person can cure is one line on stderr: exit 1 where the work failed, 2 for bad use.
"""

import os
import sys
from typing import NoReturn

PARTS = {
    "sim": "tidegate_runtime.engines.sim",
    "router": "tidegate_runtime",
    "billing": "tidegate_billing",
    "operator": "tidegate_operator.kube",
}
"""Commands that are processes of their own, by the module that parses their arguments."""


def become(part: str, arguments: list[str]) -> NoReturn:
    """Replace this process with a part. `-I`: nothing of the caller's directory is imported."""
    command = [sys.executable, "-Im", PARTS[part], *arguments]
    os.execv(command[0], command)  # noqa: S606 - our own list of words, and no shell is wanted


def main() -> int:
    """Run the command line of `sys.argv`; the exit status is the result."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] in PARTS:
        become(arguments[0], arguments[1:])

    from tidegate_operator.cli.app import run

    return run(arguments)
