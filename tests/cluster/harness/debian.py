"""Programs of the machine that the cluster needs, from Debian packages where they are missing."""

import shutil
from pathlib import Path

from .command import run

# What must be there, and the package that brings it.
NEEDED = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "nft": "nftables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "openssl": "openssl",
    "gcc": "gcc",
    "/usr/include/stdio.h": "libc6-dev",
    "/usr/bin/busybox": "busybox-static",
}


def missing(needed: dict[str, str]) -> list[str]:
    """Packages whose programs are not on the machine."""
    lacking = {
        package
        for name, package in needed.items()
        if not (Path(name).exists() if name.startswith("/") else shutil.which(name))
    }
    return sorted(lacking)


def ensure(needed: dict[str, str] | None = None) -> None:
    """Install what is missing, as root. Raises CommandFailed, with apt's own words."""
    lacking = missing(NEEDED if needed is None else needed)
    if not lacking:
        return
    env = {
        "DEBIAN_FRONTEND": "noninteractive",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "RUNLEVEL": "1",  # packages start no service at this one
    }
    run("apt-get", "update", "-qq", env=env)
    run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *lacking, env=env)
