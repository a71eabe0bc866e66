"""What starts a model: one port, an implementation per engine type.

The slow part (`prepare`: an environment, weights) happens before anybody waits, as far as that is
possible. What is left for the wake, `command`, is a list of strings made from what is in memory.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import msgspec

from tidegate_operator.local.environment import for_engine
from tidegate_operator.local.sockets import LOOPBACK
from tidegate_runtime.engines.sim import options

MIB: Final = 2**20
SIM_PROCESS: Final = 20 * MIB
"""What the simulator takes without any memory of its own, measured and rounded up."""

Progress = Callable[[str, str], None]
"""Called with a phase (`installing`, `fetching`, `converting`) and a detail for people."""


class Start(NamedTuple):
    """One replica about to be started. `truth`: where a simulator writes what it did; `log`: where
    what the engine says is kept; `cores`: what its threads are to run on, empty: not decided here."""

    replica: str
    port: int
    guard: str
    truth: Path
    log: Path | None = None
    cores: tuple[int, ...] = ()


class Command(NamedTuple):
    """What to exec, and its whole environment but for `up`'s mark."""

    args: Sequence[str]
    env: Mapping[str, str]


class Seen(NamedTuple):
    """What a line of an engine's output tells. `able_at`: it can answer since then (0: not yet)."""

    phase: str
    able_at: float = 0.0


class PrepareError(Exception):
    """A model cannot be started from its source: `reason` is one of the documented ones.
    `curable`: trying again may help."""

    def __init__(self, reason: str, message: str, *, curable: bool = False) -> None:
        super().__init__(message)
        self.reason, self.curable = reason, curable


class Engine(Protocol):
    """How one deployment's engine is prepared, started and understood."""

    tells_truth: bool
    """Whether it writes a truth file."""
    computes: bool
    """Whether it is to be given cores to compute on."""
    first_phase: str
    """What it does before it first says something."""

    async def prepare(self, progress: Progress) -> None:
        """Makes ready what a start needs; at once where nothing is to be done.

        Raises PrepareError where it cannot succeed.
        """

    def needs(self) -> int:
        """Memory that one replica will take, in bytes, by estimate; 0: not known. Only after
        `prepare`."""

    def lacking(self, size: int, whose: str) -> str:
        """Why `size` bytes, called `whose` in the sentence, hold no replica; '' = they do."""

    def command(self, start: Start) -> Command:
        """The process to start; only after `prepare`. Quick, for somebody waits."""

    def seen(self, line: str, now: float) -> Seen | None:
        """What a line of output tells; None for most. Pure."""


class _SimLine(msgspec.Struct):
    event: str
    phase: str = ""
    at: float = 0.0


class Sim:
    """The simulator: nothing to prepare, and it says in JSON how far it is."""

    tells_truth = True
    computes = False
    first_phase = "launching"

    def __init__(
        self,
        model: str,
        args: Sequence[str],
        env: Mapping[str, str],
        aliases: Sequence[str] = (),
    ) -> None:
        self._names = ["--model", model]
        for alias in aliases:
            self._names += ["--alias", alias]
        self._args = list(args)
        self._memory = options(self._args).memory_mib * MIB
        self._env = for_engine(os.environ, env)

    async def prepare(self, progress: Progress) -> None:
        """Nothing: a simulated model has no weights."""

    def needs(self) -> int:
        """What `--memory-mib` says, and what the process takes; not known without."""
        return self._memory and self._memory + SIM_PROCESS

    def lacking(self, size: int, whose: str) -> str:
        """The arithmetic of it."""
        if self.needs() <= size:
            return ""
        parts = f"--memory-mib {self._memory // MIB} MiB + process {SIM_PROCESS // MIB} MiB"
        return (
            f"it needs about {self.needs() // MIB} MiB of memory ({parts}), "
            f"and {size // MIB} MiB {whose}"
        )

    def command(self, start: Start) -> Command:
        """The simulator as a module of this very installation."""
        args = [sys.executable, "-Im", "tidegate_runtime.engines.sim"]
        args += ["--host", LOOPBACK, "--port", str(start.port)]
        args += [*self._names, "--truth", str(start.truth), *self._args]
        return Command(args, self._env | {"ENGINE_GUARD_SECRET": start.guard})

    def seen(self, line: str, now: float) -> Seen | None:
        """A phase, or that it can answer."""
        if not line.startswith("{"):
            return None
        try:
            said = msgspec.json.decode(line, type=_SimLine)
        except msgspec.MsgspecError:
            return None
        if said.event == "ready":
            return Seen("", said.at or now)
        return Seen(said.phase) if said.event == "phase" else None
