"""What is printed, wherever it goes: a terminal of any encoding, a pipe that nobody reads, a full disk."""

import contextlib
import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

    from tidegate_operator.local import Event


def settle() -> None:
    """Has stdout spell out what its encoding does not have, as stderr does, instead of failing."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def line(value: Any) -> str:
    """One JSON document that stdout can hold: readable where it is UTF-8."""
    unicode = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"
    text = json.dumps(value, ensure_ascii=not unicode)
    # Half a character, as JSON may escape it, is in no encoding.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def redraws(console: "Console") -> bool:
    """Whether lines on it can be drawn over: of a terminal that cannot (TERM=dumb) nothing would be seen."""
    return console.is_terminal and not console.is_dumb_terminal


def lasting(report: "Callable[[Event], None]") -> "Callable[[Event], None]":
    """`report` for what must go on: where it cannot be written (its reader is gone, the disk is full, the
    terminal is closed) an event is not told."""

    def told(event: "Event") -> None:
        try:
            report(event)
        except BrokenPipeError:
            for stream in (sys.stdout, sys.stderr):
                leave_closed(stream)
        except OSError:
            return

    return told


def leave_closed(stream: TextIO) -> None:
    """Sends what is still said to nowhere, if the stream's reader is gone."""
    with contextlib.suppress(OSError, ValueError):
        try:
            stream.flush()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
