"""`tidegate up` under a service manager: a real process, told ready, told stopping, gone with 0."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from up_process import eventually, marked, model


def test_a_service_says_when_it_is_ready_and_when_it_stops(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text(model("tiny"))
    keep = {name: value for name, value in os.environ.items() if "TIDEGATE" not in name}
    data = tmp_path / "data"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(40)
        environ = keep | {
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "TIDEGATE_DATA": str(data),
            "TIDEGATE_CACHE": str(tmp_path / "cache"),
            "TIDEGATE_LOG_FORMAT": "text",
            **{f"TIDEGATE_{name}": "0" for name in ("PORT", "ADMIN_PORT", "OPS_PORT")},
        }
        with (tmp_path / "out").open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "tidegate_operator.cli", "up", "-f", str(tmp_path / "models.yaml")],
                env=environ, stdout=out, stderr=out,
            )  # fmt: skip
        heard: list[str] = []

        def told(word: str) -> str:
            while not any(word in one for one in heard):
                heard.append(manager.recv(4096).decode())
            return next(one for one in heard if word in one)

        try:
            assert "STATUS=serving on http://127.0.0.1:" in told("READY=1")
            told("models: 1 Idle")
            children = list(marked(data))
            assert children
            for pid in children:
                assert b"NOTIFY_SOCKET" not in Path(f"/proc/{pid}/environ").read_bytes()
            process.send_signal(signal.SIGTERM)
            told("STOPPING=1")
            assert process.wait(40) == 0
        finally:
            process.kill()
            process.wait()
    eventually(lambda: not list(marked(data)))
    lines = (tmp_path / "out").read_text().splitlines()
    assert lines[-2:] == ["stopping: what runs may finish", "stopped"]
    logged = "".join(path.read_text() for path in (data / "logs").iterdir())
    assert not any(line.startswith("{") for line in logged.splitlines())
