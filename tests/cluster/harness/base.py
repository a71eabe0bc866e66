"""The base image of the tests: Debian's minimal system, made by debootstrap, never pulled.

There need be no image registry within reach, but a Debian mirror is. The root is packed once,
named after what it was made from, and is then given to buildah's own storage under the name the
Dockerfiles' FROM line has, so that the shipped Dockerfiles build as they are.

The mirror is the one this machine's apt uses for Debian; what else apt needs here (a proxy, old
snapshots) goes along as a build secret (`images.py`) and never into the image.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

NAME: Final = "docker.io/library/debian:bookworm-slim"
SUITE: Final = "bookworm"

_MIRROR: Final = "http://deb.debian.org/debian"
_SECURITY: Final = "http://deb.debian.org/debian-security"
_RECIPE: Final = "1"  # raised when `_slim` or the calls below make another root
_URI: Final = re.compile(r"https?://\S+")
_APT: Final = Path("/etc/apt")

# What the published slim image leaves out, too; dpkg then leaves it out of later packages as well.
_LEFT_OUT: Final = (
    "/usr/share/doc",
    "/usr/share/info",
    "/usr/share/locale",
    "/usr/share/man",
    "/usr/share/lintian",
)
_EMPTIED: Final = ("var/cache/apt", "var/lib/apt/lists", "var/log", "var/cache/debconf")


def uris(texts: Iterable[str]) -> list[str]:
    """The addresses in apt's source lists, of either format, comments left out; in order."""
    lines = (line for text in texts for line in text.splitlines())
    found = (_URI.findall(line.partition("#")[0]) for line in lines)
    return [uri.rstrip("/") for line in found for uri in line]


def mirrors(texts: Sequence[str]) -> tuple[str, str]:
    """The Debian mirror and the mirror of its security updates; Debian's own where none is set."""
    known = uris(texts)
    main = next((uri for uri in known if uri.endswith("/debian")), _MIRROR)
    security = next((uri for uri in known if uri.endswith("/debian-security")), _SECURITY)
    return main, security


def configured() -> tuple[str, str]:
    """`mirrors` of this machine."""
    files = [_APT / "sources.list", *sorted((_APT / "sources.list.d").glob("*"))]
    kept = [path for path in files if path.suffix in {".list", ".sources"} and path.is_file()]
    return mirrors([path.read_text() for path in kept])


def identity(main: str, security: str) -> str:
    """The base's name in the cache: what it is made from, hashed."""
    machine = os.uname().machine
    return hashlib.sha256("\0".join((_RECIPE, SUITE, machine, main, security)).encode()).hexdigest()


def ensure(cache: Path, buildah: Sequence[str]) -> str:
    """Have `NAME` in buildah's storage; return its identity.

    `buildah` is the command with its storage options. Raises CalledProcessError."""
    main, security = configured()
    key = identity(main, security)
    archive = cache / f"base-{key[:16]}.tar"
    if not archive.exists():
        print(f"images: debootstrap {SUITE} from {main}", file=sys.stderr)
        _bootstrap(archive, main, security)
    if _imported(buildah) != key:
        _import(archive, key, buildah)
    return key


def _imported(buildah: Sequence[str]) -> str:
    shown = subprocess.run(
        [*buildah, "inspect", "--type", "image", "--format", '{{index .Docker.Config.Labels "base"}}', NAME],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return shown.stdout.strip() if shown.returncode == 0 else ""


def _bootstrap(archive: Path, main: str, security: str) -> None:
    root = Path(tempfile.mkdtemp(prefix="root-", dir=archive.parent))
    temporary = archive.with_suffix(f".{os.getpid()}.tmp")
    try:
        root.chmod(0o755)
        _run(["debootstrap", "--variant=minbase", SUITE, str(root), main])
        _slim(root, main, security)
        _run(["tar", "--numeric-owner", "--sort=name", "-C", str(root), "-cf", str(temporary), "."])
        temporary.replace(archive)
    finally:
        shutil.rmtree(root, ignore_errors=True)
        temporary.unlink(missing_ok=True)


def _slim(root: Path, main: str, security: str) -> None:
    for folder in _EMPTIED:
        shutil.rmtree(root / folder, ignore_errors=True)
        (root / folder).mkdir()
    (root / "var/lib/apt/lists/partial").mkdir()
    (root / "var/cache/apt/archives/partial").mkdir(parents=True)
    for folder in _LEFT_OUT:
        for path in (root / folder[1:]).glob("*"):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    rules = "".join(f"path-exclude {folder}/*\n" for folder in _LEFT_OUT)
    (root / "etc/dpkg/dpkg.cfg.d/slim").write_text(rules)
    for name in ("etc/resolv.conf", "etc/hostname"):  # this machine's
        (root / name).unlink(missing_ok=True)
    lists = [
        f"deb {main} {SUITE} main",
        f"deb {main} {SUITE}-updates main",
        f"deb {security} {SUITE}-security main",
    ]
    (root / "etc/apt/sources.list").write_text("\n".join(lists) + "\n")


def _import(archive: Path, key: str, buildah: Sequence[str]) -> None:
    made = _run([*buildah, "from", "--pull-never", "scratch"]).strip()
    try:
        _run([*buildah, "add", "--quiet", made, str(archive), "/"])
        _run([*buildah, "config", "--cmd", "bash", "--label", f"base={key}", made])
        _run([*buildah, "commit", "--quiet", made, NAME])
    finally:
        _run([*buildah, "rm", made])


def _run(argv: Sequence[str]) -> str:
    """Standard output; what the program says on its way goes to our standard error."""
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout
