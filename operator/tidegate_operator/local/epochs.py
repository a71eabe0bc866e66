"""What is owed to billing about engines, kept on disk until billing has it.

An epoch is noted when its engine has been started and closed with its counters when it has ended.
Whatever `up` finds on starting is still owed: a closed one whose acknowledgement never came, or an
open one whose engine died with a killed `up`, unread unless it left a truth file.
"""

from collections.abc import Callable
from pathlib import Path

import msgspec

from tidegate_billing.links import EngineCounters
from tidegate_operator.local import counters
from tidegate_operator.local.datadir import write_private

FOLDER = "epochs"


class Owed(msgspec.Struct, frozen=True):
    """One epoch's counters, and its truth file where it has one (\"\": none)."""

    counters: EngineCounters
    truth: str = ""
    closed: bool = False


class Epochs:
    """The folder of one data directory, a file per epoch. `failed` is told what cannot be written: it is
    only lost if this process is killed before billing has it."""

    def __init__(self, data: Path, failed: Callable[[str], None]) -> None:
        self._folder, self._failed = data / FOLDER, failed
        self._folder.mkdir(mode=0o700, exist_ok=True)

    def begin(self, lost: EngineCounters, truth: Path | None) -> None:
        """Notes a started engine: `lost` is what to tell if nothing better comes."""
        self._write(Owed(lost, str(truth or "")))

    def close(self, ended: EngineCounters) -> None:
        """Notes an ended engine's counters."""
        self._write(Owed(ended, closed=True))

    def paid(self, epoch: str) -> None:
        """Billing has it."""
        self._path(epoch).unlink(missing_ok=True)

    def owed(self) -> list[EngineCounters]:
        """What a former `up` did not get through to billing. Reads files."""
        found = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                one = msgspec.json.decode(path.read_bytes(), type=Owed)
            except (OSError, msgspec.MsgspecError):
                path.unlink(missing_ok=True)
                continue
            told = None if one.closed or not one.truth else counters.read_truth(Path(one.truth))
            found.append(one.counters if told is None else counters.from_truth(one.counters, told))
        return found

    def _path(self, epoch: str) -> Path:
        return self._folder / f"{epoch}.json"

    def _write(self, one: Owed) -> None:
        path = self._path(one.counters.epoch)
        try:
            write_private(path, msgspec.json.encode(one))
        except OSError as error:
            self._failed(f"{path}: {error.strerror}")
