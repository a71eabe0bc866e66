"""Every way a setting, a flag or what a process finds can be wrong, by the row of docs/errors.md.

Each gives what the process said on stderr and its exit code. What is refused before anything runs is
asked of the process's own `main` here; what opens ports and files is a process."""

import contextlib
import io
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple
from unittest import mock

from provoked_files import GOOD
from tidegate_billing import __main__ as billing_main
from tidegate_operator.cli.app import run
from tidegate_operator.kube import process as operator_process
from tidegate_operator.local import datadir, tokens
from tidegate_runtime import app as router_app
from tidegate_runtime.contract.spec import SecretRef
from tidegate_runtime.engines.vllm.progress import SourceError

NEEDED = {"KEY_PEPPER": "p", "INTERNAL_TOKEN": "i", "ADMIN_TOKEN": "a"}
ROUTER = {
    "BILLING_URL": "http://b",
    "WORLD_URL": "http://w",
    "INTERNAL_TOKEN": "i",
    "KEY_PEPPER": "p",
}
OPERATOR = {"NAMESPACE": "n", "BILLING_URL": "http://b", "INTERNAL_TOKEN": "i", "GUARD_KEY": "g"}

PLATFORM = (
    "engines: {vllm: {image: v}, sim: {image: s}}\n"
    "routerSelector: {namespace: ns, labels: {a: b}}\n"
    "operatorSelector: {namespace: ns, labels: {a: b}}\n"
)


class Told(NamedTuple):
    """What a process said on stderr, and how it ended. -1: it is no process's end."""

    exit: int
    text: str


Provoke = Callable[[Path], Told | list[Told]]


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment with these settings and no others."""
    kept = {k: v for k, v in os.environ.items() if "TIDEGATE" not in k}
    return kept | {f"TIDEGATE_{name}": value for name, value in settings.items()}


def _here(main: Callable[[], int], settings: Mapping[str, str]) -> Told:
    """A `main` that ends before it starts anything."""
    out, err = io.StringIO(), io.StringIO()
    environ = mock.patch.dict(os.environ, environment({"DATA": "/no", **settings}), clear=True)
    with environ, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        os.environ["COLUMNS"] = "200"
        try:
            code = main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    assert out.getvalue() == "", "errors are for stderr"
    return Told(code, err.getvalue())


def tidegate(*arguments: str, **settings: str) -> Told:
    """A command."""
    return _here(lambda: run(list(arguments)), settings)


def router(*arguments: str, **settings: str) -> Told:
    """A router."""
    return _here(lambda: router_app.main(arguments, os.environ), settings)


def billing(*arguments: str, **settings: str) -> Told:
    """Billing."""
    return _here(lambda: billing_main.main(arguments), settings)


def operator(*arguments: str, **settings: str) -> Told:
    """The operator of a cluster."""
    return _here(lambda: operator_process.main(arguments, os.environ), settings)


def process(module: str, *arguments: str, **settings: str) -> Told:
    """Any of them as a process, which ends by itself."""
    done = subprocess.run(
        [sys.executable, "-Im", module, *arguments], env=environment(settings), text=True,
        capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return Told(done.returncode, done.stderr)


def up(folder: Path, *arguments: str, **settings: str) -> Told:
    """`tidegate up` of one model, on free ports unless it is told others."""
    file = folder / "m.yaml"
    file.write_text(GOOD)
    ports = {"PORT": "0", "ADMIN_PORT": "0", "OPS_PORT": "0"}
    given = {"DATA": str(folder / "data"), "CACHE": str(folder / "cache"), **ports, **settings}
    return process("tidegate_operator.cli", "up", "-f", str(file), *arguments, **given)


def ledger(folder: Path, **settings: str) -> Told:
    """Billing as a process over a database in `folder`."""
    url = {"DATABASE_URL": f"sqlite:///{folder}/billing.db", "ADMIN_PORT": "0", "OPS_PORT": "0"}
    return process("tidegate_billing", **{**NEEDED, **url, **settings})


@contextlib.contextmanager
def taken() -> Iterator[str]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        yield str(bound.getsockname()[1])


def written(path: Path, content: str | bytes) -> str:
    """A file's path, as text."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def static(folder: Path, *arguments: str, content: str | bytes = "models: []\nkeys: []\n") -> Told:
    """A router alone, as a process."""
    file = written(folder / "static.yaml", content)
    return process("tidegate_runtime", "--static", file, "--data", str(folder), *arguments)


def _ports(folder: Path) -> list[Told]:
    with taken() as port:
        return [
            up(folder, PORT=port),
            static(folder, "--port", port),
            ledger(folder, ADMIN_PORT=port),
        ]


def _data_in_use(folder: Path) -> Told:
    held = datadir.lock(folder / "data")
    try:
        return up(folder)
    finally:
        os.close(held)


def _journal_in_use(folder: Path) -> Told:
    (folder / "journal").mkdir()
    held = datadir.lock(folder / "journal")
    try:
        return static(folder, "--port", "0", "--journal-dir", str(folder / "journal"))
    finally:
        os.close(held)


def _below_a_file(folder: Path) -> str:
    return written(folder / "file", "x") + "/below"


def _newer(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        database.execute("INSERT INTO alembic_version VALUES ('9999')")
        database.commit()


def _newer_ledger(folder: Path) -> list[Told]:
    (folder / "data").mkdir()
    for place in (folder, folder / "data"):
        _newer(place / "billing.db")
    return [ledger(folder), up(folder)]


def _damaged(folder: Path) -> Told:
    written(folder / "billing.db", b"x" * 5000)
    return ledger(folder)


def _platform(*contents: str | bytes) -> Provoke:
    def provoke(folder: Path) -> list[Told]:
        files = [written(folder / f"{i}.yaml", one) for i, one in enumerate(contents)]
        return [operator(PLATFORM=file, **OPERATOR) for file in files]

    return provoke


def _backup(folder: Path) -> list[Told]:
    url = f"sqlite:///{folder}/b.db"
    target = str(folder / "no" / "copy.db")
    early = billing("backup", target, DATABASE_URL=url)
    assert process("tidegate_billing", "migrate", DATABASE_URL=url).exit == 0
    return [early, billing("backup", target, DATABASE_URL=url)]


def _urls(*urls: str) -> Provoke:
    return lambda _: [billing(DATABASE_URL=url, **NEEDED) for url in urls]


def _asked(status: int) -> Told:
    """What `key list` says of an API that answers so; 0: it hangs up."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if status:
                self.send_error(status)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        told = tidegate("key", "list", ADMIN_URL=url, ADMIN_TOKEN="wrong")
        server.shutdown()
        thread.join()
    return told


def _stale(folder: Path) -> list[Told]:
    """No platform: never one here, and one that was killed."""
    with taken() as port:
        pass
    written(folder / "run.json", f'{{"admin_url": "http://127.0.0.1:{port}"}}')
    written(folder / "admin-token", "a")
    return [tidegate("models", DATA=str(folder / "no")), tidegate("key", "list", DATA=str(folder))]


def _broken_run(folder: Path) -> list[Told]:
    told = []
    for content in ("{", "[]", "{}"):  # the last has no token beside it
        written(folder / "run.json", content)
        told.append(tidegate("models", DATA=str(folder)))
    return told


def _hub_token(folder: Path) -> list[Told]:
    found = []
    for path in ("/no/such/file", written(folder / "two", "a b")):
        try:
            tokens.of(SecretRef(name="hub"), {"HF_TOKEN_FILE": path})
        except SourceError as error:
            found.append(Told(-1, str(error)))
    return found


def _question(_: Path) -> Told:
    before, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8")
    try:
        return tidegate("chat", "m", BASE_URL="http://h", API_KEY="k")
    finally:
        sys.stdin = before


SETTINGS: dict[str, Provoke] = {
    "unknown-setting": lambda _: tidegate("models", PROT="8080"),
    "unknown-flag": lambda _: [tidegate("models", "--prot", "1"), router("--prot", "1")],
    "unknown-command": lambda _: tidegate("modles"),
    "flag-missing": lambda _: tidegate("up"),
    "flag-value": lambda _: tidegate("up", "-f", "m.yaml", "--port", "web"),
    "flags-together": lambda _: tidegate("status", "--watch", "--json"),
    "no-number": lambda _: [tidegate("up", "-f", "m.yaml", PORT="web"), router(PORT="web", **ROUTER)],
    "out-of-range": lambda _: tidegate("up", "-f", "m.yaml", PORT="70000"),
    "memory": lambda _: tidegate("up", "-f", "m.yaml", MEMORY="lots"),
    "ops-port": lambda _: tidegate("up", "-f", "m.yaml", OPS_PORT="65535"),
    "not-one-of": lambda _: [
        tidegate("up", "-f", "m.yaml", DURABILITY="most"),
        router(LOG_FORMAT="xml", **ROUTER),
    ],
    "required": lambda _: [router(), billing()],
    "secret-twice": lambda _: tidegate("models", ADMIN_TOKEN="a", ADMIN_TOKEN_FILE="b"),
    "secret-unreadable": lambda _: tidegate("models", ADMIN_TOKEN_FILE="/no/such/file"),
    "secret-empty": lambda folder: tidegate(
        "models", ADMIN_TOKEN_FILE=written(folder / "empty", "")
    ),
    "pepper": lambda _: [
        router(**{**ROUTER, "KEY_PEPPER": pepper}) for pepper in ("1:a,b", "1:a,1:b", "1:")
    ] + [billing(**{**NEEDED, "KEY_PEPPER": "1:"})],
    "world-url": lambda _: router(**{**ROUTER, "WORLD_URL": "ftp://w"}),
    "operator-arguments": lambda _: operator("--port", "1"),
    "platform-unreadable": lambda folder: operator(PLATFORM=str(folder / "no"), **OPERATOR),
    "platform-text": _platform(b"\xe4", "a: [", "---\na: 1\n---\nb: 1\n"),
    "platform-field": _platform(
        "profils: {}\n",
        f"{PLATFORM}profiles: {{}}\n",
        f"{PLATFORM}profiles: {{cpu: {{}}, a10: {{gpus: 1, device: gpu}}}}\n",
        f"{PLATFORM}profiles: {{cpu: {{}}, a10: {{gpus: 1, gpuResource: nvidia.com/gpu}}}}\n",
    ),
    "static-file": lambda folder: [
        process("tidegate_runtime", "--static", str(folder / "no.yaml")),
        static(folder, "--port", "0", content="models: ["),
        static(folder, "--port", "0", content=b"models: \xe4"),
        static(folder, "--port", "0", content="models: []\n"),
        static(folder, "--port", "0", content="---\na: 1\n---\nb: 1\n"),
    ],
    "listen-fd": lambda _: [
        billing(LISTEN_FD="999", DATABASE_URL="sqlite:////no/b.db", **NEEDED),
        process("tidegate_runtime", "--listen-fd", "999", **ROUTER),
    ],
    "database-url": _urls(
        "nonsense", "mysql://h/d", "sqlite://", "postgresql://u@/d", "postgresql://h",
        "postgresql://h/d?pool=1", "postgresql://h/d?sslmode=maybe",
    ),
    "database-closed": lambda folder: ledger(
        folder, DATABASE_URL=f"sqlite:///{_below_a_file(folder)}/b.db"
    ),
    "database-away": lambda folder: ledger(
        folder, DATABASE_URL="postgresql://u:secret@127.0.0.1:9/d"
    ),
    "database-damaged": _damaged,
    "database-newer": _newer_ledger,
    "backup": _backup,
    "port-in-use": _ports,
    "host": lambda folder: [up(folder, HOST="192.0.2.1"), up(folder, HOST="no.such.host.invalid")],
    "data-in-use": _data_in_use,
    "data-closed": lambda folder: up(folder, DATA=_below_a_file(folder)),
    "journal-in-use": _journal_in_use,
    "journal-closed": lambda folder: static(
        folder, "--port", "0", "--journal-dir", _below_a_file(folder)
    ),
    "no-platform": _stale,
    "run-file": _broken_run,
    "admin-url": lambda _: tidegate("key", "list", ADMIN_URL="host:1"),
    "admin-token": lambda _: tidegate("key", "list", ADMIN_URL="http://h"),
    "admin-token-refused": lambda _: _asked(401),
    "no-answer": lambda _: [_asked(0), _asked(500)],
    "ops-unknown": lambda _: tidegate("models", ADMIN_URL="http://h", ADMIN_TOKEN="a"),
    "base-url": lambda _: tidegate("chat", "m", BASE_URL="host:1"),
    "api-key": lambda _: tidegate("chat", "m", BASE_URL="http://h"),
    "url-port": lambda _: [
        tidegate("chat", "m", BASE_URL=url, API_KEY="k") for url in ("http://h:99999", "http://[::1")
    ],
    "key-form": lambda _: tidegate("chat", "m", BASE_URL="http://h", API_KEY="caf\xe9"),
    "question-form": _question,
    "path-form": lambda folder: up(folder, DATA="/caf\udce9"),
    "hub-token": _hub_token,
}  # fmt: skip


def seen(folder: Path, row: str) -> list[Told]:
    """Provoke a row in a folder of its own."""
    place = folder / row
    place.mkdir()
    told = SETTINGS[row](place)
    return told if isinstance(told, list) else [told]
