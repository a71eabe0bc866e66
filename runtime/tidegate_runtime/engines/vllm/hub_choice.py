"""Which of a hub repository's files make the model. Pure: a listing in, a choice out.

A repository often holds the same weights several times (safetensors, pickles, ONNX, GGUF in ten
sizes). Fetched is what vLLM loads, once: safetensors where there are any, else one GGUF file.
Pickled weights are never fetched, because reading them may run what somebody put into them; nor is
any code of the repository.
"""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Final, NamedTuple

from tidegate_runtime.engines.vllm.progress import SourceError

TEXTS: Final = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
"""What describes a model: its configuration, its tokenizer, its chat template."""
SPLIT_GGUF: Final = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
# Modules of sentence-transformers, some with weights of their own (`2_Dense`).
_MODULE: Final = re.compile(r"\d+_\w+")


class File(NamedTuple):
    """One file of a repository: its path there and its size in bytes."""

    path: str
    size: int


class Choice(NamedTuple):
    """What to fetch. `model` is the folder ('.' = the whole) or the GGUF file to serve."""

    model: str
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """All files together, in bytes."""
        return sum(file.size for file in self.files)


def choose(listing: Sequence[File], inside: str, what: str) -> Choice:
    """The files of the model in `inside` ('' = the repository's root): a folder or a .gguf file.

    Raises SourceError where there is no model, or where one of several must be named."""
    here = PurePosixPath(inside or ".")
    named = [file for file in listing if PurePosixPath(file.path) == here]
    if named:
        return _gguf(named, what)
    below = [file for file in listing if here in PurePosixPath(file.path).parents]
    if inside and not below:
        raise SourceError(f"{what}: there is no {inside} in it")
    weights = [file for file in below if _loaded(file.path, here)]
    described = any(PurePosixPath(file.path) == here / "config.json" for file in below)
    if weights and described:
        texts = [file for file in below if _text(file.path, here)]
        return Choice(str(here), tuple(texts + _without_copies(weights)))
    found = [file for file in below if _is_gguf(file.path)]
    if not found:
        raise SourceError(
            f"{what} holds no model that can be served: neither a config.json with *.safetensors "
            "beside it nor a .gguf file (pickled weights, *.bin, are never read)"
        )
    return _gguf(found, what)


def _gguf(found: Sequence[File], what: str) -> Choice:
    if len(found) > 1:
        names = ", ".join(file.path for file in found)
        raise SourceError(f"{what} holds several models; name one with #path: {names}")
    path = found[0].path
    if not path.endswith(".gguf"):
        raise SourceError(f"{what}: {path} is neither a folder nor a .gguf file")
    if SPLIT_GGUF.search(path):
        raise SourceError(f"{what}: {path} is a part of a split GGUF; only whole files are read")
    return Choice(path, tuple(found))


def _loaded(path: str, here: PurePosixPath) -> bool:
    return path.endswith(".safetensors") and _near(path, here)


def _text(path: str, here: PurePosixPath) -> bool:
    return _near(path, here) and any(fnmatchcase(path, pattern) for pattern in TEXTS)


def _near(path: str, here: PurePosixPath) -> bool:
    """Whether a file lies in the model's folder itself, or in a module's beside it."""
    *folders, _ = PurePosixPath(path).relative_to(here).parts
    return not folders or (len(folders) == 1 and _MODULE.fullmatch(folders[0]) is not None)


def _without_copies(weights: Sequence[File]) -> list[File]:
    """Without Mistral's second copy of all weights in a layout of its own."""
    kept = [w for w in weights if not PurePosixPath(w.path).name.startswith("consolidated")]
    return kept or list(weights)


def _is_gguf(path: str) -> bool:
    """A language model's GGUF; `mmproj` is a vision tower, which is none by itself."""
    return path.endswith(".gguf") and "mmproj" not in PurePosixPath(path).name


def room(needed: int, here: int, free: int, margin: int) -> str:
    """Why the rest of `needed` bytes, `here` of which are there, does not fit; '' = it does."""
    rest = needed - here
    if rest + margin <= free:
        return ""
    return (
        f"{gib(needed)} to fetch - {gib(here)} here already + {gib(margin)} to spare "
        f"= {gib(rest + margin)}, but only {gib(free)} are free"
    )


def gib(size: int) -> str:
    """Bytes for people, in GiB, or MiB where that is less than one."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
