"""Single keys of a terminal, without Enter and without an echo. Ctrl-C stays a signal."""

import os
import re
import sys
import termios
import tty
from typing import Self

_SEQUENCE = re.compile(r"\x1b\[[0-9;]*[A-Za-z~]|\x1bO[A-Z]|.", re.DOTALL)
_NAMES = {"\x1b[A": "up", "\x1b[B": "down", "\x1bOA": "up", "\x1bOB": "down"}
_NAMES |= {"k": "up", "j": "down"}


def keys(text: str) -> list[str]:
    """The keys in what was read: a character each, and the arrows as `up` and `down`."""
    found = (_NAMES.get(one, one) for one in _SEQUENCE.findall(text))
    return [one for one in found if len(one) == 1 or one in {"up", "down"}]


class Keyboard:
    """A terminal that passes on each key. `close` leaves it as it was."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._before = termios.tcgetattr(fd)
        tty.setcbreak(fd, termios.TCSADRAIN)

    @classmethod
    def opened(cls) -> Self | None:
        """The keyboard of standard input; None where that is no terminal, or not ours now."""
        try:
            fd = sys.stdin.fileno()
            if not os.isatty(fd) or os.tcgetpgrp(fd) != os.getpgrp():
                return None
            return cls(fd)
        except (OSError, ValueError, termios.error):
            return None

    def read(self) -> list[str]:
        """The keys that were pressed; waits for one. Raises EOFError where the terminal is gone."""
        try:
            content = os.read(self.fd, 1024)
        except OSError:
            content = b""
        if not content:
            raise EOFError
        return keys(content.decode("utf-8", "replace"))

    def close(self) -> None:
        """Leaves the terminal as it was."""
        try:
            termios.tcsetattr(self.fd, termios.TCSADRAIN, self._before)
        except termios.error:
            return
