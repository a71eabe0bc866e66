"""Two images made from a program each: the pod sandbox's, and a busybox for tests.

A docker archive is a tar with two JSON files and a tar in it, so nothing is needed to make one,
and the same bytes come out each time. Kept by content, as the built programs are.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

from .command import run
from .layout import BOX_IMAGE, PAUSE_IMAGE
from .tools import cache

# PID 1 gets no default action of a signal, so the end must be a handler's.
PAUSE = r"""
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int s) { (void)s; _exit(0); }
static void reap(int s) { (void)s; while (waitpid(-1, NULL, WNOHANG) > 0) {} }
int main(void) {
  signal(SIGTERM, end); signal(SIGINT, end); signal(SIGCHLD, reap);
  for (;;) pause();
}
"""
BUSYBOX = Path("/usr/bin/busybox")  # Debian's static one; its wget dies of `-T`
APPLETS = "sh cat date df echo env grep head httpd id ls mkdir mount nc nslookup printf ps"
APPLETS += " rm seq sleep stat tail test timeout top touch true wget whoami"


def _tar(entries: Mapping[str, bytes | str]) -> bytes:
    """A tar of files (bytes) and symbolic links (text: where to), the same bytes each time."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.mode = 0o755
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            elif name.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, 0o1777
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def archive(name: str, entries: Mapping[str, bytes | str], command: list[str]) -> bytes:
    """A docker archive of one layer."""
    layer = _tar(entries)
    config = json.dumps(
        {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[_machine()],
            "os": "linux",
            "config": {"Entrypoint": command, "Env": ["PATH=/bin"]},
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"],
            },
        }
    ).encode()
    manifest = json.dumps(
        [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    ).encode()
    return _tar({"manifest.json": manifest, "config.json": config, "layer.tar": layer})


def _machine() -> str:
    return run("uname", "-m").strip()


def _kept(name: str, content: bytes) -> Path:
    path = cache() / f"{name}-{hashlib.sha256(content).hexdigest()[:16]}.tar"
    if not path.exists():
        fresh = path.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.replace(path)
    return path


def pause() -> Path:
    """The archive of the sandbox image."""
    kept = cache() / f"pause-{hashlib.sha256(PAUSE.encode()).hexdigest()[:16]}"
    if not kept.exists():
        fresh = kept.with_suffix(".new")
        run("gcc", "-Os", "-static", "-s", "-x", "c", "-", "-o", fresh, stdin=PAUSE)
        fresh.replace(kept)
    return _kept("pause-image", archive(PAUSE_IMAGE, {"pause": kept.read_bytes()}, ["/pause"]))


def busybox() -> Path:
    """The archive of the image for tests: a shell, wget, nslookup, httpd."""
    links = {f"bin/{name}": "busybox" for name in APPLETS.split()}
    files: dict[str, bytes | str] = {"tmp/": b"", "bin/busybox": BUSYBOX.read_bytes(), **links}
    return _kept("busybox-image", archive(BOX_IMAGE, files, []))
