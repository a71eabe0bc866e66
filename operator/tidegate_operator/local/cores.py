"""Which cores an engine computes on: pure, but for reading what there are.

An engine's threads wait for each other many times a token. Two that take turns on one core make all
the others wait, so engines that are in use get cores of their own, evenly; one that is alone in use
gets all. Of a core with hyperthreads one is taken: two threads that compute gain nothing by sharing
a core's units. Where there are four cores or more, the last one is left to router and billing.
docs/adr/0016-cores.md has the measurements.

    2 cores, 1 engine:   0,1
    2 cores, 2 engines:  0 | 1
    2 cores, 3 engines:  shared: none of them is bound
    8 cores, 3 engines:  0,1,2 | 3,4 | 5,6
"""

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tidegate_operator.local import machine

SPARE_FROM: Final = 4
"""From so many cores on, one is left to the platform's own processes."""


class Cpu(NamedTuple):
    """A logical processor, with all that share its core and where the core is."""

    id: int
    siblings: tuple[int, ...]
    package: int = 0


class Processor(NamedTuple):
    """`allowed`: logical processors that this process may use; `usable`: those that engines compute
    on, one of each core, neighbours beside each other. Empty: nothing is to be bound here."""

    allowed: tuple[int, ...] = ()
    usable: tuple[int, ...] = ()


def usable(cpus: Iterable[Cpu], quota: float = 0.0) -> tuple[int, ...]:
    """The processors for engines. `quota`: of how many the time may be used, 0: of all."""
    first: dict[tuple[int, ...], Cpu] = {}
    for cpu in sorted(cpus):
        first.setdefault(cpu.siblings if cpu.id in cpu.siblings else (cpu.id,), cpu)
    found = [cpu.id for cpu in sorted(first.values(), key=lambda one: (one.package, one.id))]
    if quota:
        found = found[: max(1, int(quota))]
    return tuple(found[:-1] if len(found) >= SPARE_FROM else found)


def split(cpus: Sequence[int], engines: int) -> list[tuple[int, ...]]:
    """Each engine's share, in order. Empty shares: there are more engines than cores."""
    if not engines or engines > len(cpus):
        return [()] * engines
    size, more = divmod(len(cpus), engines)
    ends = [size * n + min(n, more) for n in range(engines + 1)]
    return [tuple(cpus[a:b]) for a, b in itertools.pairwise(ends)]


def processor(root: Path = Path("/")) -> Processor:
    """What there is; nothing where processes cannot be bound."""
    if not hasattr(os, "sched_getaffinity"):
        return Processor()
    allowed = sorted(os.sched_getaffinity(0))
    cpus = [_cpu(root / f"sys/devices/system/cpu/cpu{one}/topology", one) for one in allowed]
    return Processor(tuple(allowed), usable(cpus, quota(root)))


def quota(root: Path) -> float:
    """Of how many processors the control groups let the time be used; 0: of all."""
    limits = []
    for folder, unified in machine.groups(root, "cpu"):
        try:
            if unified:
                share, period = (folder / "cpu.max").read_text().split()
            else:
                share = (folder / "cpu.cfs_quota_us").read_text().strip()
                period = (folder / "cpu.cfs_period_us").read_text().strip()
        except (OSError, ValueError):
            continue
        if share.isdigit() and period.isdigit() and int(period):
            limits.append(int(share) / int(period))
    return min(limits, default=0.0)


def _cpu(folder: Path, number: int) -> Cpu:
    siblings = _listed(_text(folder / "thread_siblings_list"))
    package = _text(folder / "physical_package_id")
    return Cpu(number, siblings or (number,), int(package) if package.isdigit() else 0)


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _listed(text: str) -> tuple[int, ...]:
    """`0-2,8` as numbers; nothing where it is none."""
    found: list[int] = []
    for part in text.split(","):
        low, dash, high = part.partition("-")
        if not low.isdigit() or (dash and not high.isdigit()):
            return ()
        found += range(int(low), int(high if dash else low) + 1)
    return tuple(found)
