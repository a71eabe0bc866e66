"""A model hub for tests: real servers on real sockets that speak as much of a hub's protocol as
huggingface_hub asks for. Large files lie on a second server, as they do behind a hub."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = 1000
"""Files of so many bytes and more are kept by their SHA-256, smaller ones by their git hash."""


@dataclass
class Repository:
    """Files by path, per commit. `token`: who may read it; None = everybody. `claimed`: sizes that
    the listing gives instead of the true ones; `digest`: what it gives as every SHA-256."""

    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str]
    token: str | None = None
    gated: bool = False
    claimed: dict[str, int] = field(default_factory=dict)
    digest: str = ""


@dataclass
class Hub:
    """What it has, what was asked of it, and how it misbehaves. `stall_at`: a large file's answer
    stops after so many bytes, until the reader is gone. `cut_at`: one answer ends there.
    `spoilt`: large files come with another byte at their end. `status`: every answer is this."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    stall_at: int | None = None
    cut_at: int | None = None
    spoilt: bool = False
    status: int = 0
    stalled: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    port: int = 0
    files_port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, name: str, files: Mapping[str, bytes], **more: Any) -> str:
        """A new commit of `main`; its hash."""
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        known = self.repositories.setdefault(name, Repository({}, {}))
        known.commits[commit] = dict(files)
        known.refs["main"] = commit
        for key, value in more.items():
            setattr(known, key, value)
        return commit

    def paths(self, method: str = "GET") -> list[str]:
        return [path for how, path, _ in self.asked if how == method]

    def ranges(self) -> list[str]:
        """The ranges asked for of large files; '' = the whole."""
        return [
            headers.get("range", "")
            for how, path, headers in self.asked
            if how == "GET" and path.startswith("/files/")
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.asked.append((self.command, self.path, headers))
        path = unquote(urlsplit(self.path).path)
        if self.hub.status:
            return self._say(self.hub.status, b"{}")
        if path.startswith("/files/"):
            return self._large(path.rpartition("/")[2], headers)
        api = path.startswith("/api/models/")
        owner, name, *rest = path.removeprefix("/api/models" if api else "").strip("/").split("/")
        found = self.hub.repositories.get(f"{owner}/{name}")
        refused = self._refusal(found, headers)
        if refused is not None or found is None:
            return self._say(*(refused or (404, "RepoNotFound")))
        revision = rest[1] if len(rest) > 1 else "main"
        commit = found.refs.get(revision, revision)
        if commit not in found.commits:
            return self._say(404, "RevisionNotFound")
        files = found.commits[commit]
        if api and rest and rest[0] == "tree":
            rows = [_row(path, data, found) for path, data in sorted(files.items())]
            return self._say(200, json.dumps(rows).encode())
        if api:
            told = {"id": f"{owner}/{name}", "sha": commit, "siblings": []}
            return self._say(200, json.dumps(told).encode())
        return self._resolve("/".join(rest[2:]), files, commit)

    def _refusal(self, found: Repository | None, headers: dict[str, str]) -> tuple[int, str] | None:
        if found is None:
            return 401, "RepoNotFound"  # as the real one: who may not know is not told
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if found.token is None or given == found.token:
            return None
        if found.gated:
            return (403 if given else 401), "GatedRepo"
        return 404, "RepoNotFound"

    def _resolve(self, path: str, files: dict[str, bytes], commit: str) -> None:
        if path not in files:
            return self._say(404, "EntryNotFound")
        data = files[path]
        told = {"X-Repo-Commit": commit}
        if len(data) < LARGE:
            return self._say(200, data, told | {"ETag": f'"{_git(data)}"'})
        digest = hashlib.sha256(data).hexdigest()
        told |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
        told["Location"] = f"http://127.0.0.1:{self.hub.files_port}/files/{digest}"
        return self._say(302, b"", told)

    def _large(self, digest: str, headers: dict[str, str]) -> None:
        data = next(
            data
            for repository in self.hub.repositories.values()
            for files in repository.commits.values()
            for data in files.values()
            if hashlib.sha256(data).hexdigest() == digest
        )
        if self.hub.spoilt:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = int(headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        status, told = 200, {}
        if "range" in headers:
            status = 206
            told["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        rest = data[start:]
        stop = self.hub.cut_at or self.hub.stall_at
        if self.command == "HEAD" or stop is None:
            return self._say(status, rest, told)
        self._head(status, len(rest), told)
        self.wfile.write(rest[:stop])
        self.wfile.flush()
        if self.hub.cut_at is None:
            self.hub.stalled.set()
            self.hub.released.wait(30)
        self.hub.cut_at = None
        self.close_connection = True
        return None

    def _say(self, status: int, body: bytes | str, told: Mapping[str, str] | None = None) -> None:
        more = dict(told or {})
        if isinstance(body, str):
            more["X-Error-Code"], body = body, b""
        self._head(status, len(body), more)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, length: int, told: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in told.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()


def _git(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _row(path: str, data: bytes, found: Repository) -> dict[str, Any]:
    size = found.claimed.get(path, len(data))
    row = {"type": "file", "path": path, "size": size, "oid": _git(data)}
    if len(data) >= LARGE:
        digest = found.digest or hashlib.sha256(data).hexdigest()
        row["lfs"] = {"oid": digest, "size": size, "pointerSize": 134}
    return row


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub, until the block ends."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ExitStack() as stack:
        servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
        hub.port, hub.files_port = (server.server_address[1] for server in servers)
        for server in servers:
            server.daemon_threads = True
            stack.callback(server.server_close)
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
        stack.callback(hub.released.set)
        yield hub
