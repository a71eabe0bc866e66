"""A child process on the event loop: started at once, watched without threads, reaped always.

The spawn is synchronous on purpose: `Popen` returns when the exec has happened, a millisecond or
two, and a wake is in a hurry. The end is seen through a pidfd, so no signal handler is shared and
no zombie stays. A child leads a session of its own; killing it means killing its group.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import IO

_CHUNK = 65536
_LONGEST_LINE = 65536


class Child:
    """A running process. `on_exit` is called once, after its last output was passed on."""

    def __init__(
        self,
        args: Sequence[str],
        *,
        env: Mapping[str, str],
        on_exit: Callable[[int], None],
        on_line: Callable[[str], None] | None = None,
        log: IO[bytes] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Starts `args`. Output goes line by line to `on_line`, or whole to `log`.

        Raises OSError where the program cannot be started.
        """
        self._on_exit, self._on_line = on_exit, on_line
        self._buffer = b""
        self._popen = subprocess.Popen(
            list(args),
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if on_line else (log or subprocess.DEVNULL),
            stderr=subprocess.STDOUT,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
        self.pid = self._popen.pid
        self._gone = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._pidfd = os.pidfd_open(self.pid)
        loop.add_reader(self._pidfd, self._exited)
        if self._popen.stdout is not None:
            os.set_blocking(self._popen.stdout.fileno(), False)
            loop.add_reader(self._popen.stdout.fileno(), self._readable)

    @property
    def alive(self) -> bool:
        """Whether it runs, as far as the loop has heard."""
        return not self._gone.is_set()

    def signal_group(self, number: int) -> None:
        """Signals the child and all it started in its session's group; silent when gone."""
        if not self.alive:
            return  # the number may be somebody else's by now
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def terminate(self) -> None:
        """Asks the child alone to end, so that it can end its own children in order."""
        if self.alive:
            self._popen.send_signal(signal.SIGTERM)

    async def wait(self, timeout: float | None = None) -> bool:
        """Whether it is gone; waits `timeout` seconds at most."""
        try:
            await asyncio.wait_for(self._gone.wait(), timeout)
        except TimeoutError:
            return False
        return True

    async def stop(self, grace: float) -> None:
        """SIGTERM, `grace` seconds of patience, then SIGKILL to the whole group."""
        self.terminate()
        await self.wait(grace)
        self.signal_group(signal.SIGKILL)
        await self.wait(10)

    def _readable(self) -> None:
        assert self._popen.stdout is not None
        fd = self._popen.stdout.fileno()
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return
        if not data:
            asyncio.get_running_loop().remove_reader(fd)
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > _LONGEST_LINE:
            self._buffer = b""
        self._pass_on(lines)

    def _pass_on(self, lines: list[bytes]) -> None:
        if self._on_line is not None:
            for line in lines:
                if text := line.decode("utf-8", "replace").rstrip():
                    self._on_line(text)

    def _exited(self) -> None:
        if self._popen.poll() is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        if self._popen.stdout is not None:
            self._last_words(loop)
        # What it forked into its group dies with it: an engine's workers hold the GPU.
        self.signal_group(signal.SIGKILL)
        self._gone.set()
        self._on_exit(self._popen.returncode)

    def _last_words(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._popen.stdout is not None
        fd = self._popen.stdout.fileno()
        loop.remove_reader(fd)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(fd, _CHUNK):
                self._buffer += data
        self._popen.stdout.close()
        lines, self._buffer = self._buffer.split(b"\n"), b""
        self._pass_on(lines)
