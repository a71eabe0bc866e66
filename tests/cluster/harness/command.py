"""Outside commands: one way to run them, and one error that says what they said."""

import subprocess
from collections.abc import Mapping
from pathlib import Path


class CommandFailed(RuntimeError):
    """A command ended with another status than 0; the message holds what it wrote to stderr."""

    def __init__(self, argv: tuple[str, ...], status: int, stderr: str) -> None:
        super().__init__(f"{' '.join(argv)}: status {status}: {stderr.strip()[-4000:]}")
        self.status = status
        self.stderr = stderr


def run(
    *argv: str | Path,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    seconds: float = 600,
) -> str:
    """Run a command to its end and return its stdout.

    Raises CommandFailed where its status is not 0, subprocess.TimeoutExpired after `seconds`.
    """
    words = tuple(str(word) for word in argv)
    done = subprocess.run(
        words,
        input=stdin or "",
        env=env,
        cwd=cwd,
        timeout=seconds,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise CommandFailed(words, done.returncode, done.stderr)
    return done.stdout
