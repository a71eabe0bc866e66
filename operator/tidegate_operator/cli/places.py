"""Where things lie when neither a flag nor a setting says so (XDG base directories)."""

from collections.abc import Mapping
from pathlib import Path


def default_data(environ: Mapping[str, str]) -> Path:
    """The data directory: `$XDG_DATA_HOME/tidegate` or `~/.local/share/tidegate`."""
    return _base(environ, "XDG_DATA_HOME", "~/.local/share") / "tidegate"


def default_cache(environ: Mapping[str, str]) -> Path:
    """The cache directory: `$XDG_CACHE_HOME/tidegate` or `~/.cache/tidegate`."""
    return _base(environ, "XDG_CACHE_HOME", "~/.cache") / "tidegate"


def _base(environ: Mapping[str, str], name: str, otherwise: str) -> Path:
    value = environ.get(name, "")  # the standard says: a relative one is to be ignored
    return Path(value) if value.startswith("/") else Path(otherwise).expanduser()
