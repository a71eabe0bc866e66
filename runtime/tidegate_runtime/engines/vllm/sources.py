"""Where a model comes from, and how it becomes a folder that vLLM can serve.

    file:///models/qwen              a folder with config.json and weights: served where it lies
    file:///models/qwen.Q4.gguf      one GGUF file: converted once
    pkg://NAME==VERSION#sub/path     a Python package that ships either of the two
    hf://OWNER/NAME#sub/path         a hub's repository that does, at a commit (see `hub`)

Everything fetched or converted lies under the cache, in a folder named after what it was made
from, written to a temporary sibling and renamed: it is whole or absent. A file lock keeps two
processes from doing the same work.

`prepared` is on the path of a cold start: a few stats, no hashing, no program, no network. So the
name of a converted model holds the GGUF's path, size and time of change, not its content.
"""

import asyncio
import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import unquote

from tidegate_runtime.engines.vllm import environment, hub, shards
from tidegate_runtime.engines.vllm.convert import read_progress
from tidegate_runtime.engines.vllm.hub import HubSource
from tidegate_runtime.engines.vllm.progress import (
    Progress,
    Report,
    SourceError,
    disk_failure,
    failure,
)
from tidegate_runtime.engines.vllm.tool import ToolError, only_one, run, uv

ALLOWED: Final = (
    "allowed are file:///absolute/folder, file:///absolute/model.gguf, "
    "pkg://NAME[==VERSION][#path/inside] and hf://OWNER/NAME[#path/inside]"
)

_CONVERT: Final = Path(__file__).parent / "convert.py"
_CONVERSION: Final = "1"  # raised when convert.py writes something else for the same file
_PACKAGE = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:==(?P<version>[A-Za-z0-9][A-Za-z0-9._+!-]*))?"
)
_MOST_FOLDERS: Final = 10_000
_WEIGHTS: Final = ("*.safetensors", "pytorch_model*.bin")


class FileSource(NamedTuple):
    """A path on this machine."""

    path: Path


class PackageSource(NamedTuple):
    """A Python package; `version` '' = the newest at the time; `inside` '' = look for the model."""

    name: str
    version: str
    inside: str

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}" if self.version else self.name


Source = FileSource | PackageSource | HubSource


def parse(uri: str, revision: str = "") -> Source:
    """What a model's address names. A package's version may also stand in `revision`.

    Pure. Raises SourceError with what is allowed."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in {"file", "pkg", "hf"}:
        raise SourceError(f"{uri}: not an address vLLM can be given here; {ALLOWED}")
    if scheme == "hf":
        return hub.parse(uri, revision)
    if scheme == "file":
        return _parse_file(uri, rest)
    return _parse_package(uri, rest, "" if revision == "main" else revision)


def _parse_file(uri: str, rest: str) -> FileSource:
    path = Path(unquote(rest.removeprefix("localhost")))
    if not path.is_absolute() or ".." in path.parts:
        raise SourceError(f"{uri}: the path must be absolute and without '..'; {ALLOWED}")
    return FileSource(path)


def _parse_package(uri: str, rest: str, revision: str) -> PackageSource:
    package, _, inside = rest.partition("#")
    if revision and "==" not in package:
        package = f"{package}=={revision}"
    match = _PACKAGE.fullmatch(package)
    if match is None:
        raise SourceError(f"{uri}: not a package's name; {ALLOWED}")
    if ".." in Path(inside).parts or Path(inside).is_absolute():
        raise SourceError(f"{uri}: the path inside a package must not leave it; {ALLOWED}")
    version = match["version"] or ""
    if version and revision and version != revision:
        raise SourceError(f"{uri}: spec.model.revision asks for another version, {revision}")
    name = re.sub(r"[-_.]+", "-", match["name"]).lower()
    return PackageSource(name, version, inside)


def candidates(root: Path) -> list[Path]:
    """Everything under a folder that could be served: model folders and GGUF files, in order. Raises
    SourceError for a folder that is no collection of models by its size, such as a whole disk."""
    found: set[Path] = set()
    for number, (place, _, names) in enumerate(os.walk(root)):
        if number >= _MOST_FOLDERS:
            raise SourceError(
                f"{root} has over {_MOST_FOLDERS} folders in it; give the path of the model's own"
            )
        folder = Path(place)
        if "config.json" in names and _is_model(folder):
            found.add(folder)
        found |= {
            folder / name for name in names if name.endswith(".gguf") and _speaks(folder / name)
        }
    return sorted(found)


def choose(root: Path, found: Sequence[Path], what: str) -> Path:
    """The one model found under `root`. Raises SourceError for none or several, naming them."""
    if len(found) == 1:
        return found[0]
    if not found:
        raise SourceError(
            f"{what} holds no model: neither a config.json with weights beside it nor a .gguf file"
        )
    names = ", ".join(str(path.relative_to(root)) for path in found)
    how = "give the path of one" if what.startswith("file://") else "name one with #path"
    raise SourceError(f"{what} holds several models; {how}: {names}")


def prepared(uri: str, revision: str, cache: Path) -> Path | None:
    """The folder to serve if nothing is left to do, else None. Stats only.

    Raises SourceError if the address itself is wrong."""
    source = parse(uri, revision)
    try:
        raw = here(source, cache)
        if raw is None or not _is_gguf(raw):
            return raw if raw and _is_model(raw) else None
        target = _converted(raw, cache)
        return target if target.is_dir() else None
    except OSError:
        return None  # gone or unreadable: `prepare` says which


async def prepare(uri: str, revision: str, cache: Path, progress: Report, token: str = "") -> Path:
    """Make the model servable and return its folder; at once if it already is.

    `token` is what a hub is shown, if anything. Raises SourceError if the model is not there, not
    whole or none, FetchError if no registry has it or can be reached, DiskError without room,
    InstallError if the conversion fails."""
    model = prepared(uri, revision, cache)
    if model is None:
        try:
            raw = await _brought(parse(uri, revision), cache, token, progress)
            model = await _convert(raw, cache, progress) if _is_gguf(raw) else raw
        except OSError as error:
            raise disk_failure(error, str(cache)) from error
    shards.check(model, uri)
    return model


async def _brought(source: Source, cache: Path, token: str, progress: Report) -> Path:
    if isinstance(source, FileSource):
        return await asyncio.to_thread(_existing, source.path)  # large, or on a network
    if isinstance(source, PackageSource):
        return await _fetch(source, cache, progress)
    return await hub.fetch(source, cache, token, progress)


def here(source: Source, cache: Path) -> Path | None:
    """What a source is before any conversion, if it is on this machine; None = it is not."""
    if isinstance(source, FileSource):
        return source.path
    if isinstance(source, PackageSource):
        return _fetched(source, cache)
    return hub.fetched(source, cache, os.environ)


def _existing(path: Path) -> Path:
    if not path.exists():
        raise SourceError(f"file://{path}: there is no such file or folder")
    if _is_gguf(path) or _is_model(path):
        return path
    if path.is_dir():
        return choose(path, candidates(path), f"file://{path}")
    raise SourceError(f"file://{path}: neither a model's folder nor a .gguf file")


def _speaks(path: Path) -> bool:
    """A language model's GGUF; `mmproj` is a vision tower, which is none by itself."""
    return path.is_file() and "mmproj" not in path.name


def _is_gguf(path: Path) -> bool:
    return path.suffix == ".gguf" and path.is_file()


def _is_model(folder: Path) -> bool:
    """A folder that vLLM can open: its configuration and its weights, side by side."""
    return (folder / "config.json").is_file() and any(
        next(folder.glob(pattern), None) is not None for pattern in _WEIGHTS
    )


# Packages


def _package_folder(source: PackageSource, cache: Path) -> Path:
    return cache / "packages" / f"{source.name}-{source.version or 'newest'}"


def _fetched(source: PackageSource, cache: Path) -> Path | None:
    """The model inside a package that is there already; None = not there.

    Looking for it again would walk the package, so the choice is kept beside it."""
    folder = _package_folder(source, cache)
    if source.inside:
        inside = folder / source.inside
        return inside if inside.exists() else None
    note = folder / ".model"
    return folder / note.read_text() if note.exists() else None


async def _fetch(source: PackageSource, cache: Path, progress: Report) -> Path:
    folder = _package_folder(source, cache)
    async with only_one(folder.with_name(folder.name + ".lock")):
        if not folder.is_dir():
            await _install(source, folder, progress)
    if source.inside and (folder / source.inside).exists():
        root = folder / source.inside
    elif source.inside:
        raise SourceError(f"pkg://{source.requirement}: there is no {source.inside} in it")
    else:
        root = folder
    chosen = choose(folder, _within(root), f"pkg://{source.requirement}")
    if not source.inside:
        _write(folder / ".model", str(chosen.relative_to(folder)))
    return chosen


def _within(root: Path) -> list[Path]:
    return [root] if _is_gguf(root) or _is_model(root) else candidates(root)


async def _install(source: PackageSource, folder: Path, progress: Report) -> None:
    """Unpack the package alone (`--no-deps`: its code is never run) into a folder of its own."""
    progress(Progress("fetching", f"package {source.requirement}", None))
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    argv = [uv(), "pip", "install", "--no-deps", "--only-binary", ":all:", "--quiet"]
    argv += ["--no-config", "--color=never", "--python", environment.interpreter()]
    argv += ["--target", str(temporary), source.requirement]
    try:
        await run(argv, os.environ, lambda _: None)
        temporary.rename(folder)
    except ToolError as error:
        raise failure(f"fetching pkg://{source.requirement}", error.lines, str(folder)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    progress(Progress("fetching", f"package {source.requirement} is here", 1.0))


# Conversion


def _converted(gguf: Path, cache: Path) -> Path:
    """Where the model made from this file lies or will lie."""
    facts = gguf.stat()
    key = f"{_CONVERSION}\0{gguf.resolve()}\0{facts.st_size}\0{facts.st_mtime_ns}"
    return cache / "models" / hashlib.sha256(key.encode()).hexdigest()[:16]


async def _convert(gguf: Path, cache: Path, progress: Report) -> Path:
    target = _converted(gguf, cache)
    async with only_one(target.with_suffix(".lock")):
        if target.is_dir():
            return target
        vllm = await environment.install(cache, progress)
        progress(Progress("converting", gguf.name, 0.0))
        temporary = target.with_suffix(f".{os.getpid()}.tmp")
        argv = [str(vllm.python), "-I", str(_CONVERT), str(gguf), str(temporary)]
        try:
            await run(argv, _offline(), lambda line: _tell(line, gguf.name, progress))
            temporary.rename(target)
        except ToolError as error:
            raise failure(f"converting {gguf.name}", error.lines, str(target)) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    progress(Progress("converting", gguf.name, 1.0))
    return target


def _tell(line: str, name: str, progress: Report) -> None:
    done = read_progress(line)
    if done is not None:
        progress(Progress("converting", f"{name}: {done.step}", done.fraction))


def _offline() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)
