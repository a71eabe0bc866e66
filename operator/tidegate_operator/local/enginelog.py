"""What an engine says, kept in a file of its own under DATA/logs/engines.

One directory per deployment, one file per replica. The newest files are kept; a file that grows is
moved aside once, so that a talkative engine fills no disk. A file that cannot be written is given
up in silence: an engine never fails for its log.
"""

import hashlib
from pathlib import Path
from typing import IO

KEPT_FILES = 10
"""Replicas per deployment whose logs are kept."""
LOG_BYTES = 16 * 1024 * 1024
_LONGEST = 200


def folder(data: Path, deployment: str) -> Path:
    """Where the logs of a deployment's replicas are. Names of resources have no underscore; one that no
    directory may have is cut."""
    name = deployment.replace("/", "_")
    if len(name) > _LONGEST:
        name = f"{name[:_LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return data / "logs" / "engines" / name


def path(data: Path, deployment: str, replica: str) -> Path:
    """The log of one replica."""
    return folder(data, deployment) / f"{replica}.log"


def replicas(where: Path) -> list[Path]:
    """Logs in a deployment's directory, the one written last at the end."""
    found: list[tuple[int, Path]] = []
    for file in where.glob("*.log"):
        try:
            found.append((file.stat().st_mtime_ns, file))
        except OSError:  # removed meanwhile
            continue
    return [file for _, file in sorted(found)]


class EngineLog:
    """One replica's log. The file is made with the first line."""

    def __init__(self, file: Path | None) -> None:
        self._path = file
        self._file: IO[bytes] | None = None

    def write(self, line: str) -> None:
        """Adds one line."""
        if self._path is None:
            return
        try:
            if self._file is None:
                self._file = _opened(self._path)
            self._file.write(line.encode("utf-8", "replace") + b"\n")
            if self._file.tell() > LOG_BYTES:
                self._file.close()
                self._path.replace(self._path.with_suffix(".log.1"))
                self._file = None
        except OSError:
            self.close()
            self._path = None

    def close(self) -> None:
        """Nothing more comes."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _opened(file: Path) -> IO[bytes]:
    where = file.parent
    where.mkdir(mode=0o700, parents=True, exist_ok=True)
    others = [one for one in replicas(where) if one != file]
    for old in others[: max(0, len(others) - KEPT_FILES + 1)]:
        old.unlink(missing_ok=True)
        old.with_suffix(".log.1").unlink(missing_ok=True)
    return file.open("ab", buffering=0)
