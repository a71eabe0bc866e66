"""The command line against a management API on a real socket: shapes, requests, errors, statuses."""

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest

from tidegate_operator.cli import PARTS, become
from tidegate_operator.cli.app import run

TOKEN = "an-admin-token"
ROW = {"model": "m", "key_id": None, "day": None, "requests": 2, "prompt_tokens": 7}
USAGE = {"data": [ROW | {"amount_exact": "0.000007", "currency": "USD"}], "unshipped": 0}
INVOICE = {"tenant": "t", "period": "2025-01", "currency": "USD", "lines": [], "total": "0.00"}


class Asked(NamedTuple):
    method: str
    path: str
    query: dict[str, list[str]]
    body: Any


class Api(ThreadingHTTPServer):
    """Answers by path, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[Asked] = []
        self.answers: dict[str, tuple[int, Any]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Api

    def answer(self) -> None:
        length = int(self.headers.get("content-length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        url = urlsplit(self.path)
        self.server.asked.append(Asked(self.command, url.path, parse_qs(url.query), body))
        status, value = self.server.answers.get(url.path, (404, {"error": {"message": "no"}}))
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            status, value = 401, {"error": {"message": "wrong or missing token"}}
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_DELETE = answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    for name in [name for name in os.environ if name.startswith("TIDEGATE_")]:
        monkeypatch.delenv(name)
    with Api() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        (tmp_path / "admin-token").write_text(TOKEN + "\n")
        run_json = {"version": 1, "admin_url": server.url, "operator": {"ops_url": server.url}}
        (tmp_path / "run.json").write_text(json.dumps(run_json))
        monkeypatch.setenv("TIDEGATE_DATA", str(tmp_path))
        yield server
        server.shutdown()
        thread.join()


def status_of(*arguments: str) -> int:
    try:
        return run(list(arguments))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


def test_key_create_shows_what_the_api_made(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    made = {"id": "k1", "key": "sk-x", "prefix": "sk-x", "tenant": "t", "project": "p"}
    api.answers["/api/v1/keys"] = (201, made)
    args = ("key", "create", "--tenant", "t", "--project", "p", "--name", "n")
    assert status_of(*args, "--json") == 0
    assert json.loads(capsys.readouterr().out) == made
    assert api.asked[-1].body == {"tenant": "t", "project": "p", "name": "n"}
    assert status_of(*args) == 0
    assert capsys.readouterr().out == "sk-x\n"


def test_key_list_and_revoke(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.answers["/api/v1/keys"] = (200, {"data": [{"id": "k1", "tenant": "t"}]})
    api.answers["/api/v1/keys/k1"] = (200, {"id": "k1", "revoked_at": "now"})
    assert status_of("key", "list", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"data": [{"id": "k1", "tenant": "t"}]}
    assert status_of("key", "list") == 0
    assert "k1" in capsys.readouterr().out
    assert status_of("key", "revoke", "k1") == 0
    assert api.asked[-1][:2] == ("DELETE", "/api/v1/keys/k1")


def test_lists_are_read_page_by_page(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = iter([{"data": [{"id": "a"}], "has_more": True}, {"data": [{"id": "b"}]}])

    class Pages(dict[str, tuple[int, Any]]):
        def get(self, path: str, default: Any = None) -> Any:
            return 200, next(pages)

    monkeypatch.setattr(api, "answers", Pages())
    assert status_of("key", "list", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"data": [{"id": "a"}, {"id": "b"}]}
    assert [asked.query.get("after") for asked in api.asked] == [None, ["a"]]


def test_usage_passes_its_grouping_and_days(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.answers["/api/v1/usage"] = (200, USAGE)
    days = ("--from", "2025-01-01", "--to", "2025-02-01")
    assert status_of("usage", "--tenant", "t", *days, "--by", "model,day", "--json") == 0
    assert json.loads(capsys.readouterr().out) == USAGE
    assert api.asked[-1].query == {
        "tenant": ["t"],
        "from": ["2025-01-01"],
        "to": ["2025-02-01"],
        "by": ["model,day"],
    }
    assert status_of("usage", "--tenant", "t") == 0
    assert "0.000007" in capsys.readouterr().out


def test_invoice_and_models(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    models = {"data": [{"name": "m", "phase": "Idle", "ready": 0, "desired": 0}]}
    api.answers["/api/v1/invoices/2025-01"] = (200, INVOICE)
    api.answers["/api/v1/models"] = (200, models)
    assert status_of("invoice", "--tenant", "t", "--month", "2025-01", "--json") == 0
    assert json.loads(capsys.readouterr().out) == INVOICE
    assert status_of("invoice", "--tenant", "t", "--month", "2025-01") == 0
    assert "total 0.00 USD" in capsys.readouterr().out
    assert status_of("models", "--json") == 0
    assert json.loads(capsys.readouterr().out) == models


@pytest.mark.parametrize(
    "arguments",
    [
        ("usage", "--tenant", "t", "--from", "20250101"),
        ("usage", "--tenant", "t", "--to", "2025-02-30"),
        ("usage", "--tenant", "t", "--by", "tenant"),
        ("usage", "--tenant", "t", "--by", "day,day"),
        ("usage",),
        ("invoice", "--tenant", "t", "--month", "2025-13"),
        ("demo", "--engine", "gpt"),
        ("demo", "--wakes", "0"),
        ("up",),
        ("nonsense",),
    ],
)
def test_bad_use_is_2(
    arguments: tuple[str, ...], api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(*arguments) == 2
    assert capsys.readouterr().out == ""
    assert api.asked == []


def one_line_and_1(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    assert status_of(*arguments) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    return shown.err


def test_errors_of_the_api_are_one_line(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.answers["/api/v1/usage"] = (404, {"error": {"message": "no tenant 't'"}})
    assert "no tenant 't'" in one_line_and_1(("usage", "--tenant", "t"), capsys)
    api.answers["/api/v1/usage"] = (500, "?")
    assert "answered 500" in one_line_and_1(("usage", "--tenant", "t"), capsys)


def test_a_wrong_token_is_said(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "admin-token").write_text("another")
    err = one_line_and_1(("key", "list"), capsys)
    assert "admin token" in err
    assert "another" not in err


def test_no_platform_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TIDEGATE_DATA", raising=False)
    err = one_line_and_1(("models", "--data", str(tmp_path)), capsys)
    assert "no platform is running" in err
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        url = f"http://127.0.0.1:{closed.server_address[1]}"
    (tmp_path / "admin-token").write_text(TOKEN)
    (tmp_path / "run.json").write_text(json.dumps({"admin_url": url}))
    assert "no platform is running" in one_line_and_1(
        ("key", "list", "--data", str(tmp_path)), capsys
    )
    (tmp_path / "run.json").write_text("{")
    assert "run.json" in one_line_and_1(("key", "list", "--data", str(tmp_path)), capsys)


def test_an_address_needs_its_token(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers["/api/v1/keys"] = (200, {"data": []})
    monkeypatch.delenv("TIDEGATE_DATA")
    args = ("key", "list", "--admin-url", api.url)
    assert "TIDEGATE_ADMIN_TOKEN" in one_line_and_1(args, capsys)
    monkeypatch.setenv("TIDEGATE_ADMIN_TOKEN", TOKEN)
    assert status_of(*args, "--json") == 0


def test_an_unknown_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDEGATE_PROT", "8080")
    assert "TIDEGATE_PROT" in one_line_and_1(("models",), capsys)


@pytest.mark.parametrize("part", sorted(PARTS))
def test_parts_become_their_own_process(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def execv(path: str, arguments: list[str]) -> None:
        seen.extend([path, arguments])
        raise SystemExit(0)

    monkeypatch.setattr(os, "execv", execv)
    with pytest.raises(SystemExit):
        become(part, ["--port", "1"])
    assert seen == [sys.executable, [sys.executable, "-Im", PARTS[part], "--port", "1"]]
    seen.clear()
    assert status_of(part, "--port", "1", "--help") == 0
    assert seen == [sys.executable, [sys.executable, "-Im", PARTS[part], "--port", "1", "--help"]]


def test_help_says_which_ports_routers_have(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert status_of("up", "--help") == 0
    assert "the first has the gateway's port" in capsys.readouterr().out


def test_help_is_quick_because_it_loads_no_part() -> None:
    code = (
        "import sys; sys.argv = ['tidegate', '--help']\n"
        "from tidegate_operator.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'httpx', 'openai', 'sqlmodel', 'starlette', 'uvicorn', 'celpy'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-Ic", code], capture_output=True, check=True)
    assert done.stderr.decode().strip() == "[]"


def test_the_console_script_is_executable() -> None:
    script = Path(sys.executable).with_name("tidegate")
    assert script.stat().st_mode & stat.S_IXUSR


def test_who_is_asked_of_the_management_api(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    for path in ("organizations", "tenants", "projects", "service-accounts"):
        api.answers[f"/api/v1/{path}"] = (200, {"id": "x", "data": [{"id": "x"}], "token": "sa"})
    api.answers["/api/v1/tenants/t"] = api.answers["/api/v1/projects/p"] = (200, {"id": "x"})
    api.answers["/api/v1/keys/k/rotate"] = (201, {"id": "new", "key": "sk-y"})
    for path in ("keys/k", "organizations/o", "service-accounts/sa"):
        api.answers[f"/api/v1/{path}"] = (200, {"id": "k"})
    for arguments, asked in (
        ("org create o --display-name O", ("POST", {"name": "o", "display_name": "O"})),
        ("org list", ("GET", None)),
        ("tenant create t --org o --time-zone UTC",
         ("POST", {"name": "t", "organization": "o", "time_zone": "UTC"})),
        ("tenant suspend t", ("PATCH", {"suspended": True})),
        ("tenant resume t", ("PATCH", {"suspended": False})),
        ("tenant show t", ("GET", None)),
        ("org show o", ("GET", None)),
        ("key show k", ("GET", None)),
        ("project show p", ("GET", None)),
        ("project update p --display-name P", ("PATCH", {"display_name": "P"})),
        ("service-account show sa", ("GET", None)),
        ("service-account update sa --role owner", ("PATCH", {"role": "owner"})),
        ("service-account disable sa", ("DELETE", None)),
        ("project create p --tenant t", ("POST", {"tenant": "t", "name": "p"})),
        ("project archive p", ("PATCH", {"archived": True})),
        ("service-account create ci --role viewer --tenant t",
         ("POST", {"name": "ci", "role": "viewer", "tenant": "t"})),
        ("key rotate k --overlap 2h", ("POST", {"overlap_seconds": 7200})),
        ("key update k --models all --routes chat,embeddings --expires never",
         ("PATCH", {"models": None, "routes": ["chat", "embeddings"], "expires_at": None})),
    ):  # fmt: skip
        for more in ([], ["--json"]):
            assert status_of(*arguments.split(), *more) == 0, arguments
            assert (api.asked[-1].method, api.asked[-1].body) == asked
        json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize(
    "arguments",
    [
        ("key", "create", "--tenant", "t", "--expires", "soon"),
        ("key", "create", "--tenant", "t", "--expires", "2030-01-01T00:00:00"),
        ("key", "create", "--tenant", "t", "--models", "a,,b"),
        ("key", "create", "--tenant", "t", "--rpm", "0"),
        ("key", "rotate", "k", "--overlap", "1w"),
        ("service-account", "create", "ci", "--role", "viewer"),
        ("service-account", "create", "ci", "--role", "viewer", "--tenant", "t", "--org", "o"),
        ("audit", "verify", "--since-head", "abc"),
        ("org",),
    ],
)
def test_bad_use_of_who_is_2(arguments: tuple[str, ...], api: Api) -> None:
    assert status_of(*arguments) == 2
    assert api.asked == []


def test_what_was_changed_meanwhile_is_one_line(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers["/api/v1/keys/k"] = (412, {"detail": "If-Match: not any more"})
    err = one_line_and_1(("key", "revoke", "k", "--if-match", '"1"'), capsys)
    assert "not any more" in err
