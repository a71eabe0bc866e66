"""What replicas' lives come to, written down while they last and told to billing.

The file is for an `up` that is killed: the next one finds it, ends those lives when they were last
seen, and tells what billing has not heard. So what is lost with a killed `up` is what came after
the last writing. Telling may take as long as billing is away; writing goes on meanwhile.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from tidegate_operator.local.billing import Billing, BillingError
from tidegate_operator.local.datadir import write_private
from tidegate_operator.replica_time import Kept, Lives

FILE: Final = "replicas.json"
WRITE_SECONDS: Final = 10.0
TELL_SECONDS: Final = 5.0


class Diary:
    """The lives of one data directory. `failed` is told what billing refused."""

    def __init__(self, data: Path, billing: Billing, failed: Callable[[str], None]) -> None:
        self._file, self._billing, self._failed = data / FILE, billing, failed
        self._written = b"[]"
        self.lives = Lives(self._read())
        self.lives.abandoned()

    async def run(self) -> None:
        """Writes and tells, until cancelled."""
        await asyncio.gather(self._writing(), self._telling())

    def write(self) -> None:
        """Writes down what billing does not have; nothing to write: no file."""
        content = msgspec.json.encode(self.lives.kept())
        try:
            if content == b"[]":
                self._file.unlink(missing_ok=True)
            elif content != self._written:
                write_private(self._file, content)
        except OSError as error:
            self._failed(f"{self._file}: {error.strerror}")
        else:
            self._written = content

    async def tell(self) -> None:
        """Tells billing all that is due; repeated until it has answered."""
        try:
            await self._billing.settle(self.lives)
        except BillingError as error:
            self._failed(f"replicas' time: {error}")

    async def _writing(self) -> None:
        while True:
            self.write()
            await asyncio.sleep(WRITE_SECONDS)

    async def _telling(self) -> None:
        while True:
            await self.tell()
            await asyncio.sleep(TELL_SECONDS)

    def _read(self) -> list[Kept]:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=list[Kept])
        except (OSError, msgspec.MsgspecError):
            return []  # there is none, or none that can be read: nothing more is known
