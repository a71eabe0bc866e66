"""The platform as it was: chart and image of an earlier commit, for upgrades from it and back.

`PREVIOUS` is the commit that ended the milestone before this one. Its files come from this
repository's own history, its image is built by the Dockerfile it had.
"""

import io
import subprocess
import tarfile
from pathlib import Path

from . import images
from .layout import Cluster

PREVIOUS = "dcfc601363a655f8656f2d8fe44d0c82cbab0756"


class NoHistory(LookupError):
    """This checkout does not have the commit: a shallow clone, or an export without history."""


def checkout(commit: str = PREVIOUS) -> Path:
    """The files of a commit, in a folder of the cache. Raises NoHistory."""
    folder = images.cache_root().parent / "releases" / commit[:12]
    if (folder / "Dockerfile").exists():
        return folder
    packed = subprocess.run(
        ["git", "-C", str(images.ROOT), "archive", "--format=tar", commit],
        capture_output=True, check=False,
    )  # fmt: skip
    if packed.returncode:
        raise NoHistory(f"no commit {commit[:12]} here: {packed.stderr.decode().strip()[:200]}")
    made = folder.with_name(f"{folder.name}.new")
    made.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as files:
        files.extractall(made, filter="data")
    made.rename(folder)
    return folder


def load(cluster: Cluster) -> str:
    """Build the image of that commit and put it on the nodes, beside ours; its name."""
    built = images.build("tidegate-before", root=checkout())
    images.load(built.archive, [node.socket for node in cluster.nodes])
    return built.name
