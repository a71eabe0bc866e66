"""The truth file: what was generated, whatever happens to this process.

One `write` carries the lines of all streams that a tick advances, and it is made before any byte
of that tick goes to a socket. A written line belongs to the kernel, so kill -9 of the engine cannot
take it back, and no client can have received a token that the file does not know.
The last line of an attempt counts.
"""

import os

import msgspec

RUNNING, COMPLETED, ABORTED, CRASHED, ERROR = (
    b"running",
    b"completed",
    b"aborted",
    b"crashed",
    b"error",
)


def line_format(attempt_id: str, prompt_tokens: int) -> bytes:
    """A format for one attempt's lines, to be filled with (generated, sent, outcome)."""
    name = msgspec.json.encode(attempt_id).replace(b"%", b"%%")
    return (
        b'{"attempt_id":%b,"prompt_tokens":%d,"generated_tokens":%%d,'
        b'"sent_tokens":%%d,"outcome":"%%b"}\n' % (name, prompt_tokens)
    )


class Truth:
    """An append-only file of lines; `path` "" keeps nothing."""

    def __init__(self, path: str) -> None:
        """Raises OSError if the file cannot be opened."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o600) if path else -1
        self.path, self.kept = path, bool(path)
        if path and _torn(path):
            self.write([b"\n"])

    def write(self, lines: list[bytes]) -> None:
        """Append lines. Raises OSError where they cannot be kept: nothing may run untold."""
        if not self.kept or not lines:
            return
        rest = memoryview(b"".join(lines))
        while rest:
            rest = rest[os.write(self._fd, rest) :]


def _torn(path: str) -> bool:
    """Whether an earlier process died within a line."""
    with open(path, "rb") as file:  # noqa: PTH123 - a path from a flag, opened once
        size = file.seek(0, os.SEEK_END)
        return size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
