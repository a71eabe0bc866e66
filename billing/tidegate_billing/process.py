"""What every process of ours does at its start: log lines of one form, end with its supervisor."""

import contextlib
import ctypes
import io
import logging
import os
import signal
import sys
from collections.abc import Mapping
from typing import Final, TextIO, cast

import structlog

from tidegate_billing import settings

FORMATS: Final = ("json", "text")
LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_PR_SET_PDEATHSIG: Final = 1

KEEP_ALIVE_SECONDS: Final = 75
"""How long our management ports keep an idle connection: longer than HTTP clients do (httpx: 5 s), or a
request would meet the end of the connection that it is sent on."""


def _rendered(form: str) -> list[structlog.typing.Processor]:
    if form == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=False, exception_formatter=plain)]


class _Structured(logging.Handler):
    """Gives what libraries log (uvicorn's tracebacks) the form of our own lines."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(record.name)
        text = record.getMessage()
        log.log(record.levelno, "library", message=text, exc_info=record.exc_info)


class _Lossy(io.TextIOBase):
    """stderr, for what must go on: a line that cannot be written (the disk of the log is full, its reader
    is gone) is lost, and ends nobody."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def log_to_stderr(level: str, environ: Mapping[str, str] = os.environ) -> None:
    """One line an event, at `level` (a key of LEVELS) and above: JSON, or text for people.

    Raises SettingError where the environment's TIDEGATE_LOG_FORMAT is neither."""
    given = environ.get(settings.PREFIX + "LOG_FORMAT") or "json"
    form = settings.choice({"LOG_FORMAT": given}, "LOG_FORMAT", "json", FORMATS)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *_rendered(form),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Lossy())),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Structured()], level=logging.WARNING)


def end_with_parent(environ: Mapping[str, str]) -> None:
    """Under a supervisor (`_TIDEGATE_PARENT`), its death is ours too, however it dies (Linux)."""
    if environ.get("_TIDEGATE_PARENT") and sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
