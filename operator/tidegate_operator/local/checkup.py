"""What `tidegate doctor` makes of a machine: each check is a function of readings, and pure.

ok: nothing to do. warn: it works, and something will be slow, wrong or missing. fail: `tidegate up`
would not start, or what it writes would be wrong. Every finding but ok says what to do.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from tidegate_operator.local.machine import Memory
from tidegate_runtime.engines.vllm.memory import PROCESSES

Verdict = Literal["ok", "warn", "fail"]
GIB = 2**30
LEAST_PYTHON, NEXT_PYTHON = (3, 11), (3, 14)
"""Ours from; vLLM's environment to, that one not included."""
VLLM_DISK = 8 * GIB
"""vLLM takes 5.8 GB, and as much again for a moment while it is unpacked elsewhere than its cache."""
SMALL_ENGINE = PROCESSES + GIB + GIB // 2
"""vLLM, its default KV cache and a model of 135 million parameters."""
_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "amx_tile"})


class Finding(NamedTuple):
    """One check's result. `do` is empty where nothing is to be done."""

    check: str
    verdict: Verdict
    found: str
    do: str = ""


class Disk(NamedTuple):
    """The disk under a directory, in bytes. `error`: why it cannot be written, '' = it can."""

    setting: str
    path: Path
    free: int
    error: str = ""


class Port(NamedTuple):
    """A port `up` would listen on. `error`: why it cannot, '' = it can."""

    setting: str
    address: str
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Readings:
    """A machine as it was found. `flags`: the processor's features as Linux names them. `now` in
    seconds since the epoch; `synchronized` None = the kernel does not tell. `running`: another
    `up` holds the data directory. `leftovers`: processes of one that is gone. `files`: how many
    a process may open at most. `shared`: bytes of /dev/shm, -1 = there is none."""

    python: tuple[int, int]
    system: str
    processor: str
    flags: frozenset[str]
    cores: int
    memory: Memory
    disks: Sequence[Disk]
    ports: Sequence[Port]
    now: float
    synchronized: bool | None
    running: bool = False
    leftovers: Sequence[int] = field(default_factory=list)
    files: int = 1 << 20
    shared: int = GIB
    vllm: bool = False
    uv: bool = True


def examine(seen: Readings) -> list[Finding]:
    """Every check's finding, in the order in which they should be looked at."""
    return [finding for check in CHECKS for finding in check(seen)]


def healthy(findings: Sequence[Finding]) -> bool:
    """Whether none of them failed."""
    return all(finding.verdict != "fail" for finding in findings)


def _python(seen: Readings) -> Iterator[Finding]:
    version = ".".join(map(str, seen.python))
    if seen.python < LEAST_PYTHON:
        yield Finding("python", "fail", f"Python {version}", "install Python 3.11 or newer")
    elif seen.python >= NEXT_PYTHON:
        do = "run Tidegate with Python 3.11 to 3.13 if you serve with vLLM"
        yield Finding("python", "warn", f"Python {version}, which vLLM does not know yet", do)
    else:
        yield Finding("python", "ok", f"Python {version}")


def _system(seen: Readings) -> Iterator[Finding]:
    found = f"{seen.system} on {seen.processor}, {seen.cores} cores"
    if seen.system != "Linux":
        yield Finding(
            "system", "fail", found, "Tidegate runs on Linux; use a machine or VM with it"
        )
    elif seen.processor not in {"x86_64", "aarch64"}:
        yield Finding("system", "warn", found, "vLLM has no build for it; the sim engine runs")
    else:
        yield Finding("system", "ok", found)


def _processor(seen: Readings) -> Iterator[Finding]:
    if seen.processor != "x86_64":
        return
    trap = sorted(seen.flags & _BFLOAT16)
    if "avx2" not in seen.flags:
        do = "vLLM on the CPU needs AVX2: use another machine, a GPU, or the sim engine"
        yield Finding("processor", "warn", "no AVX2", do)
    elif trap:
        do = "leave --dtype alone in spec.engine.args: Tidegate says float32"
        found = f"{', '.join(trap)}: vLLM would compute in bfloat16, and some of these get it wrong"
        yield Finding("processor", "warn", found, do)
    else:
        yield Finding("processor", "ok", "AVX-512" if "avx512f" in seen.flags else "AVX2")


def _memory(seen: Readings) -> Iterator[Finding]:
    total, available = seen.memory
    found = f"{_gib(available)} of {_gib(total)} available"
    if available < GIB // 2:
        yield Finding("memory", "fail", found, "end other programs: the platform takes 0.2 GiB")
    elif available < SMALL_ENGINE:
        do = f"a small vLLM takes about {_gib(SMALL_ENGINE)}; the sim engine takes next to nothing"
        yield Finding("memory", "warn", found, do)
    else:
        yield Finding("memory", "ok", found)
    if 0 <= seen.shared < GIB // 4:
        do = "give the container more: --shm-size=1g, or an emptyDir of medium Memory"
        found = f"{_gib(seen.shared)} of shared memory, through which vLLM's processes talk"
        yield Finding("memory", "warn", found, do)


def _disks(seen: Readings) -> Iterator[Finding]:
    for disk in seen.disks:
        found = f"{disk.path}: {_gib(disk.free)} free"
        least, wanted, why = GIB // 4, 2 * GIB, "the journal, the ledger and the logs grow there"
        if disk.setting == "CACHE":
            least, wanted, why = 0, 2 * GIB, "models lie there"
            if not seen.vllm:
                wanted, why = VLLM_DISK, "vLLM takes 6 GB there, once, and models come on top"
        move = f"or set TIDEGATE_{disk.setting} to a larger disk"
        if disk.setting == "CACHE":
            move = f"`tidegate cache prune` frees some, {move}"
        if disk.error:
            do = f"make it writable for this user, or set TIDEGATE_{disk.setting}"
            yield Finding("disk", "fail", f"{disk.path}: {disk.error}", do)
        elif disk.free < least:
            yield Finding("disk", "fail", found, f"make room: {why}; {move}")
        elif disk.free < wanted:
            yield Finding("disk", "warn", found, f"make room: {why}; {move}")
        else:
            yield Finding("disk", "ok", found)


def _ports(seen: Readings) -> Iterator[Finding]:
    taken = [port for port in seen.ports if port.error]
    if taken and seen.running:
        yield Finding("ports", "ok", "in use by the platform that runs here")
        return
    for port in taken:
        do = f"end what listens there (`ss -ltnp`), or set TIDEGATE_{port.setting} (0 = any free one)"
        yield Finding("ports", "fail", f"{port.address}: {port.error}", do)
    if not taken:
        yield Finding("ports", "ok", ", ".join(port.address for port in seen.ports) + " are free")


_TOO_EARLY = 1_767_225_600.0  # 2026-01-01: before this program was written


def _clock(seen: Readings) -> Iterator[Finding]:
    do = "bills go by UTC days and months: run an NTP client (chrony, systemd-timesyncd)"
    if seen.now < _TOO_EARLY:
        yield Finding("clock", "fail", "the clock is years behind", do)
    elif seen.synchronized is False:
        yield Finding("clock", "warn", "the kernel says that nobody keeps the clock right", do)
    else:
        known = "synchronized" if seen.synchronized else "plausible"
        yield Finding("clock", "ok", known)


def _leftovers(seen: Readings) -> Iterator[Finding]:
    if seen.running:
        yield Finding("processes", "ok", "a platform runs here")
    elif seen.leftovers:
        pids = " ".join(map(str, seen.leftovers))
        found = f"{len(seen.leftovers)} of a platform that was killed still run: {pids}"
        yield Finding("processes", "warn", found, "the next `tidegate up` ends them first")
    else:
        yield Finding("processes", "ok", "nothing left over")


def _files(seen: Readings) -> Iterator[Finding]:
    if seen.files < 4096:
        do = "raise it: `ulimit -Hn 65536`, or LimitNOFILE=65536 in a unit"
        yield Finding("files", "warn", f"a process may open {seen.files} files at most", do)
    else:
        yield Finding("files", "ok", f"a process may open {seen.files} files")


def _engine(seen: Readings) -> Iterator[Finding]:
    if seen.vllm:
        yield Finding("engine", "ok", "vLLM is installed")
    elif seen.uv:
        yield Finding("engine", "ok", "vLLM is not installed yet; its first model installs it")
    else:
        do = "`pip install uv`, which installs vLLM and unpacks pkg:// models"
        yield Finding("engine", "warn", "uv is not there", do)


CHECKS: Sequence[Callable[[Readings], Iterator[Finding]]] = (
    _python, _system, _processor, _memory, _disks, _ports, _clock, _leftovers, _files, _engine,
)  # fmt: skip


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
