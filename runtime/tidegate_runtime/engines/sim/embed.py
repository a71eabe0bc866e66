"""Embeddings without a model: unit vectors drawn from a hash of seed and words; pure."""

import base64
import hashlib
import math
import struct

from tidegate_runtime.engines.sim.request import DIMENSIONS

_FORMAT = f"<{DIMENSIONS}f"


def vector(words: tuple[str, ...], seed: int) -> tuple[float, ...]:
    """The unit vector of some words: equal words and seed give equal vectors (float32)."""
    digest = hashlib.shake_256(f"{seed}\x00{' '.join(words)}".encode()).digest(4 * DIMENSIONS)
    raw = [number / 2**31 - 1 for number in struct.unpack(f"<{DIMENSIONS}I", digest)]
    length = math.sqrt(sum(number * number for number in raw)) or 1.0
    packed = struct.pack(_FORMAT, *(number / length for number in raw))
    return struct.unpack(_FORMAT, packed)


def encoded(values: tuple[float, ...]) -> str:
    """The vector as base64 of little-endian float32, OpenAI's `encoding_format: base64`."""
    return base64.b64encode(struct.pack(_FORMAT, *values)).decode()
