"""A real terminal for tests: tmux on a socket of its own."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest


def need() -> None:
    """Skips without tmux; fails without it where everything must run."""
    if shutil.which("tmux") is None:
        assert not os.environ.get("CI"), "tmux is not installed; try `apt-get install tmux`"
        pytest.skip("tmux is not installed; try `apt-get install tmux`")


class Terminal:
    """One window of 150 by 40 with a program in it."""

    def __init__(self, folder: Path, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._socket = folder / "tmux"
        kept = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8", **env}
        line = shlex.join(command) + f"; echo status $? > {shlex.quote(str(folder / 'status'))}"
        self._status = folder / "status"
        config = ("-f", os.devnull)
        subprocess.run(
            ["tmux", *config, "-S", str(self._socket), "new-session", "-d", "-x", "150", "-y", "40", line],
            env=kept,
            check=True,
        )  # fmt: skip

    @property
    def status(self) -> str:
        """`status N` once the program has ended."""
        return self._status.read_text().strip() if self._status.exists() else ""

    def text(self) -> str:
        """What is on the screen."""
        return self._tmux("capture-pane", "-p")

    def press(self, *keys: str) -> None:
        """Types keys, by tmux's names for them."""
        self._tmux("send-keys", *keys)

    def close(self) -> None:
        """Ends the terminal, and what is left in it."""
        self._tmux("kill-server")

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", str(self._socket), *arguments],
            capture_output=True, text=True, check=False, timeout=20,
        )  # fmt: skip
        return done.stdout
