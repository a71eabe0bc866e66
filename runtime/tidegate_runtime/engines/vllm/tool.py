"""Running one program to its end, line by line; and one process at a time in a folder.

Both installers (uv) and the conversion (vLLM's own Python) are programs that take minutes and
talk on their output; nothing here knows which.
"""

import asyncio
import fcntl
import os
import shutil
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tidegate_runtime.engines.vllm.progress import InstallError

_KEPT_LINES = 20
_LOCK_POLL_SECONDS = 0.2


class ToolError(Exception):
    """The program ended with a status other than zero; `lines` are the last it printed."""

    def __init__(self, status: int, lines: Sequence[str]) -> None:
        super().__init__(f"exit status {status}")
        self.lines = tuple(lines)


def uv() -> str:
    """Where the `uv` program is: the one installed beside us, else the one on PATH.

    Raises InstallError if there is none."""
    try:
        from uv import find_uv_bin

        return str(find_uv_bin())
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
    if found is None:
        raise InstallError("uv is not installed; `pip install uv` provides it")
    return found


async def run(
    argv: Sequence[str],
    env: Mapping[str, str],
    on_line: Callable[[str], None],
) -> None:
    """Run a program to its end; each line it prints goes to `on_line`.

    Raises ToolError if it fails. Cancelled, it ends the program first."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        env=dict(env),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    last: deque[str] = deque(maxlen=_KEPT_LINES)
    try:
        async for line in _lines(process.stdout):
            last.append(line)
            on_line(line)
        status = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if status != 0:
        raise ToolError(status, last)


async def _lines(stream: asyncio.StreamReader | None) -> AsyncIterator[str]:
    """Lines as they come; a progress bar's carriage return ends a line, too."""
    assert stream is not None
    rest = b""
    while chunk := await stream.read(65536):
        *whole, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
        for line in whole:
            if line.strip():
                yield line.decode(errors="replace").rstrip()
    if rest.strip():
        yield rest.decode(errors="replace").rstrip()


@asynccontextmanager
async def only_one(lock: Path) -> AsyncIterator[None]:
    """Hold a lock file: one process on this machine at a time is inside, however it dies."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not _locked(handle):
            await asyncio.sleep(_LOCK_POLL_SECONDS)
        yield
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
