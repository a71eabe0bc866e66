"""The billing process for tests: real sockets, a real database, real signals."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec

from postgres import Server
from tidegate_billing.links import UsageAck, UsageBatch

PEPPER = "1:old-pepper,2:new-pepper"
ENVIRON = {
    "PATH": os.environ["PATH"],
    "TIDEGATE_ADMIN_TOKEN": "admin-token",
    "TIDEGATE_INTERNAL_TOKEN": "internal-token",
    "TIDEGATE_KEY_PEPPER": PEPPER,
}
ADMIN = {"authorization": "Bearer admin-token"}
INTERNAL = {"authorization": "Bearer internal-token"}


def command(*flags: str) -> list[str]:
    return [sys.executable, "-Im", "tidegate_billing", *flags]


@dataclass
class Billing:
    """One database, and the process that serves it; its sockets outlive the process."""

    directory: Path
    database_url: str
    server: Server | None = None
    flags: list[str] = field(default_factory=list)
    management: socket.socket = field(
        default_factory=lambda: socket.create_server(("127.0.0.1", 0))
    )
    ops: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    process: subprocess.Popen[bytes] | None = None

    def query(self, statement: str) -> list[list[str]]:
        """Rows of the database as text, by a way of their own."""
        if self.server is not None:
            answer = self.server.sql(self.database_url.rpartition("/")[2], statement)
            return [line.split("|") for line in answer.splitlines()]
        rows = sqlite3.connect(self.database_url.removeprefix("sqlite:///"))
        try:
            return [[str(value) for value in row] for row in rows.execute(statement)]
        finally:
            rows.close()

    @contextmanager
    def tampered(self, statement: str) -> Iterator[None]:
        """Do to SQLite's file what no route can, and undo it."""
        path = Path(self.database_url.removeprefix("sqlite:///"))
        rows = sqlite3.connect(path)
        triggers = rows.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        for name, _ in (kept := triggers.fetchall()):
            rows.execute(f"DROP TRIGGER {name}")
        copies = {
            table: rows.execute(f"SELECT * FROM {table}").fetchall()
            for table in ("event", "rollup_day", "outbox")
        }
        try:
            with rows:
                assert rows.execute(statement).rowcount > 0
            yield
        finally:
            with rows:
                for table, copy in copies.items():
                    rows.execute(f"DELETE FROM {table}")
                    marks = ", ".join("?" * len(copy[0]))
                    rows.executemany(f"INSERT INTO {table} VALUES ({marks})", copy)
                for _, text in kept:
                    rows.execute(text)
            rows.close()

    def contents(self) -> bytes:
        """Everything that the database holds."""
        if self.server is not None:
            return self.server.tool("pg_dump", "-d", self.database_url).stdout
        path = Path(self.database_url.removeprefix("sqlite:///"))
        return b"".join(file.read_bytes() for file in path.parent.glob(path.name + "*"))

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.management.getsockname()[1]}{path}"

    def ops_url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.ops.getsockname()[1]}{path}"

    def start(self) -> None:
        descriptors = (self.management.fileno(), self.ops.fileno())
        sockets = ["--listen-fd", str(descriptors[0]), "--ops-fd", str(descriptors[1])]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command(*sockets, "--database-url", self.database_url, *self.flags),
                env=ENVIRON,
                pass_fds=descriptors,
                stderr=log,
            )
        # Connections wait in the socket's queue: the first answer is the readiness.
        assert httpx.get(self.ops_url("/readyz"), timeout=20).status_code == 200

    def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(timeout=20)
        self.process = None
        return code

    def close(self) -> None:
        if self.process is not None:
            self.end(signal.SIGKILL)
        self.management.close()
        self.ops.close()

    def get(self, path: str, **params: str) -> httpx.Response:
        return httpx.get(self.url(path), params=params, headers=ADMIN)

    def metric(self, name: str) -> str:
        text = httpx.get(self.ops_url("/metrics")).text
        return next(line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith(name))

    def send(self, batch: UsageBatch, unacked: int = 0) -> UsageAck:
        headers = {**INTERNAL, "x-journal-unacked": str(unacked)}
        content = msgspec.json.encode(batch)
        answer = httpx.post(self.url("/internal/usage"), content=content, headers=headers)
        assert answer.status_code == 200, answer.text
        return msgspec.json.decode(answer.content, type=UsageAck)

    def put(self, path: str, content: object, method: str = "PUT") -> httpx.Response:
        encoded = msgspec.json.encode(content)
        answer = httpx.request(method, self.url(path), content=encoded, headers=INTERNAL)
        assert answer.is_success, answer.text
        return answer

    def key(self, **values: str) -> dict[str, str]:
        wanted = {"tenant": "team-b", "project": "web", "name": "ci", **values}
        answer = httpx.post(self.url("/api/v1/keys"), json=wanted, headers=ADMIN)
        assert answer.status_code == 201, answer.text
        made: dict[str, str] = answer.json()
        return made
