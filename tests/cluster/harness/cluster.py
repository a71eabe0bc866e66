"""A cluster from outside: `up`, `down`, and `held` for a test session.

One cluster per machine. Its lock is a file beside the state folder; a session holds it for its
whole life, so another one waits instead of ending the cluster under it. A cluster that was left
(`make cluster`, KEEP_CLUSTER=1, or a run that was killed) is ended by the next one that comes up.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import tools
from .bringup import bring_up, running
from .layout import Cluster, state_folder
from .takedown import take_down


def _lock(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _fresh(folder: Path, start: Callable[[Path, tools.Tools], Cluster]) -> Cluster:
    built = tools.build()
    take_down(folder)
    try:
        return start(folder, built)
    except BaseException:
        kept = folder.with_name(f"{folder.name}.failed-logs")
        if (folder / "logs").exists():
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder / "logs", kept)
            tools.say(f"did not come up; the logs are kept in {kept}")
        take_down(folder)
        raise


def up() -> Cluster:
    """Bring up a fresh cluster and leave it running; an older one of ours is ended first."""
    folder = state_folder()
    with tools.locked(_lock(folder), "the test cluster"):
        return _fresh(folder, bring_up)


def down() -> None:
    """End the cluster, and everything it put on the machine. Nothing happens where none is."""
    folder = state_folder()
    with tools.locked(_lock(folder), "the test cluster"):
        take_down(folder)


@contextmanager
def held(start: Callable[[Path, tools.Tools], Cluster] = bring_up) -> Iterator[Cluster]:
    """A fresh cluster that no other run can end; taken down after, unless KEEP_CLUSTER=1.

    `start`: `bring_up`, or another of its kind."""
    folder = state_folder()
    with tools.locked(_lock(folder), "the test cluster"):
        made = _fresh(folder, start)
        try:
            yield made
        finally:
            if os.environ.get("KEEP_CLUSTER") != "1":
                take_down(folder)


def attached() -> Cluster:
    """The cluster that runs now, by its state folder. Raises LookupError where none does."""
    found = running(state_folder())
    if found is None:
        raise LookupError(f"no test cluster runs in {state_folder()}: `make cluster` starts one")
    return found


def outside(kubeconfig: str) -> Cluster:
    """A cluster that is somebody else's to end: one of ours by `make cluster`, or any other."""
    if (own := running(Path(kubeconfig).parent)) is not None:
        return own
    kubectl, helm = shutil.which("kubectl"), shutil.which("helm")
    if kubectl is None or helm is None:
        built = tools.build()
        kubectl, helm = str(built.kubernetes / "kubectl"), str(built.helm / "helm")
    return Cluster(kubeconfig=Path(kubeconfig), kubectl=Path(kubectl), helm=Path(helm))
