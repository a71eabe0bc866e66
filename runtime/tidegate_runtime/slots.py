"""Counts of running streams, kept where `kill -9` of the router cannot take them.

A memory-mapped file of fixed slots: 16 bytes of attempt id, then prompt and completion tokens as
one aligned 64-bit word each. A word is stored whole, and it is stored before the bytes it counts
go to the client, so after a crash: received <= slot <= generated. The file is filled with zeros
when it is made: a full disk later cannot hurt a running stream.
"""

import mmap
import os
from pathlib import Path
from typing import Final
from uuid import UUID

CAPACITY: Final = 16_384
_WORDS: Final = 4
_BYTES: Final = _WORDS * 8


class Slots:
    """The slot file of one router. Raises OSError where it cannot be made."""

    def __init__(self, path: Path, capacity: int = CAPACITY) -> None:
        size = capacity * _BYTES
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_size != size:  # written, not truncated: no hole to fill later
                os.pwrite(fd, bytes(size), 0)
                os.ftruncate(fd, size)
            self._map = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        self._words = memoryview(self._map).cast("Q")
        self._free = list(range(capacity - 1, -1, -1))

    def left(self) -> dict[str, tuple[int, int]]:
        """What a former life left: attempt id -> (prompt, completion) tokens."""
        found = {}
        for i in range(len(self._free)):
            raw = self._map[i * _BYTES : i * _BYTES + 16]
            if raw != bytes(16):
                base = i * _WORDS
                found[str(UUID(bytes=raw))] = (self._words[base + 2], self._words[base + 3])
        return found

    def clear(self) -> None:
        """Forget what a former life left (after its settlements are durable)."""
        self._map[:] = bytes(len(self._map))

    def take(self, attempt_id: str) -> int:
        """A slot for an attempt, or -1 when all are taken."""
        if not self._free:
            return -1
        slot = self._free.pop()
        base = slot * _WORDS
        self._words[base + 2] = self._words[base + 3] = 0
        self._map[slot * _BYTES : slot * _BYTES + 16] = bytes.fromhex(attempt_id.replace("-", ""))
        return slot

    def put(self, slot: int, prompt: int, completion: int) -> None:
        """Store an attempt's counts so far."""
        base = slot * _WORDS
        self._words[base + 2] = prompt
        self._words[base + 3] = completion

    def give(self, slot: int) -> None:
        """Free a slot (its attempt's settlement has been written)."""
        self._map[slot * _BYTES : slot * _BYTES + 16] = bytes(16)
        self._free.append(slot)

    def close(self) -> None:
        """Unmap the file; what is in it stays on disk."""
        self._words.release()
        self._map.close()
