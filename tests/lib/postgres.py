"""A real PostgreSQL for tests: the system's own server, in a directory and on a port of its own."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

USER = "tidegate"
PASSWORD = "not-a-secret"
START_SECONDS = 30.0


def binaries() -> Path | None:
    """Where the newest installed server's programs are."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    installed = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4])
    )
    return installed[-1].parent if installed else None


class Server:
    """One server. It may be killed and started again; its data stay until `remove`."""

    def __init__(
        self, *, durable: bool = False, host: str = "127.0.0.1", network: str = ""
    ) -> None:
        """`durable`: with fsync, as a ledger needs it; without, as most tests can do. `host`: the
        address it listens on, for clients of `network` too."""
        found = binaries()
        assert found is not None, "PostgreSQL is not installed; try `apt-get install postgresql`"
        self._bin = found
        self._root = Path(tempfile.mkdtemp(prefix="tidegate-postgres-"))
        self._data = self._root / "data"
        self._durable = durable
        self.host = host
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server((host, 0)) as chosen:
            self.port = int(chosen.getsockname()[1])
        password = self._root / "password"
        password.write_text(PASSWORD)
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            for path in (self._root, password):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        subprocess.run(
            [
                *self._as_owner(),
                *(self._bin / "initdb", "-D", self._data, "-U", USER, f"--pwfile={password}"),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync"),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self._root,
        )

        if network:
            with (self._data / "pg_hba.conf").open("a") as rules:
                rules.write(f"host all all {network} scram-sha-256\n")

    def _as_owner(self) -> list[str]:
        """The server never runs as root."""
        if os.geteuid() != 0:
            return []
        return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]

    def start(self) -> None:
        """Start it, and wait until it answers."""
        fast = [] if self._durable else ["-c", "fsync=off", "-c", "full_page_writes=off"]
        log = (self._root / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [
                    *self._as_owner(),
                    *(self._bin / "postgres", "-D", self._data, "-p", str(self.port)),
                    *(
                        "-c",
                        f"listen_addresses={self.host}",
                        "-c",
                        f"unix_socket_directories={self._root}",
                    ),
                    *("-c", "max_connections=60", "-c", "shared_buffers=256MB"),
                    *("-c", "max_wal_size=4GB", *fast),
                ],
                stderr=log,
                stdout=log,
                cwd=self._root,
                start_new_session=True,
            )
        until = time.monotonic() + START_SECONDS
        ready = [self._bin / "pg_isready", "-q", "-h", self.host, "-p", str(self.port)]
        while subprocess.run(ready, check=False).returncode != 0:
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < until, self.log()
            time.sleep(0.02)

    @property
    def pid(self) -> int:
        """The postmaster, which is the leader of its session."""
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """What the server said."""
        return (self._root / "log").read_text()

    def kill(self) -> None:
        """End it at once, as a power cut would: the next start recovers from its log."""
        self._end(signal.SIGQUIT)

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGINT)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=60)
            self._process = None

    def remove(self) -> None:
        """End it and delete its data."""
        self.kill()
        shutil.rmtree(self._root)

    def url(self, database: str) -> str:
        """The URL of one of its databases."""
        return f"postgresql://{USER}:{PASSWORD}@{self.host}:{self.port}/{database}"

    def create(self, database: str, template: str = "template1") -> str:
        """Make a database; its URL."""
        self.sql("postgres", f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        return self.url(database)

    def drop(self, database: str) -> None:
        """Remove a database, with whoever is connected to it."""
        self.sql("postgres", f'DROP DATABASE "{database}" WITH (FORCE)')

    def sql(self, database: str, statement: str) -> str:
        """Run a statement by psql, which shares nothing with what is tested; its answer."""
        done = subprocess.run(
            [
                *(self._bin / "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"),
                *("-d", self.url(database), "-c", statement),
            ],
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def tool(self, name: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Run one of PostgreSQL's programs (`pg_dump`)."""
        return subprocess.run(
            [self._bin / name, *arguments], check=True, capture_output=True, cwd="/"
        )
