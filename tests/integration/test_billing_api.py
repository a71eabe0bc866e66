"""The management API's manners, and the ways the process refuses to start."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

ENVIRON = {
    "TIDEGATE_ADMIN_TOKEN": "admin-token",
    "TIDEGATE_INTERNAL_TOKEN": "internal-token",
    "TIDEGATE_KEY_PEPPER": "pepper-that-is-secret",
}
ADMIN = {"authorization": "Bearer admin-token"}
INTERNAL = {"authorization": "Bearer internal-token"}
LIVE = {
    "model": "m",
    "deployment": "d/m",
    "epoch": "live-1",
    "prompt": 1,
    "generated": 3,
    "state": "live",
    "in_flight": 1,
}


class Operator(BaseHTTPRequestHandler):
    """Answers `GET /internal/counters` as an operator does."""

    def do_GET(self) -> None:
        right = self.headers["authorization"] == INTERNAL["authorization"]
        content = json.dumps([LIVE]).encode() if self.path == "/internal/counters" else b""
        self.send_response(200 if right else 401)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def operator() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Operator) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def api(operator: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    database = tmp_path_factory.mktemp("billing") / "billing.db"
    flags = ["--port", "0", "--ops-port", "0", "--operator-url", operator]
    process = subprocess.Popen(
        [
            sys.executable,
            "-Im",
            "tidegate_billing",
            *flags,
            "--database-url",
            f"sqlite:///{database}",
        ],
        env=ENVIRON,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    ports = json.loads(process.stderr.readline())
    assert (database.stat().st_mode & 0o777) == 0o600
    with httpx.Client(base_url=f"http://127.0.0.1:{ports['port']}", headers=ADMIN) as client:
        yield client
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 0


@pytest.mark.parametrize("path", ["/api/v1/keys", "/api/v1/conservation", "/internal/snapshot"])
@pytest.mark.parametrize("token", ["", "Bearer", "Bearer wrong", "Basic admin-token"])
def test_nobody_gets_in_without_the_right_token(api: httpx.Client, path: str, token: str) -> None:
    answer = api.get(path, headers={"authorization": token})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_token"


def test_each_token_opens_its_own_part_only(api: httpx.Client) -> None:
    assert api.get("/api/v1/keys", headers=INTERNAL).status_code == 401
    assert api.put("/internal/models", json=[], headers=ADMIN).status_code == 401


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/api/v1/usage", "tenant"),
        ("/api/v1/usage?tenant=", "tenant"),
        ("/api/v1/usage?tenant=t&tenant=u", "tenant"),
        ("/api/v1/usage?tenant=t&from=2026-13-01", "from"),
        ("/api/v1/usage?tenant=t&from=2026-02-30", "from"),
        ("/api/v1/usage?tenant=t&to=20260201", "to"),
        ("/api/v1/usage?tenant=t&from=2026-02-02&to=2026-02-01", "from"),
        ("/api/v1/usage?tenant=t&by=model,colour", "by"),
        ("/api/v1/usage?tenant=t&form=2026-02-02", "form"),
        ("/api/v1/invoices/2026-13?tenant=t", "month"),
        ("/api/v1/invoices/0000-01?tenant=t", "month"),
        ("/api/v1/invoices/9999-12?tenant=t", "month"),
        ("/api/v1/invoices/2026-12", "tenant"),
        ("/api/v1/events?kind=probe", "kind"),
        ("/api/v1/events?limit=0", "limit"),
        ("/api/v1/events?limit=x", "limit"),
        ("/api/v1/events?after=nothing", "after"),
        ("/api/v1/keys?after=key_0", "after"),
        ("/api/v1/conservation?after=nothing", "after"),
        ("/api/v1/keys?revoked=yes", "revoked"),
        ("/api/v1/tenants?limit=1001", "limit"),
    ],
)
def test_a_bad_parameter_is_named(api: httpx.Client, path: str, param: str) -> None:
    answer = api.get(path)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert param in error["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"project": "p"}, "tenant"),
        ({"tenant": "Team A"}, "tenant"),
        ({"tenant": "-a"}, "tenant"),
        ({"tenant": ".a"}, "tenant"),
        ({"tenant": "_a"}, "tenant"),
        ({"tenant": "a\n"}, "tenant"),
        ({"tenant": "a/b"}, "tenant"),
        ({"tenant": "a", "project": "Team A"}, "project"),
        ({"tenant": "a" * 64}, "tenant"),
        ({"tenant": "a", "project": "ü"}, "project"),
        ({"tenant": "a", "name": "x\n"}, "name"),
        ({"tenant": 5}, "tenant"),
        ({"tenant": "a", "colour": "red"}, "colour"),
    ],
)
def test_a_bad_field_is_named(api: httpx.Client, body: dict[str, object], param: str) -> None:
    answer = api.post("/api/v1/keys", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_names_may_have_capitals_dots_and_underscores(api: httpx.Client) -> None:
    for tenant, project in (("Team.A_1-", "Prod_v1.2"), ("A" * 63, "0"), ("a", "b" * 63)):
        made = api.post("/api/v1/keys", json={"tenant": tenant, "project": project, "name": tenant})
        assert made.status_code == 201, made.text
        assert (made.json()["tenant"], made.json()["project"]) == (tenant, project)
        assert api.get("/api/v1/usage", params={"tenant": tenant}).status_code == 200
    wrong = api.post("/api/v1/tenants", json={"name": "a b"}).json()["error"]
    assert wrong["message"].startswith("name: 'a b' is not a name; allowed: 1 to 63 characters")


def test_what_is_not_there(api: httpx.Client) -> None:
    assert api.post("/api/v1/keys", content=b"{").json()["error"]["code"] == "invalid_json"
    assert api.delete("/api/v1/keys/key_none").json()["error"]["code"] == "key_not_found"
    missing = api.get("/api/v1/usage?tenant=nobody")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "tenant_not_found")
    assert api.get("/api/v2").json()["error"]["code"] == "unknown_route"
    assert api.patch("/api/v1/keys").status_code == 405


def test_lists_are_paged_and_never_show_a_key(api: httpx.Client) -> None:
    assert api.post("/api/v1/tenants", json={"name": "paged"}).status_code == 201
    assert api.post("/api/v1/tenants", json={"name": "paged"}).status_code == 409
    made = [api.post("/api/v1/keys", json={"tenant": "paged"}).json() for _ in range(3)]
    first = api.get("/api/v1/keys?tenant=paged&limit=2").json()
    assert first["has_more"] is True
    last = first["data"][-1]["id"]
    rest = api.get(f"/api/v1/keys?tenant=paged&limit=2&after={last}").json()
    assert rest["has_more"] is False
    assert [key["id"] for key in first["data"] + rest["data"]] == [key["id"] for key in made]
    assert not any("key" in key or "digest" in key for key in first["data"])
    api.delete(f"/api/v1/keys/{made[0]['id']}").raise_for_status()
    assert len(api.get("/api/v1/keys?tenant=paged").json()["data"]) == 2
    assert len(api.get("/api/v1/keys?tenant=paged&revoked=true").json()["data"]) == 3
    assert "paged" in [tenant["id"] for tenant in api.get("/api/v1/tenants").json()["data"]]


def test_a_running_engine_is_read_live(api: httpx.Client) -> None:
    (row,) = api.get("/api/v1/conservation").json()["data"]
    assert row["epoch"] == "live-1"
    assert (row["generated"], row["unbilled"], row["unexplained"]) == (3, {"in_flight": 3}, 0)


def test_the_document_describes_every_route(api: httpx.Client) -> None:
    paths = api.get("/api/v1/openapi.json").json()["paths"]
    operations = [(path, method) for path, methods in paths.items() for method in methods]
    assert len(operations) > 30
    for path, method in operations:
        answer = api.request(method, path.format(id="x", name="x", month="2026-01"), json={})
        assert answer.status_code != 405
        assert answer.is_success or answer.json()["error"]["code"] != "unknown_route"


@pytest.mark.parametrize(
    ("environ", "flags", "said"),
    [
        ({"TIDEGATE_NONSENSE": "1"}, [], "TIDEGATE_NONSENSE is not a setting"),
        ({"TIDEGATE_ADMIN_TOKEN": ""}, [], "TIDEGATE_ADMIN_TOKEN is not set"),
        ({"TIDEGATE_KEY_PEPPER": "1:"}, [], "TIDEGATE_KEY_PEPPER: pepper 1 is empty"),
        ({}, ["--port", "70000"], "TIDEGATE_ADMIN_PORT='70000' is out of range"),
        ({"TIDEGATE_LOG_LEVEL": "loud"}, [], "TIDEGATE_LOG_LEVEL='loud'"),
        (
            {},
            ["--database-url", "postgresql://u:pepper-that-is-secret@127.0.0.1:1/d"],
            "the database can't be reached",
        ),
        ({}, ["--database-url", "postgresql:///d"], "DATABASE_URL: postgresql names no host"),
        ({}, ["--database-url", "postgresql://h"], "DATABASE_URL: postgresql names no database"),
        ({}, ["--database-url", "mysql://h/d"], "DATABASE_URL: mysql is not supported"),
        ({}, ["--listen-fd", "999"], "TIDEGATE_LISTEN_FD=999 is no socket"),
        (
            {},
            ["--database-url", "sqlite:////proc/none/b.db"],
            "/proc/none/b.db can't be opened: No such",
        ),
    ],
)
def test_a_bad_start_is_one_line_and_exit_code_1(
    environ: dict[str, str], flags: list[str], said: str, tmp_path: Path
) -> None:
    base = ["--port", "0", "--ops-port", "0", "--database-url", f"sqlite:///{tmp_path}/b.db"]
    ended = _start([*base, *flags], environ)
    assert ended.returncode == 1
    assert said in ended.stderr
    assert ended.stderr.startswith("tidegate billing: ")
    assert ended.stderr.count("\n") == 1
    assert "pepper-that-is-secret" not in ended.stderr


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        flags = ["--port", str(port), "--database-url", f"sqlite:///{tmp_path}/b.db"]
        ended = _start(flags, {})
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        (
            f"tidegate billing: can't listen on 127.0.0.1:{port}: Address already in use"
            " (setting: TIDEGATE_ADMIN_PORT)"
        )
    ]


def _start(flags: list[str], environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-Im", "tidegate_billing", *flags],
        env={**ENVIRON, **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_it_ends_with_the_supervisor_that_started_it(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'billing.db'}"
    flags = ["--port", "0", "--ops-port", "0", "--database-url", database]
    supervisor = (
        "import os, subprocess, sys\n"
        "os.environ['_TIDEGATE_PARENT'] = str(os.getpid())\n"
        "subprocess.Popen(sys.argv[1:])\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", supervisor, sys.executable, "-Im", "tidegate_billing", *flags],
        env=ENVIRON,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as parent:
        assert parent.stderr is not None
        assert json.loads(parent.stderr.readline())["event"] == "serving"
        parent.kill()
        # The child holds the other end: this ends when it does, and it says that it was told to.
        told = [json.loads(line)["event"] for line in parent.stderr]
    assert told == ["stopping", "stopped"]
