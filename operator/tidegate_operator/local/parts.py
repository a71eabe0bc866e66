"""The parts of the platform as processes, and keeping them up.

A part that dies is started again at once; one that dies young again and again is given growing
pauses, five seconds at most. Its sockets belong to `up`, so whoever connects meanwhile waits in
the backlog. What a part says goes to a log file of its own.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import httpx

from tidegate_operator.local.process import Child

YOUNG_SECONDS = 10.0
LONGEST_PAUSE = 5.0
LOG_BYTES = 16 * 1024 * 1024
_POLL = 0.05


class PartSpec(NamedTuple):
    """How a part is started. `fds`: sockets it serves on; `url`: what it serves, if anybody asks."""

    name: str
    args: Sequence[str]
    env: Mapping[str, str]
    fds: Sequence[int]
    ops_url: str
    url: str


def pause(young_deaths: int) -> float:
    """Seconds before the next start, after so many early deaths in a row.

    0, 0, 0.2, 0.4, 0.8 ... 5: a killed part is back at once, a broken one does not spin.
    """
    return 0.0 if young_deaths < 2 else min(LONGEST_PAUSE, 0.1 * 2.0 ** (young_deaths - 1))


class Part:
    """One supervised process. `changed` is called when its pid is another one."""

    def __init__(
        self,
        spec: PartSpec,
        logs: Path,
        *,
        changed: Callable[[], None],
        died: Callable[["Part", int], None],
    ) -> None:
        self.spec = spec
        self.young_deaths = 0
        self.child: Child | None = None
        self._log = logs / f"{spec.name}.log"
        self._changed, self._died = changed, died
        self._born = 0.0
        self._wanted = True
        self._again: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int:
        """The process now; 0 between two."""
        return self.child.pid if self.child is not None and self.child.alive else 0

    def start(self) -> None:
        """Starts the process. Raises OSError where that is impossible."""
        if self._log.exists() and self._log.stat().st_size > LOG_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))
        self._born = time.monotonic()
        with self._log.open("ab") as log:
            spec = self.spec
            self.child = Child(
                spec.args, env=spec.env, on_exit=self._exited, log=log, pass_fds=spec.fds
            )
        self._changed()

    async def stop(self, grace: float) -> None:
        """Ends it for good: SIGTERM, then after `grace` seconds SIGKILL."""
        self._wanted = False
        if self._again is not None:
            self._again.cancel()
        if self.child is not None:
            await self.child.stop(grace)

    async def ready(self, http: httpx.AsyncClient) -> None:
        """Returns when it says that it serves."""
        while not await self._says_ready(http):
            await asyncio.sleep(_POLL)

    def last_words(self, lines: int = 5) -> str:
        """The end of its log, for people."""
        try:
            with self._log.open("rb") as log:
                log.seek(max(0, self._log.stat().st_size - 4096))
                tail = log.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        # One that dies again and again says the same each time.
        return "\n".join(list(dict.fromkeys(tail))[-lines:])

    async def _says_ready(self, http: httpx.AsyncClient) -> bool:
        try:
            answer = await http.get(f"{self.spec.ops_url}/readyz", timeout=2.0)
        except httpx.HTTPError:
            return False
        return answer.status_code == 200

    def _exited(self, code: int) -> None:
        if not self._wanted:
            return
        young = time.monotonic() - self._born < YOUNG_SECONDS
        self.young_deaths = self.young_deaths + 1 if young else 0
        self._died(self, code)
        if self._wanted:
            delay = pause(self.young_deaths)
            self._again = asyncio.get_running_loop().call_later(delay, self._restart)

    def _restart(self) -> None:
        try:
            self.start()
        except OSError:  # no memory or no processes left just now: as good as a death
            self._exited(-1)
