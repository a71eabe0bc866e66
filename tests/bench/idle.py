"""What `tidegate up` costs with ten idle models: CPU and memory over all its processes.

    .venv/bin/python tests/bench/idle.py [--models 10] [--seconds 30]

One JSON line: `cpu_percent` of one core, `pss_mb`, and both by process. Nothing is asked of it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import load

SETTLE_SECONDS = 5.0
DOCUMENT = """---
apiVersion: tidegate.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: idle-{n}}}
spec:
  model: {{uri: "sim://idle-{n}"}}
  engine: {{type: sim}}
  pricing: {{currency: USD, inputPerMillion: "0.1", outputPerMillion: "0.4"}}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tidegate-idle-") as folder:
        file = Path(folder) / "models.yaml"
        file.write_text("".join(DOCUMENT.format(n=n) for n in range(options.models)))
        command = [sys.executable, "-Im", "tidegate_operator.cli", "up", "--json", "-f", str(file)]
        command += ["--data", f"{folder}/data", "--port", "0", "--admin-port", "0"]
        process = subprocess.Popen(
            [*command, "--ops-port", "0"], stdout=subprocess.PIPE, start_new_session=True
        )
        try:
            print(json.dumps(measure(process, options.models, options.seconds)))
        finally:
            load.stop(process)
    return 0


def measure(process: subprocess.Popen[bytes], models: int, seconds: float) -> dict[str, object]:
    """Wait until it is ready and has settled, then watch. Raises RuntimeError where it ends."""
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "ready":
            break
    else:
        raise RuntimeError("`tidegate up` ended before it was ready")
    time.sleep(SETTLE_SECONDS)
    parts = {pid: name(pid) for pid in load.tree(process.pid)}
    before = {pid: sum(own(pid).values()) for pid in parts}
    began = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    spent = {pid: (sum(own(pid).values()) - before[pid]) / took / 1e7 for pid in parts}
    return {
        "models": models,
        "cpu_percent": round(sum(spent.values()), 3),
        "pss_mb": round(load.pss_mb(process.pid), 1),
        "processes": [
            {"name": parts[pid], "cpu_percent": round(spent[pid], 3), "pss_mb": memory(pid)}
            for pid in parts
        ],
    }


def own(pid: int) -> dict[str, int]:
    """Nanoseconds by thread of one process, its children left out."""
    spent = {}
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        spent[path.parent.name] = int(path.read_text().split()[0])
    return spent


def memory(pid: int) -> float:
    """Proportional memory of one process, in MB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return round(int(line.split()[1]) / 1024, 1)
    return 0.0


def name(pid: int) -> str:
    """The module that a process runs."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    return words[words.index("-Im") + 1] if "-Im" in words else words[0]


if __name__ == "__main__":
    sys.exit(main())
