"""Everything a record names is taken away, and nothing else.

Processes first, kubelets before the containerds they would start again; then the pods, by the
shims that name our socket and by our control groups; then what the kernel holds: mounts, groups,
links, tables, settings. Works alike on a cluster of this run and on one whose run was killed.
"""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from .command import CommandFailed, run
from .layout import LINK, nodes
from .machine import (
    hierarchies,
    mounts_below,
    remove_link,
    remove_pod_links,
    remove_table,
)
from .record import Process, alive, boot_id, end, read, send, start_time
from .tools import say

SHIM_SOCKETS = Path("/run/containerd/s")
CONTAINER_LOGS = Path("/var/log/containers")
CNI_RESULTS = Path("/var/lib/cni/results")


class Leftover(RuntimeError):
    """Something of the cluster could not be taken away; the message names it."""


def _argv(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def shims(sockets: tuple[str, ...]) -> list[Process]:
    """containerd's shims that serve one of these sockets; no other's."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        argv = _argv(int(entry.name))
        if not argv or "containerd-shim" not in argv[0] or "-address" not in argv:
            continue
        start = start_time(int(entry.name))
        if argv[argv.index("-address") + 1] in sockets and start is not None:
            found.append(Process("shim", int(entry.name), start))
    return found


def _members(groups: tuple[str, ...]) -> Iterator[Process]:
    """Every process in a control group of ours: the pods' own."""
    for top in hierarchies():
        for group in groups:
            for file in (top / group).rglob("cgroup.procs"):
                for pid in file.read_text().split():
                    if (start := start_time(int(pid))) is not None:
                        yield Process("pod", int(pid), start)


def end_pods(sockets: tuple[str, ...], groups: tuple[str, ...]) -> None:
    """Kill the pods of these containerds and control groups, their shims too."""
    until = time.monotonic() + 20
    while left := {*shims(sockets), *_members(groups)}:
        for process in left:
            send(process, signal.SIGKILL)
        if time.monotonic() > until:
            raise Leftover(f"pods' processes: {sorted(p.pid for p in left)}")
        time.sleep(0.05)


def _shim_sockets(folder: Path) -> list[Path]:
    """Sockets that shims made outside of our folder; each bundle names its own."""
    found = []
    for file in folder.glob("node-*/containerd-state/io.containerd.runtime.v2.task/*/*/address"):
        path = Path(file.read_text().strip().removeprefix("unix://"))
        if path.parent == SHIM_SOCKETS:
            found.append(path)
    return found


def _unmount(folder: Path) -> None:
    for _ in range(5):  # a mount may hide another one at the same place
        points = mounts_below(folder)
        if not points:
            return
        try:
            run("umount", "--lazy", *points)
        except CommandFailed as fault:
            say(f"unmount: {fault}")
    if left := mounts_below(folder):
        raise Leftover(f"mounts: {left}")


def _remove_groups(names: tuple[str, ...]) -> None:
    for top in hierarchies():
        for name in names:
            for folder, _, _ in os.walk(top / name, topdown=False):
                _remove_group(Path(folder))


def _remove_group(group: Path) -> None:
    until = time.monotonic() + 5
    while True:  # a killed process leaves its group a moment after it is gone
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError as fault:
            if time.monotonic() > until:
                raise Leftover(f"control group {group}: {fault}") from fault
            time.sleep(0.05)
        else:
            return


def _remove_log_links(folder: Path) -> None:
    """Links that kubelets keep at a fixed place for collectors of logs."""
    if not CONTAINER_LOGS.exists():
        return
    for link in CONTAINER_LOGS.iterdir():
        if link.is_symlink() and link.readlink().is_relative_to(folder):
            link.unlink(missing_ok=True)


def _cni_results(folder: Path) -> list[Path]:
    """What the pod network keeps, at a fixed place, of pods of ours that were killed."""
    ids = folder.glob("node-*/containerd/io.containerd.grpc.v1.cri/sandboxes/*")
    return [file for sandbox in ids for file in CNI_RESULTS.glob(f"*-{sandbox.name}-*")]


def take_down(folder: Path) -> None:
    """End the cluster in a folder, if there is one. The caller holds the machine's lock.

    Raises Leftover, TimeoutError where something would not go; the record stays then.
    """
    record = read(folder)
    if record is None:
        if folder.exists() and any(folder.iterdir()):
            raise Leftover(f"{folder} holds no record of ours: remove it, or set CLUSTER_STATE")
        return
    outside = [*_shim_sockets(folder), *_cni_results(folder)]
    if record.boot == boot_id():
        running = [process for process in record.processes if alive(process)]
        first = [p for p in running if p.name.startswith("kubelet")]
        end(first, grace=2)
        # The API server waits for its watchers, so those and their server are told together.
        end([p for p in running if p not in first], grace=3)
        end_pods(record.sockets, record.cgroups)
        for table in reversed(record.tables):
            remove_table(table)
        if LINK in record.links:  # else the pods of these addresses are another cluster's
            remove_pod_links(nodes(folder))
        for link in record.links:
            remove_link(link)
        for file, before in reversed(record.settings):
            Path(file).write_text(before)
    _unmount(folder)
    _remove_groups(record.cgroups)
    _remove_log_links(folder)
    for stray in outside:
        stray.unlink(missing_ok=True)
    run("rm", "-rf", "--one-file-system", folder)
