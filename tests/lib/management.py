"""A billing process on free ports, and its management API as several callers use it."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from running import wait_for

ADMIN_TOKEN = "admin-token"
INTERNAL_TOKEN = "internal-token"


@dataclass
class Management:
    """A running billing process. `admin` asks with the admin token."""

    url: str
    admin: httpx.Client
    database: Path
    log: Path
    process: subprocess.Popen[bytes]

    def post(self, path: str, body: dict[str, Any], **headers: str) -> dict[str, Any]:
        answer = self.admin.post("/api/v1" + path, json=body, headers=named(headers))
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def get(self, path: str, **query: str) -> dict[str, Any]:
        answer = self.admin.get("/api/v1" + path, params=query)
        assert answer.status_code == 200, answer.text
        got: dict[str, Any] = answer.json()
        return got

    def account(self, role: str, **place: str) -> httpx.Client:
        """A client that bears the token of a new service account."""
        made = self.post("/service-accounts", {"name": role, "role": role, **place})
        return self.bearer(made["token"])

    def bearer(self, token: str) -> httpx.Client:
        headers = {"authorization": f"Bearer {token}"}
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False)


def named(headers: dict[str, str]) -> dict[str, str]:
    """Keyword arguments as header names."""
    return {name.replace("_", "-"): value for name, value in headers.items()}


@contextlib.contextmanager
def running(folder: Path, pepper: str = "1:pepper-one") -> Iterator[Management]:
    """Billing over a database in `folder`, until the block ends."""
    database, log = folder / "billing.db", folder / "billing.log"
    command = [
        sys.executable, "-Im", "tidegate_billing", "--port", "0", "--ops-port", "0",
        "--database-url", f"sqlite:///{database}",
    ]  # fmt: skip
    environ = {
        "TIDEGATE_ADMIN_TOKEN": ADMIN_TOKEN,
        "TIDEGATE_INTERNAL_TOKEN": INTERNAL_TOKEN,
        "TIDEGATE_KEY_PEPPER": pepper,
    }
    with log.open("ab") as out:
        process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=out)
    try:
        url = f"http://127.0.0.1:{_port(process, log)}"
        headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
        with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=20) as admin:
            yield Management(url, admin, database, log, process)
    finally:
        process.terminate()
        assert process.wait(20) == 0, log.read_text()
        assert "Traceback" not in log.read_text()


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    """The port, once it is served; the log may hold the lines of earlier lives."""

    def serving() -> int:
        assert process.poll() is None, log.read_text()
        told = [json.loads(line) for line in log.read_text().splitlines() if '"serving"' in line]
        return next((int(one["port"]) for one in told if one["pid"] == process.pid), 0)

    return int(wait_for(serving, "billing serves"))
