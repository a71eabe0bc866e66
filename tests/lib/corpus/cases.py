"""The corpus as values, for whoever judges resources."""

from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent


class Bad(NamedTuple):
    """A resource to refuse: who refuses it, at which field, in words that hold `says`."""

    path: Path
    by: str
    field: str
    says: str


def good() -> list[Path]:
    """The resources everybody accepts."""
    return sorted((HERE / "good").glob("*.yaml"))


def bad() -> list[Bad]:
    """The resources to refuse, with what their first lines expect."""
    return [_bad(path) for path in sorted((HERE / "bad").glob("*.yaml"))]


def _bad(path: Path) -> Bad:
    lines = path.read_text("utf-8").splitlines()[:3]
    by, field, says = (line.split(": ", 1)[1] for line in lines)
    return Bad(path, by, field, says)
