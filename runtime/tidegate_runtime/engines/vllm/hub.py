"""Models of a hub: `hf://OWNER/NAME[#path/inside]`, fetched by huggingface_hub, pinned to a commit.

    CACHE/hub/models--OWNER--NAME/   the library's own cache: blobs by content, snapshots by commit
    CACHE/hub/pins/KEY.json          which commit (and which file of it) an address was fetched as
    CACHE/hub/partial/SHA256         what is here of a large file that was cut off

A branch or tag is resolved once, when it is first fetched. From then on its pin decides: every
start serves the same commit and asks no network, until the pin is pruned or `revision` changes.
The fetching itself is a process of its own (`hub_fetch`).
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from tidegate_runtime.engines.vllm.progress import (
    DiskError,
    FetchError,
    PrepareError,
    Progress,
    Report,
    SourceError,
    failure,
)
from tidegate_runtime.engines.vllm.tool import ToolError, only_one, run

MARGIN: Final = 2**30
"""Bytes of the cache's disk that a fetch leaves free."""
MODULE: Final = "tidegate_runtime.engines.vllm.hub_fetch"
MARK: Final = "tidegate-hub "
ENDPOINT: Final = "https://huggingface.co"

_ADDRESS = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]*", re.ASCII)
_FORBIDDEN = ("..", "--")
_ERRORS: Final[Mapping[str, type[PrepareError]]] = {
    "source": SourceError,
    "fetch": FetchError,
    "disk": DiskError,
}
_DROPPED = ("TIDEGATE_", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


class HubSource(NamedTuple):
    """A repository at a revision (branch, tag or commit); `inside` '' = look for the model."""

    repository: str
    revision: str
    inside: str

    @property
    def address(self) -> str:
        """As people write it."""
        return f"hf://{self.repository}" + (f"#{self.inside}" if self.inside else "")


class Pin(NamedTuple):
    """What an address was fetched as. `path` is relative to the hub's cache."""

    repository: str
    revision: str
    commit: str
    path: str


def parse(uri: str, revision: str) -> HubSource:
    """What `hf://...` names; no revision = main. Raises SourceError."""
    repository, _, inside = uri.removeprefix("hf://").partition("#")
    allowed = "allowed is hf://OWNER/NAME[#path/inside]"
    if not _ADDRESS.fullmatch(repository) or any(word in repository for word in _FORBIDDEN):
        raise SourceError(f"{uri}: not a model on a hub; {allowed}")
    if inside and (inside.startswith("/") or ".." in Path(inside).parts):
        raise SourceError(f"{uri}: the path inside a repository must not leave it; {allowed}")
    if revision and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise SourceError(f"{uri}: {revision!r} is not a branch, tag or commit")
    return HubSource(repository, revision or "main", inside)


def folder(cache: Path) -> Path:
    """Where the hub's models lie."""
    return cache / "hub"


def pin_file(source: HubSource, cache: Path, endpoint: str) -> Path:
    """Where the pin of an address is kept; another hub's model of that name is another one."""
    key = "\0".join((endpoint or ENDPOINT, *source))
    return folder(cache) / "pins" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def fetched(source: HubSource, cache: Path, environ: Mapping[str, str]) -> Path | None:
    """The model's folder or file if it is here; None = it is not. Costs one small read."""
    pin = read_pin(pin_file(source, cache, environ.get("HF_ENDPOINT", "")))
    if pin is None:
        return None
    path = folder(cache) / pin.path
    return path if path.exists() else None


def read_pin(path: Path) -> Pin | None:
    """A pin, or None where there is none that can be read."""
    try:
        return Pin(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def variables(inherited: Mapping[str, str], token: str) -> dict[str, str]:
    """The fetching process's environment: the caller's, without secrets but the one it may use.

    Its own protocol for large files (xet) keeps nothing of a download that was cut off, so it is
    off unless the caller says otherwise."""
    kept = {name: value for name, value in inherited.items() if not name.startswith(_DROPPED)}
    xet = {"HF_HUB_DISABLE_XET": inherited.get("HF_HUB_DISABLE_XET", "1")}
    own = {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    }
    return kept | xet | own | ({"HF_TOKEN": token} if token else {})


async def fetch(source: HubSource, cache: Path, token: str, progress: Report) -> Path:
    """Fetch what is missing, pin it, and return the model's folder or .gguf file.

    Raises SourceError (no such model or revision, or no right to it), FetchError (the hub does
    not answer), DiskError (no room, said before anything is fetched), InstallError otherwise."""
    hub = folder(cache)
    pin = pin_file(source, cache, os.environ.get("HF_ENDPOINT", ""))
    async with only_one(hub / "locks" / f"{source.repository.replace('/', '--')}.lock"):
        if found := fetched(source, cache, os.environ):
            return found
        progress(Progress("fetching", f"{source.address} ({source.revision})", None))
        got = await _run(source, hub, token, progress)
        place = str(Path(got["path"]).relative_to(hub.resolve()))
        made = Pin(source.repository, source.revision, got["commit"], place)
        pin.parent.mkdir(parents=True, exist_ok=True)
        temporary = pin.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(made._asdict()))
        temporary.replace(pin)
    return hub / place


async def _run(source: HubSource, hub: Path, token: str, progress: Report) -> dict[str, str]:
    """What the fetching process says in the end: the model's `path`, and its `commit`."""
    request = source._asdict() | {"cache": str(hub.resolve()), "margin": MARGIN}
    argv = [sys.executable, "-Im", MODULE, json.dumps(request)]
    last: dict[str, Any] = {}

    def heard(text: str) -> None:
        if not text.startswith(MARK):
            return
        line = json.loads(text.removeprefix(MARK))
        last.update(line)
        if step := line.get("step"):
            progress(Progress("fetching", step["detail"], step["fraction"]))

    try:
        await run(argv, variables(os.environ, token), heard)
    except ToolError as error:
        told = last.get("failed")
        if told is None:
            raise failure(f"fetching {source.address}", error.lines, str(hub)) from error
        raise _ERRORS[told["kind"]](told["message"]) from None
    return dict(last["fetched"])
