"""Whether a model's folder is whole: sharded safetensors come with an index that names all parts.

A copy that was cut off looks like a model until vLLM has read the first half of it. Its last words
then name a tensor; these name the file that is missing.
"""

import json
import re
from pathlib import Path
from typing import Final

from tidegate_runtime.engines.vllm.progress import SourceError

_PART: Final = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
_SHOWN: Final = 5


def check(folder: Path, what: str) -> None:
    """Raises SourceError where weights of the model in `folder` are missing or empty."""
    there = {path.name: path for path in folder.glob("*.safetensors")}
    wanted = _numbered(set(there))
    for index in sorted(folder.glob("*.safetensors.index.json")):
        wanted |= _indexed(index, what)
    missing = sorted(name for name in wanted if name not in there or not _has_bytes(there[name]))
    if missing:
        shown = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        raise SourceError(f"{what}: {len(missing)} of {len(wanted)} weight files missing: {shown}")


def _numbered(names: set[str]) -> set[str]:
    """All files that names such as `model-00001-of-00002.safetensors` speak of."""
    found = [match for name in names if (match := _PART.fullmatch(name))]
    return {
        f"{match['stem']}-{number:05}-of-{match['count']}.safetensors"
        for match in found
        for number in range(1, int(match["count"]) + 1)
    }


def _indexed(index: Path, what: str) -> set[str]:
    try:
        names = {str(name) for name in json.loads(index.read_bytes())["weight_map"].values()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise SourceError(f"{what}: {index.name} cannot be read: {error}") from error
    outside = sorted(name for name in names if Path(name).name != name)
    if outside:
        raise SourceError(f"{what}: {index.name} names a file outside the folder: {outside[0]}")
    return names


def _has_bytes(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False  # a link into a cache whose file is gone
