"""Takes the readings that `checkup` judges. Looks only: what it tries, it undoes at once."""

import ctypes
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tidegate_operator.local import datadir, leftovers, machine, sockets
from tidegate_operator.local.checkup import Disk, Port, Readings
from tidegate_operator.local.options import UpOptions
from tidegate_runtime.engines.vllm import environment, tool
from tidegate_runtime.engines.vllm.progress import InstallError

_UNSYNCHRONIZED = 5  # TIME_ERROR of adjtimex(2)


def take(options: UpOptions) -> Readings:
    """The machine as `tidegate up` with these options would find it."""
    running = _running(options.data)
    return Readings(
        python=sys.version_info[:2],
        system=platform.system(),
        processor=platform.machine(),
        flags=_flags(),
        cores=len(os.sched_getaffinity(0)),
        memory=machine.memory(),
        disks=[_disk("DATA", options.data), _disk("CACHE", options.cache)],
        ports=_ports(options),
        now=time.time(),
        synchronized=_synchronized(),
        running=running,
        leftovers=[] if running else _leftovers(options.data),
        files=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        shared=_free(Path("/dev/shm")) if Path("/dev/shm").is_dir() else -1,  # noqa: S108 - its size
        vllm=environment.find(options.cache) is not None,
        uv=_has_uv(),
    )


def _flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    line = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(line.partition(":")[2].split())


def _running(data: Path) -> bool:
    if not (data / "lock").exists():
        return False
    try:
        os.close(datadir.lock(data))
    except datadir.DataInUseError:
        return True
    except OSError:
        return False
    return False


def _leftovers(data: Path) -> list[int]:
    found = leftovers.living(leftovers.recorded(data)) | leftovers.marked(data)
    return sorted(one.pid for one in found)


def _disk(setting: str, path: Path) -> Disk:
    """Looks at the directory, or at the nearest one above it that exists."""
    place = next(one for one in (path, *path.parents) if _there(one))
    try:
        with tempfile.TemporaryFile(dir=place):
            return Disk(setting, path, _free(place))
    except OSError as error:
        return Disk(setting, path, _free(place), f"cannot be written: {error.strerror}")


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        return False


def _free(path: Path) -> int:
    return shutil.disk_usage(path).free


def _ports(options: UpOptions) -> list[Port]:
    wanted = [
        ("PORT", options.host, options.port),
        ("ADMIN_PORT", sockets.LOOPBACK, options.admin_port),
    ]
    operations = options.ops_port
    wanted += [
        ("OPS_PORT", sockets.LOOPBACK, operations + offset if operations else 0)
        for offset in range(3)
    ]
    return [_port(*one) for one in wanted]


def _port(setting: str, host: str, port: int) -> Port:
    address = f"{host}:{port}" if port else f"{host}: any port"
    try:
        sockets.listen(host, port, setting).close()
    except sockets.PortInUseError as error:
        why = error.__cause__
        text = why.strerror if isinstance(why, OSError) and why.strerror else str(error)
        return Port(setting, address, text)
    return Port(setting, address)


def _synchronized() -> bool | None:
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _UNSYNCHRONIZED


def _has_uv() -> bool:
    try:
        tool.uv()
    except InstallError:
        return False
    return True
