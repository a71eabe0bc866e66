"""Fetches one model of a hub into the hub library's own cache: the process that `hub` starts.

    python -Im tidegate_runtime.engines.vllm.hub_fetch REQUEST      REQUEST is JSON, see `Request`

A process of its own, because the library and its connections are of no use afterwards, and because
it can be killed at any moment. It resolves the revision to a commit, lists the commit's files,
looks whether the disk has room for them, and fetches what is missing.

The library keeps nothing of a file that was cut off (each try writes a new temporary file). So
large files go through a partial file of ours, named by the SHA-256 that the hub promises: the next
try, of any process, goes on where the last one stopped; a whole file is compared with its name and
becomes the library's. What is said to the parent are marked lines of JSON, as in `convert`.
"""

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Literal, NamedTuple, NoReturn

import httpx2
import msgspec
from huggingface_hub import HfApi, constants, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils._headers import build_hf_headers

from tidegate_runtime.engines.vllm import hub_choice
from tidegate_runtime.engines.vllm.progress import DiskError, FetchError, PrepareError, SourceError

MARK: Final = "tidegate-hub "
TOKEN: Final = "HF_TOKEN"  # noqa: S105 - a variable's name
AT_ONCE: Final = 4
CHUNK: Final = 2**20
"""What is lost of a file when the process is killed: the library writes whole chunks, of ten
megabytes if it is not told otherwise."""
# Beyond it a hub only serves by its own protocol; those files are left to the library, unresumed.
LARGEST: Final = 50 * 10**9
_COMMIT: Final = re.compile(r"[0-9a-f]{40,64}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to fetch. `margin`: bytes of the disk that must stay free. `cache`: the library's."""

    repository: str
    revision: str
    inside: str
    cache: str
    margin: int


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """Where the model lies now, and the commit that it is of."""

    path: str
    commit: str


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """Why it could not be fetched; `kind` is whose fault it is."""

    kind: Literal["source", "fetch", "disk"]
    message: str


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """How far it is; `fraction` of all bytes, in [0, 1]."""

    detail: str
    fraction: float | None = None


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line for the parent: exactly one of the three."""

    step: Step | None = None
    fetched: Fetched | None = None
    failed: Failed | None = None


def say(line: Line) -> None:
    """Tell the parent, at once and in one piece: several threads do."""
    sys.stdout.write(MARK + msgspec.json.encode(line).decode() + "\n")
    sys.stdout.flush()


class Remote(NamedTuple):
    """A file of the commit; `sha256` '' where the hub keeps it in git itself (small ones)."""

    path: str
    size: int
    sha256: str


class Counted:
    """How much of everything is here, told as it grows."""

    def __init__(self, total: int, detail: str) -> None:
        self._total, self._detail = max(total, 1), detail
        self._here = self._told = 0

    def add(self, size: int) -> None:
        """So many bytes more (or, below zero, less) are here."""
        self._here += size
        if abs(self._here - self._told) >= max(CHUNK, self._total / 100):  # a hundred lines at most
            self._told = self._here
            fraction = min(max(self._here / self._total, 0.0), 1.0)
            say(Line(step=Step(detail=self._detail, fraction=fraction)))


class Partial:
    """A file that is being appended to. The library only writes, and starts it anew where a server
    will not go on in the middle."""

    def __init__(self, path: Path, counted: Counted) -> None:
        self._file = path.open("ab", buffering=0)
        self.size = self._file.tell()
        self._counted = counted
        counted.add(self.size)

    def write(self, data: bytes) -> int:
        """Append, and count."""
        self._counted.add(len(data))
        return self._file.write(data)

    def tell(self) -> int:
        """Where the next byte goes."""
        return self._file.tell()

    def seek(self, offset: int) -> int:
        """Only followed by `truncate`: what is appended goes to the end anyway."""
        return self._file.seek(offset)

    def truncate(self) -> int:
        """Forget what lies behind here."""
        here = self._file.tell()
        self._counted.add(here - os.fstat(self._file.fileno()).st_size)
        return self._file.truncate()

    def close(self) -> None:
        """Keep what there is."""
        self._file.close()


class Fetcher:
    """One request, step by step."""

    def __init__(self, request: Request, token: str | None) -> None:
        self._request = request
        self._token: str | Literal[False] = token or False
        self._api = HfApi(token=self._token)
        self._what = f"hf://{request.repository}"
        self._cache = Path(request.cache)
        name = repo_folder_name(repo_id=request.repository, repo_type="model")
        self._blobs = self._cache / name / "blobs"
        self._partial = self._cache / "partial"

    def run(self) -> Fetched:
        """Fetch it. Raises PrepareError, or what the library raises."""
        request = self._request
        info = self._api.model_info(request.repository, revision=request.revision, timeout=30)
        commit = _hash(info.sha, _COMMIT, f"{self._what}: its commit")
        say(Line(step=Step(detail=f"{self._what} at {commit[:12]}")))
        remote = self._listed(commit)
        listing = [hub_choice.File(file.path, file.size) for file in remote.values()]
        choice = hub_choice.choose(listing, request.inside, self._what)
        wanted = [remote[file.path] for file in choice.files]
        self._cache.mkdir(parents=True, exist_ok=True)
        self._partial.mkdir(exist_ok=True)
        self._room(wanted, choice.size)
        folder = self._fetch(commit, wanted, choice.size)
        return Fetched(path=str(folder / choice.model), commit=commit)

    def _listed(self, commit: str) -> dict[str, Remote]:
        files = self._api.list_repo_tree(self._request.repository, recursive=True, revision=commit)
        return {
            one.path: Remote(
                one.path,
                one.size,
                _hash(one.lfs.sha256, _SHA256, f"{self._what}: {one.path}") if one.lfs else "",
            )
            for one in files
            if isinstance(one, RepoFile)
        }

    def _room(self, wanted: list[Remote], size: int) -> None:
        here = sum(self._here(file) for file in wanted)
        free = shutil.disk_usage(self._cache).free
        problem = hub_choice.room(size, here, free, self._request.margin)
        if problem:
            raise DiskError(f"{self._what}: no room in {self._cache}: {problem}")

    def _here(self, file: Remote) -> int:
        """How many of its bytes are on this disk already."""
        if not file.sha256:
            return 0
        if (self._blobs / file.sha256).exists():
            return file.size
        partial = self._partial / file.sha256
        return min(partial.stat().st_size, file.size) if partial.exists() else 0

    def _fetch(self, commit: str, wanted: list[Remote], size: int) -> Path:
        detail = f"{self._what} at {commit[:12]}, {hub_choice.gib(size)}"
        counted = Counted(size, detail)

        def one(file: Remote) -> Path:
            return self._file(file, commit, counted)

        # What describes the model first: where it is wrong, no weights were fetched in vain.
        small = [file for file in wanted if not file.sha256]
        large = [file for file in wanted if file.sha256]
        pool = ThreadPoolExecutor(AT_ONCE)  # never waited for: see `_end`
        places = [*pool.map(one, small), *pool.map(one, large)]
        say(Line(step=Step(detail=detail, fraction=1.0)))
        return _root(places[0], (small + large)[0].path)

    def _file(self, file: Remote, commit: str, counted: Counted) -> Path:
        blob = self._blobs / file.sha256
        if file.sha256 and file.size <= LARGEST and not blob.exists():
            self._resumed(file, commit, counted)
        else:
            counted.add(file.size)
        place = hf_hub_download(
            self._request.repository,
            file.path,
            revision=commit,
            cache_dir=self._cache,
            token=self._token,
        )
        return Path(place)

    def _resumed(self, file: Remote, commit: str, counted: Counted) -> None:
        """Fetch what is missing of a large file, and give the whole to the library's cache."""
        path = self._partial / file.sha256
        if path.exists() and path.stat().st_size > file.size:
            path.unlink()
        partial = Partial(path, counted)
        try:
            http_get(
                hf_hub_url(self._request.repository, file.path, revision=commit),
                partial,  # type: ignore[arg-type]
                resume_size=partial.size,
                headers=build_hf_headers(token=self._token) | {"Accept-Encoding": "identity"},
                expected_size=file.size,
            )
        finally:
            partial.close()
        if _sha256(path) != file.sha256:
            path.unlink()
            raise FetchError(
                f"{self._what}: {file.path} came damaged (its SHA-256 is not the hub's); "
                "it is fetched anew at the next try"
            )
        self._blobs.mkdir(parents=True, exist_ok=True)
        path.rename(self._blobs / file.sha256)


def _hash(given: object, form: re.Pattern[str], what: str) -> str:
    """A hash as the hub gives it. Files of ours are named by it, so it must be one: a hub is a server that
    a setting names."""
    if not form.fullmatch(str(given)):
        raise FetchError(f"{what} has no hash that is one, but {str(given)[:80]!r}")
    return str(given)


def _root(place: Path, path: str) -> Path:
    """The snapshot's folder, from where one of its files lies."""
    return place.parents[len(Path(path).parts) - 1]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def explained(error: Exception, request: Request, environ: Mapping[str, str]) -> Failed | None:
    """What went wrong, and which setting cures it; None where it is nothing we know."""
    what = f"hf://{request.repository}"
    endpoint = environ.get("HF_ENDPOINT", "") or "https://huggingface.co"
    if isinstance(error, PrepareError):
        kinds: dict[type, Literal["source", "disk"]] = {SourceError: "source", DiskError: "disk"}
        return Failed(kind=kinds.get(type(error), "fetch"), message=str(error))
    if isinstance(error, HfHubHTTPError):
        return _answered(error, request, endpoint, has_token=bool(environ.get(TOKEN)))
    if isinstance(error, OfflineModeIsEnabled):
        words = "HF_HUB_OFFLINE is set, and not all of it is in the cache; unset it once"
        return Failed(kind="fetch", message=f"{what}: {words}")
    if isinstance(error, httpx2.HTTPError):
        words = f"{endpoint} could not be reached ({_words(error)})"
        hint = "is there a network? HF_ENDPOINT names another hub, HTTPS_PROXY a proxy"
        return Failed(kind="fetch", message=f"{what}: {words}; {hint}")
    if isinstance(error, OSError) and error.errno:
        message = f"{request.cache} cannot be written: {error}"
        return Failed(kind="disk", message=message)
    if isinstance(error, OSError):  # the library's own: a file of another size than promised
        return Failed(kind="fetch", message=f"{what}: {_words(error)}")
    return None


def _answered(error: HfHubHTTPError, request: Request, endpoint: str, *, has_token: bool) -> Failed:
    what, status = f"hf://{request.repository}", error.response.status_code
    page = f"{endpoint}/{request.repository}"
    give = (
        "name a Secret in spec.model.secretRef and give its token to `tidegate up` "
        "as HF_TOKEN, or HF_TOKEN_FILE=path of a file that holds it"
    )
    if isinstance(error, RevisionNotFoundError):
        return Failed(kind="source", message=f"{what}: there is no revision {request.revision}")
    if isinstance(error, GatedRepoError):
        cure = "the token given may not read it: its account must be granted access"
        words = f"is gated; accept its terms on {page}; {cure if has_token else give}"
    elif isinstance(error, RepositoryNotFoundError):
        cure = "the token given may not read it"
        words = f"is not on {endpoint}, or is private: {cure if has_token else give}"
    elif status in {401, 403}:
        cure = "the token given is not valid, or has no right to it"
        words = f"is refused by {endpoint} ({status}): {cure if has_token else give}"
    else:
        return Failed(kind="fetch", message=f"{what}: {endpoint} answered {status}")
    return Failed(kind="source", message=f"{what} {words}")


def _words(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def main(argv: list[str], environ: Mapping[str, str], tell: Callable[[Line], None] = say) -> int:
    """Fetch what the request says; the exit status is the result."""
    request = msgspec.json.decode(argv[0], type=Request)
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK
    try:
        fetched = Fetcher(request, environ.get(TOKEN)).run()
    except Exception as error:
        failed = explained(error, request, environ)
        if failed is None:
            raise
        tell(Line(failed=failed))
        return 1
    tell(Line(fetched=fetched))
    return 0


def _end() -> NoReturn:
    # After a failure other threads may still read from a slow server; what they wrote is kept.
    status = main(sys.argv[1:], os.environ)
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    _end()
