"""`python -m tidegate_billing`: the billing process, and the work on its database beside it.

Secrets come by environment, never by flag.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence

from tidegate_billing import app, destinations, migrate, settings, upkeep
from tidegate_billing.database import ALLOWED
from tidegate_billing.process import end_with_parent, log_to_stderr


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until stopped; the exit code: 0, or 1 with one line on stderr that says why."""
    end_with_parent(os.environ)
    given = vars(_parse(arguments))
    task, argument = given.pop("task"), given.pop("argument")
    try:
        values = settings.read(given, os.environ)
        if task != "serve":
            upkeep.run(task, argument, app.database_url(values))
            return 0
        chosen = app.configure(values)
        management = app.listen("LISTEN", chosen.host, chosen.port, chosen.listen_fd)
        ops = app.listen("OPS", chosen.host, chosen.ops_port, chosen.ops_fd)
        log_to_stderr(chosen.log_level)
        _migrate(chosen.database_url)
    except ValueError as error:
        sys.stderr.write(f"tidegate billing: {error}\n")
        return 1
    asyncio.run(app.serve(chosen, management, ops))
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tidegate billing", description=__doc__)
    parser.add_argument(
        "task", nargs="?", default="serve", choices=["serve", *upkeep.TASKS], help=upkeep.HELP
    )
    parser.add_argument("argument", nargs="?", default="", help="what the task is done to")
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", dest="admin_port", help="management port (8081; 0: any)")
    parser.add_argument("--ops-port", help="operations port (9091; 0: any)")
    parser.add_argument("--listen-fd", help="inherited socket of the management port")
    parser.add_argument("--ops-fd", help="inherited socket of the operations port")
    parser.add_argument("--database-url", help=ALLOWED)
    parser.add_argument("--operator-url", help="operations port of the operator")
    parser.add_argument("--webhook-destinations", help=" | ".join(destinations.POLICIES))
    parser.add_argument("--log-level", help=" | ".join(app.LOG_LEVELS))
    return parser.parse_args(arguments)


def _migrate(url: str) -> None:
    """Migrate in a child, so that Alembic's memory goes with it. Raises ValueError."""
    if migrate.is_current(url):
        return
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            migrate.migrate(url)
        except ValueError as error:
            os.write(writing, str(error).encode()[:4096])
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8", errors="replace") as said:
        why = said.read()
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise ValueError(why or "the database could not be migrated")


if __name__ == "__main__":
    sys.exit(main())
