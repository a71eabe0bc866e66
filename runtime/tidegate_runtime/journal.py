"""The usage journal's files: numbered records in segments that own their disk space beforehand.

A segment is filled with zeros and synced before its first record, then mapped: writing a record is
a copy that can neither run out of disk nor change the file's size (which makes fdatasync cheap),
and what was copied outlives the process. A record is
`length, crc32, number` and a JSON event; the first header that does not check out is the end: what
a crash tore was never acknowledged to anybody. Records are numbered from 1 for ever; `acked` is
the last number billing has confirmed. A segment goes once all in it is confirmed and no attempt
begun in it is open, since recovery needs an attempt's record to settle it.

    DIR/id             the journal's name      DIR/acked     last number confirmed
    DIR/0000000001.log segment by its first record's number
    DIR/written        what segments that are gone had settled (`tally`)
"""

import contextlib
import fcntl
import mmap
import os
import struct
import time
import zlib
from collections.abc import Iterator
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from tidegate_billing.usage import Usage, day_of, uuid7
from tidegate_runtime.tally import Counts, Tally

_HEAD: Final = struct.Struct("<IIQ")
_ACKED: Final = struct.Struct("<Q")
SEGMENT_BYTES: Final = 4 * 1024 * 1024
_READ: Final = 1024 * 1024
RESERVE: Final = 1024
"""Room kept for the settlement of each open attempt, in bytes: more than any record takes."""

_ATTEMPT: Final = 1 << 31
"""Set in a record's length where the event opens an attempt: no need to decode it to know."""

_EVENT: Final = msgspec.json.Decoder(Usage)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class JournalFull(OSError):
    """There is no place for another record."""


class JournalBusy(OSError):
    """Another process writes this journal."""


class Record(NamedTuple):
    """One event as it is kept: its number, whether it opens an attempt, its JSON."""

    number: int
    attempt: bool
    payload: bytes

    def event(self) -> Usage:
        """The event itself."""
        return _EVENT.decode(self.payload)


class Open(NamedTuple):
    """An attempt without settlement, and the number of its record."""

    number: int
    event: Usage


class Segment:
    """One file. `first` is the number of its first record, `end` where the next one goes."""

    __slots__ = ("counts", "end", "fd", "first", "last", "map", "path", "size")

    def __init__(self, path: Path, fd: int, first: int, size: int) -> None:
        self.path = path
        self.fd = fd
        self.map = mmap.mmap(fd, size)
        self.first = first
        self.last = first - 1
        self.end = 0
        self.size = size
        self.counts: Counts = {}

    @classmethod
    def create(cls, folder: Path, first: int, size: int) -> "Segment":
        """Make and zero a segment. Raises OSError, leaving nothing, where the disk is full.

        It gets its name when it is whole: a crash while it is made leaves nothing to read."""
        path = folder / f"{first:010d}.tmp"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            if os.pwrite(fd, bytes(size), 0) != size:
                raise JournalFull(ENOSPC, f"no disk space for a journal segment of {size} bytes")
            os.fsync(fd)
            return cls(path, fd, first, size)
        except OSError:
            os.close(fd)
            path.unlink()
            raise

    def name(self, first: int) -> None:
        """Take the place behind record `first` - 1, durably. Raises OSError."""
        path = self.path.with_name(f"{first:010d}.log")
        self.path.rename(path)
        self.path, self.first, self.last = path, first, first - 1
        sync_folder(path.parent)

    @classmethod
    def open(cls, path: Path) -> "Segment":
        """Open a segment of a former life and find its end."""
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        segment = cls(path, fd, int(path.stem), os.fstat(fd).st_size)
        for end, record in segment.read(0, segment.size, verify=True):
            segment.end, segment.last = end, record.number
        return segment

    def forget_tail(self) -> None:
        """Zero all behind the end, durably. Where a crash tore a record, whole ones may lie behind
        it: a record written over the torn one must not bring them back."""
        self.map[self.end :] = bytes(self.size - self.end)
        os.fdatasync(self.fd)

    def append(self, number: int, payload: bytes, *, attempt: bool) -> None:
        """Write one record: a copy into the mapped file, no system call. Raises JournalFull."""
        end = self.end + _HEAD.size + len(payload)
        if end > self.size:
            raise JournalFull(ENOSPC, f"journal segment {self.path.name} is full")
        length = len(payload) | _ATTEMPT if attempt else len(payload)
        head = _HEAD.pack(length, zlib.crc32(payload, number & 0xFFFF_FFFF), number)
        self.map[self.end : end] = head + payload
        self.end = end
        self.last = number

    def read(self, offset: int, stop: int, *, verify: bool) -> Iterator[tuple[int, Record]]:
        """(offset behind it, record) for each whole record between two offsets.

        What this process wrote needs no `verify`; what a crash may have torn does."""
        data = self.map[offset:stop]
        at = 0
        while at + _HEAD.size <= len(data):
            length, crc, number = _HEAD.unpack_from(data, at)
            attempt, length = bool(length & _ATTEMPT), length & ~_ATTEMPT
            end = at + _HEAD.size + length
            payload = data[at + _HEAD.size : end]
            if not length or end > len(data):
                break
            if verify and zlib.crc32(payload, number & 0xFFFF_FFFF) != crc:
                break
            at = end
            yield offset + at, Record(number, attempt, payload)

    def close(self, *, remove: bool = False) -> None:
        """Close the file, and delete it where asked."""
        self.map.close()
        os.close(self.fd)
        if remove:
            self.path.unlink()


class Journal:
    """All segments of one router. Single writer: a second process gets JournalBusy."""

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder
        self.segment_bytes = segment_bytes
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(self._lock)
            raise JournalBusy(f"journal {folder} is in use by another router") from exc
        self.id = self._name()
        self._ack_fd = os.open(folder / "acked", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        raw = os.pread(self._ack_fd, _ACKED.size, 0)
        self.acked: int = _ACKED.unpack(raw)[0] if len(raw) == _ACKED.size else 0
        os.pwrite(self._ack_fd, _ACKED.pack(self.acked), 0)  # its place on disk, once and for all
        self.segments = self._former(folder)
        self.number = max([self.acked, *(s.last for s in self.segments)])
        self.open_attempts: dict[str, Open] = {}
        self.tally = self._count()
        self.spare: Segment | None = None
        self._begin()
        self._cursor = (self.segments[0], 0)

    def _count(self) -> Tally:
        """What was written by former lives, as far as it is here to be counted."""
        first = self.segments[0].first if self.segments else self.number + 1
        tally = Tally(self.folder, first, self.number, day_of(time.time_ns() // 1_000_000))
        for segment in self.segments:
            for _, record in segment.read(0, segment.end, verify=True):
                if not record.attempt:
                    tally.add(segment.counts, record.number, record.event())
        return tally

    def _begin(self) -> None:
        """Write to a new segment, or on a full disk where the last life ended: what is kept there
        must get to billing before there is room again. Raises OSError where nothing is kept."""
        try:
            fresh = Segment.create(self.folder, self.number + 1, self.segment_bytes)
        except OSError as exc:
            if exc.errno not in (ENOSPC, EDQUOT) or not self.segments:
                raise
            self.current.forget_tail()
        else:
            self._add(fresh)

    @staticmethod
    def _former(folder: Path) -> list[Segment]:
        segments = []
        for path in folder.glob("*.tmp"):  # never had a record: they are named first
            path.unlink()
        for path in sorted(folder.glob("*.log")):
            segment = Segment.open(path)
            if segment.end:
                segments.append(segment)
            else:
                segment.close(remove=True)
        return segments

    def _name(self) -> str:
        path = self.folder / "id"
        if not path.exists():
            fresh = self.folder / "id.new"
            fresh.write_text(uuid7())
            with fresh.open() as file:
                os.fsync(file.fileno())
            fresh.replace(path)
            sync_folder(self.folder)
        return path.read_text()

    def _add(self, segment: Segment) -> None:
        segment.name(self.number + 1)
        self.segments.append(segment)

    @property
    def current(self) -> Segment:
        """The segment being written."""
        return self.segments[-1]

    @property
    def room(self) -> int:
        """Bytes new work may use: the settlements of all that runs have theirs beforehand."""
        spare = self.spare.size if self.spare is not None else 0
        return (
            self.current.size - self.current.end + spare - RESERVE * (len(self.open_attempts) + 1)
        )

    @property
    def unacked(self) -> int:
        """Records not confirmed, and attempts not settled: 0 means everything is told."""
        return self.number - self.acked + len(self.open_attempts)

    def append(self, event: Usage) -> int:
        """Write an event (not yet synced); its number. Raises OSError where it cannot."""
        payload = msgspec.json.encode(event)
        if self.current.end + _HEAD.size + len(payload) > self.current.size:
            self._rotate()
        attempt = event.kind == "attempt"
        self.current.append(self.number + 1, payload, attempt=attempt)
        self.number += 1
        if attempt:
            self.open_attempts[event.attempt_id] = Open(self.number, event)
        else:
            self.open_attempts.pop(event.attempt_id, None)
            self.tally.add(self.current.counts, self.number, event)
        return self.number

    def _rotate(self) -> None:
        segment, self.spare = self.spare, None
        if segment is None:
            segment = Segment.create(self.folder, self.number + 1, self.segment_bytes)
        os.fdatasync(self.current.fd)
        self._add(segment)

    def make_spare(self) -> Segment:
        """A segment for later, made by the commit thread; it is named when it is used."""
        return Segment.create(self.folder, 0, self.segment_bytes)

    def read_next(self, limit: int) -> list[Record]:
        """Up to `limit` records that were not read before and are not confirmed, in order."""
        found: list[Record] = []
        segment, offset = self._cursor
        while len(found) < limit:
            stop = min(segment.end, offset + _READ)
            for end, record in segment.read(offset, stop, verify=False):
                offset = end
                if record.number > self.acked:
                    found.append(record)
                if len(found) >= limit:
                    break
            else:
                later = [s for s in self.segments if s.first > segment.first]
                if stop < segment.end:
                    continue
                if not later:
                    break
                segment, offset = later[0], 0
        self._cursor = (segment, offset)
        return found

    def acknowledge(self, number: int) -> None:
        """Billing has all records up to `number`: remember it, drop what nobody needs."""
        self.acked = max(self.acked, number)
        os.pwrite(self._ack_fd, _ACKED.pack(self.acked), 0)
        oldest = min((r.number for r in self.open_attempts.values()), default=self.acked + 1)
        keep = min(oldest, self.acked + 1, self._cursor[0].first)
        while len(self.segments) > 1 and self.segments[0].last < keep:
            gone = self.segments.pop(0)
            # Where the disk is full the room counts for more; the next life sees that it is missing.
            with contextlib.suppress(OSError):
                self.tally.leave(gone.counts, gone.last)
            gone.close(remove=True)

    def unsettled(self) -> list[Usage]:
        """Attempts of a former life that have no settlement."""
        attempts: dict[str, Usage] = {}
        for segment in self.segments:
            for _, record in segment.read(0, segment.end, verify=True):
                event = record.event()
                if record.attempt:
                    attempts[event.attempt_id] = event
                else:
                    attempts.pop(event.attempt_id, None)
        return list(attempts.values())

    def close(self) -> None:
        """Close all files and give the lock back."""
        for segment in self.segments:
            segment.close()
        if self.spare is not None:
            self.spare.close(remove=True)
        os.close(self._ack_fd)
        os.close(self._lock)
