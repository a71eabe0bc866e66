"""Ctrl-C, heard also by what a shell started in its background: such a process is born deaf to it."""

import signal
from types import FrameType


def hear(*numbers: signal.Signals) -> None:
    """Have these signals (SIGINT without any) raise KeyboardInterrupt in the main thread."""
    for number in numbers or (signal.SIGINT,):
        signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
