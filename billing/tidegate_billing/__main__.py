"""`python -m tidegate_billing`: the billing process. Secrets come by environment, never by flag."""

import argparse
import asyncio
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Sequence

import structlog

from tidegate_billing import app, database, settings

PR_SET_PDEATHSIG = 1
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class _Structured(logging.Handler):
    """Gives what libraries log (uvicorn's tracebacks) the form of our own lines."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(record.name)
        text = record.getMessage()
        log.log(record.levelno, "library", message=text, exc_info=record.exc_info)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until stopped; the exit code: 0, or 1 with one line on stderr that says why."""
    _follow_parent()
    try:
        chosen = app.configure(settings.read(vars(_parse(arguments)), os.environ))
        management = app.listen("LISTEN", chosen.host, chosen.port, chosen.listen_fd)
        ops = app.listen("OPS", chosen.host, chosen.ops_port, chosen.ops_fd)
        _log_to_stderr(chosen.log_level)
        _migrate(chosen.database_url)
    except ValueError as error:
        sys.stderr.write(f"tidegate billing: {error}\n")
        return 1
    asyncio.run(app.serve(chosen, management, ops))
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tidegate billing", description=__doc__)
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", dest="admin_port", help="management port (8081; 0: any)")
    parser.add_argument("--ops-port", help="operations port (9091; 0: any)")
    parser.add_argument("--listen-fd", help="inherited socket of the management port")
    parser.add_argument("--ops-fd", help="inherited socket of the operations port")
    parser.add_argument("--database-url", help="sqlite:///PATH")
    parser.add_argument("--operator-url", help="operations port of the operator")
    parser.add_argument("--log-level", help=" | ".join(app.LOG_LEVELS))
    return parser.parse_args(arguments)


def _follow_parent() -> None:
    """End with the supervisor that started us, however it ends (Linux)."""
    parent = os.environ.get("_TIDEGATE_PARENT")
    if not parent or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if parent.isdigit() and int(parent) > 1 and os.getppid() != int(parent):
        sys.exit(1)  # it was gone before we asked


def _migrate(url: str) -> None:
    """Migrate in a child, so that Alembic's memory goes with it. Raises ValueError."""
    if database.is_current(url):
        return
    child = os.fork()
    if child == 0:
        try:
            database.migrate(url)
        except ValueError as error:
            sys.stderr.write(f"tidegate billing: {error}\n")
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise ValueError("the database could not be migrated")


def _log_to_stderr(level: str) -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Structured()], level=logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
