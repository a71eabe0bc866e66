"""What a model's weights are, read from their headers: how many numbers of which type.

A safetensors file begins with the length of its header, then the header: JSON that names each
tensor's type, shape and place. So a few kilobytes tell what gigabytes hold, and whether the file
has all of them.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from tidegate_runtime.engines.vllm.progress import SourceError

BYTES: Final[Mapping[str, int]] = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2,
    "U16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes of one number, by safetensors' names of types."""
FLOATS: Final = frozenset({"F64", "F32", "F16", "BF16"})
"""Types that an engine turns into the one it computes with; others it leaves as they are."""
_LONGEST_HEADER: Final = 100 * 2**20


class Weights(NamedTuple):
    """Numbers by type. `stored`: bytes of the files."""

    numbers: Mapping[str, int]
    stored: int

    def loaded(self, float_bytes: int) -> int:
        """Bytes in memory, where a floating-point number takes `float_bytes`."""
        return sum(
            count * (float_bytes if name in FLOATS else BYTES.get(name, 1))
            for name, count in self.numbers.items()
        )


def read(folder: Path) -> Weights:
    """The weights in a model's folder. Raises SourceError where a file is damaged or cut off.

    Of pickled weights only the size is known; they count as 16-bit numbers."""
    numbers: Counter[str] = Counter()
    stored = 0
    files = sorted(folder.glob("*.safetensors"))
    if len(files) > 1:  # Mistral's second copy of everything; vLLM loads one of them
        files = [path for path in files if not path.name.startswith("consolidated")] or files
    for path in files:
        size = _size(path)
        numbers += _counted(path, size)
        stored += size
    if not files:
        stored = sum(_size(path) for path in folder.glob("pytorch_model*.bin"))
        numbers["F16"] = stored // 2
    return Weights(dict(numbers), stored)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error


def _counted(path: Path, size: int) -> Counter[str]:
    header, begins = _header(path, size)
    numbers: Counter[str] = Counter()
    end = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            numbers[str(tensor["dtype"])] += math.prod(tensor["shape"])
            end = max(end, tensor["data_offsets"][1])
    if begins + end > size:
        raise SourceError(
            f"{path} is cut off: its header speaks of {begins + end} bytes, it has {size}"
        )
    return numbers


def _header(path: Path, size: int) -> tuple[dict[str, Any], int]:
    """The header, and where the tensors begin."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            found = json.loads(file.read(length)) if length <= min(size, _LONGEST_HEADER) else None
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} is not a whole safetensors file: {error}") from error
    if not isinstance(found, dict):
        raise SourceError(f"{path} is not a whole safetensors file: it begins without a header")
    return found, 8 + length
