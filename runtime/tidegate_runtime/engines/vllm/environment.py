"""vLLM's own Python environment: locked, installed once, found by one stat.

vLLM pins a hundred packages that we would rather not have pinned, so it lives in a virtual
environment of its own, made by uv from the lock file in `env/`. The folder's name holds a hash of
that lock, the Python version and the platform: a new lock is a new folder, and nothing is ever
upgraded in place under a running engine.

A virtual environment cannot be renamed (its scripts hold absolute paths), so it is built where it
stays; a stamp, written last, says it is whole. A build that was cut off has no stamp, and the next
one completes it. A file lock keeps two processes from building at once.
"""

import asyncio
import contextlib
import functools
import hashlib
import os
import platform
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from tidegate_runtime.engines.vllm.progress import Progress, Report, disk_failure, failure
from tidegate_runtime.engines.vllm.tool import ToolError, only_one, run, uv

PROJECT: Final = Path(__file__).parent / "env"

_STAMP: Final = ".complete"
_WATCH_SECONDS: Final = 0.5


class Environment(NamedTuple):
    """An installed environment: its folder and its interpreter."""

    root: Path
    python: Path


def identity(lock: bytes, python: str, machine: str) -> str:
    """The folder's name for a lock file, a Python version (3.11) and a platform (linux-x86_64)."""
    digest = hashlib.sha256(b"\0".join((lock, python.encode(), machine.encode())))
    return f"vllm-{digest.hexdigest()[:16]}"


def package_count(lock: str) -> int:
    """How many packages a lock file holds, the project itself left out."""
    return max(1, lock.count("[[package]]") - 1)


def find(cache: Path) -> Environment | None:
    """The installed environment, or None. Costs one stat (and, the first time, reading the lock)."""
    environment = _at(cache)
    return environment if (environment.root / _STAMP).exists() else None


async def install(cache: Path, progress: Report) -> Environment:
    """Install the environment under `cache`, or return at once if it is there.

    Raises FetchError without a network, DiskError without room, InstallError otherwise."""
    if found := find(cache):
        return found
    environment = _at(cache)
    try:
        async with only_one(environment.root.with_suffix(".lock")):
            if find(cache) is None:
                # What a killed installation left may hold half a package that looks whole.
                await asyncio.to_thread(shutil.rmtree, environment.root, ignore_errors=True)
                await _build(environment, progress)
                (environment.root / _STAMP).touch()
    except OSError as error:
        raise disk_failure(error, str(cache)) from error
    return environment


async def _build(environment: Environment, progress: Report) -> None:
    argv = [
        uv(),
        "sync",
        "--frozen",
        "--compile-bytecode",
        "--no-progress",
        "--color=never",
        "--no-config",
        "--python",
        interpreter(),
        "--project",
        str(PROJECT),
    ]
    async with _watched(environment, progress):
        try:
            await run(argv, _variables(os.environ, environment.root), lambda _: None)
        except ToolError as error:
            raise failure("installing vLLM", error.lines, str(environment.root)) from error


def _variables(inherited: Mapping[str, str], root: Path) -> dict[str, str]:
    """The caller's variables (proxies, certificates, index), without a virtual environment."""
    dropped = {"VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "UV_PROJECT", "UV_FROZEN", "UV_LOCKED"}
    kept = {name: value for name, value in inherited.items() if name not in dropped}
    return kept | {"UV_PROJECT_ENVIRONMENT": str(root)}


@contextlib.asynccontextmanager
async def _watched(environment: Environment, progress: Report) -> AsyncIterator[None]:
    """Report how many packages have arrived, for as long as the installer runs."""
    total = package_count((PROJECT / "uv.lock").read_text())
    progress(Progress("installing", f"vLLM and {total} packages", 0.0))
    watch = asyncio.create_task(_watch(environment.root, total, progress))
    try:
        yield
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
    progress(Progress("installing", "vLLM is installed", 1.0))


async def _watch(root: Path, total: int, progress: Report) -> None:
    """uv says nothing without a terminal; what it has unpacked and compiled can be counted."""
    seen = (0, 0, 0)
    while True:
        await asyncio.sleep(_WATCH_SECONDS)
        counts = (
            _count(root, "*.dist-info"),
            _count(root, "*/__pycache__"),
            _count(root, "*/__init__.py"),
        )
        if counts != seen:
            seen = counts
            progress(_installing(*counts, total))


def _count(root: Path, pattern: str) -> int:
    return sum(1 for _ in root.glob("lib/python*/site-packages/" + pattern))


def _installing(installed: int, compiled: int, importable: int, total: int) -> Progress:
    """Unpacking is links out of uv's cache once that is warm; compiling takes most of the time."""
    unpacked = min(installed / total, 1.0)
    if compiled == 0:
        return Progress("installing", f"{installed} of about {total} packages", 0.3 * unpacked)
    share = min(compiled / max(importable, 1), 0.99)
    return Progress("installing", f"compiled {compiled} of {importable}", 0.3 + 0.7 * share)


def _at(cache: Path) -> Environment:
    root = cache / "engines" / _own_identity()
    return Environment(root, root / "bin" / "python")


@functools.cache
def _own_identity() -> str:
    lock = (PROJECT / "uv.lock").read_bytes()
    return identity(lock, _version(), f"{sys.platform}-{platform.machine()}")


def _version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def interpreter() -> str:
    """The interpreter below our own virtual environment, which may go away before vLLM's does."""
    return str(Path(sys.base_prefix) / "bin" / f"python{_version()}")
