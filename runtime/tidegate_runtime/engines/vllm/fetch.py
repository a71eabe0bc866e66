"""The init step of an engine's pod: make a model servable and point DEST at it.

    tidegate-fetch URI DEST [--revision R]     in the engine image; a pod's init container
    tidegate-fetch --bake URI                  while an image is built: keep the model in it

DEST becomes a symbolic link, replaced atomically, to a folder that vLLM serves:

    in the image   /opt/models/<name>, if this very model was baked in: no network, no time
    file://        where it lies; the engine's container needs the same volume at the same path
    pkg://, hf://  fetched (a GGUF is converted) into `.tidegate` beside DEST; kept on a volume that
                   outlives the pod, it is done once

Local mode prepares models in the same way (`sources`); what is different here is that vLLM's
environment is the one this runs in, so it is adopted, and that an image may bring models along.

Exit status: 0 done; 2 the address is wrong or holds no model; 3 a registry cannot be reached or
does not have it; 4 the volume is full or may not be written; 1 anything else. The last line on
standard error says what is wrong, for the pod's termination message.
"""

import argparse
import asyncio
import hashlib
import importlib
import os
import platform
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tidegate_runtime.engines.vllm import environment, sources
from tidegate_runtime.engines.vllm.progress import (
    DiskError,
    FetchError,
    PrepareError,
    Progress,
    Report,
    SourceError,
    disk_failure,
)

BAKED: Final = Path("/opt/models")

_STATUS: Final = {SourceError: 2, FetchError: 3, DiskError: 4}
_HUB: Final = re.compile(r"hf://(?P<repository>[\w.-]+/[\w.-]+)", re.ASCII)
# Weights once, and no code: a repository's Python is never wanted.
_HUB_FILES: Final = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


def baked_name(uri: str, revision: str = "") -> str:
    """The folder's name under BAKED for a model: the same for every way to write its address.

    Raises SourceError if the address is wrong."""
    source: tuple[object, ...] = (
        ("hf", _repository(uri), revision or "main")
        if uri.startswith("hf://")
        else (type(parsed := sources.parse(uri, revision)).__name__, *map(str, parsed))
    )
    return hashlib.sha256(repr(source).encode()).hexdigest()[:16]


async def prepare(uri: str, revision: str, cache: Path, tell: Report) -> Path:
    """The folder to serve, made under `cache` if it has to be made. Raises PrepareError."""
    if uri.startswith("hf://"):
        return await asyncio.to_thread(_from_hub, uri, revision, cache, tell)
    adopt(cache)
    return await sources.prepare(uri, revision, cache, tell)


async def fetch(uri: str, revision: str, dest: Path, baked: Path, tell: Report) -> Path:
    """Point `dest` at the folder to serve, and return that folder. Raises PrepareError."""
    brought = baked / baked_name(uri, revision)
    cache = dest.absolute().parent / ".tidegate"
    ready = brought if brought.is_dir() else await prepare(uri, revision, cache, tell)
    try:
        _point(dest.absolute(), ready)
    except OSError as error:
        raise disk_failure(error, str(dest)) from error
    return ready


async def bake(uri: str, revision: str, baked: Path, tell: Report) -> Path:
    """Keep the model under `baked`, and nothing of what it was made from. Raises PrepareError."""
    target = baked / baked_name(uri, revision)
    try:
        baked.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=baked, prefix=".making-") as scratch:
            ready = await prepare(uri, revision, Path(scratch), tell)
            shutil.copytree(ready, Path(scratch) / "whole", symlinks=False)
            (Path(scratch) / "whole").rename(target)
    except OSError as error:
        raise disk_failure(error, str(baked)) from error
    return target


def adopt(cache: Path) -> None:
    """Let `environment.find(cache)` answer with the environment this process runs in.

    Raises DiskError if the cache cannot be written."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    machine = f"{sys.platform}-{platform.machine()}"
    lock = (environment.PROJECT / "uv.lock").read_bytes()
    try:
        _point(cache / "engines" / environment.identity(lock, version, machine), Path(sys.prefix))
    except OSError as error:
        raise disk_failure(error, str(cache)) from error


def _point(link: Path, target: Path) -> None:
    """Make `link` a symbolic link to `target`, at once; an empty folder in its place gives way."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_dir() and not link.is_symlink():
        link.rmdir()
    # Two pods on one volume may both be process 1, so a process id would not tell them apart.
    temporary = link.with_name(f".{link.name}.{secrets.token_hex(8)}")
    temporary.symlink_to(target)
    temporary.replace(link)


def _repository(uri: str) -> str:
    match = _HUB.fullmatch(uri)
    if match is None:
        raise SourceError(f"{uri}: not a model on a hub; allowed is hf://OWNER/NAME")
    return match["repository"]


def _from_hub(uri: str, revision: str, cache: Path, tell: Report) -> Path:
    """A snapshot of a hub's repository; HF_ENDPOINT and HF_TOKEN are the hub library's own."""
    repository = _repository(uri)
    os.environ["HF_HUB_OFFLINE"] = "0"  # the image says 1, for the engine; read on import
    hub: Any = importlib.import_module("huggingface_hub")
    errors: Any = importlib.import_module("huggingface_hub.errors")
    tell(Progress("fetching", uri, None))
    folder = cache / "hub" / baked_name(uri, revision)
    try:
        hub.snapshot_download(
            repository,
            revision=revision or "main",
            local_dir=str(folder),
            allow_patterns=list(_HUB_FILES),
        )
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
        raise SourceError(
            f"{uri}: the hub does not have it, or not for this token (HF_TOKEN)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise SourceError(f"{uri}: the hub has no revision {revision or 'main'} of it") from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError) as error:
        raise FetchError(f"{uri}: the hub could not be reached: {error}") from error
    except OSError as error:
        raise disk_failure(error, str(folder)) from error
    return sources.choose(folder, sources.candidates(folder), uri)


def _tell(step: Progress) -> None:
    done = "" if step.fraction is None else f" ({step.fraction:.0%})"
    print(f"{step.phase}: {step.detail}{done}", flush=True)  # noqa: T201 - the container's log


def main(argv: Sequence[str]) -> int:
    """Run the command line; the exit status is the result."""
    parser = argparse.ArgumentParser(prog="tidegate-fetch", allow_abbrev=False)
    parser.add_argument("uri", help="file:///..., pkg://NAME==VERSION[#path] or hf://OWNER/NAME")
    parser.add_argument("dest", nargs="?", type=Path, help="the link to make; its folder is kept")
    parser.add_argument("--revision", default="")
    parser.add_argument("--bake", action="store_true", help="keep the model in this image")
    parser.add_argument("--baked", type=Path, default=BAKED, help="where the image's models are")
    asked = parser.parse_args(argv)
    if asked.bake == (asked.dest is not None):
        parser.error("give either DEST or --bake")
    work = (
        bake(asked.uri, asked.revision, asked.baked, _tell)
        if asked.bake
        else fetch(asked.uri, asked.revision, asked.dest, asked.baked, _tell)
    )
    try:
        print(f"ready: {asyncio.run(work)}", flush=True)  # noqa: T201 - the container's log
    except PrepareError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the pod's termination message
        return _STATUS.get(type(error), 1)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
