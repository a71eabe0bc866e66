"""What every process of ours does at its start: log lines of one form, end with its supervisor."""

import ctypes
import logging
import signal
import sys
from collections.abc import Mapping
from typing import Final

import structlog

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_PR_SET_PDEATHSIG: Final = 1


class _Structured(logging.Handler):
    """Gives what libraries log (uvicorn's tracebacks) the form of our own lines."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(record.name)
        text = record.getMessage()
        log.log(record.levelno, "library", message=text, exc_info=record.exc_info)


def log_to_stderr(level: str) -> None:
    """One JSON line an event, at `level` (a key of LEVELS) and above."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Structured()], level=logging.WARNING)


def end_with_parent(environ: Mapping[str, str]) -> None:
    """Under a supervisor (`_TIDEGATE_PARENT`), its death is ours too, however it dies (Linux)."""
    if environ.get("_TIDEGATE_PARENT") and sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
