"""Runs `local.run` as a process of its own: `python up_driver.py real|fake DATA PORT ROUTERS FILE...`.

Events go to stdout as NDJSON. `UP_MEMORY_MIB` and `UP_MINIMUM_IDLE` are two more of its options. With `fake`, router and billing are the stand-ins of `fake_part`.
"""

import os
import sys
from pathlib import Path

import msgspec

from tidegate_operator import local
from tidegate_operator.local import composition

HERE = Path(__file__).resolve().parent


def report(event: local.Event) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(event) + b"\n")
    sys.stdout.buffer.flush()


def main(kind: str, data: str, port: str, routers: str, *files: str) -> int:
    if kind == "fake":
        program = str(HERE / "fake_part.py")
        composition.ROUTER = (sys.executable, program, "router")
        composition.BILLING = (sys.executable, program, "billing")
    options = local.UpOptions(
        files=tuple(Path(file) for file in files),
        data=Path(data),
        cache=Path(data).parent / "cache",
        port=int(port),
        admin_port=0,
        ops_port=0,
        routers=int(routers),
        memory=int(os.environ.get("UP_MEMORY_MIB", "0")) << 20,
        minimum_idle=float(os.environ.get("UP_MINIMUM_IDLE", "10")),
    )
    return local.run(options, report)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
