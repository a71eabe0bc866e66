"""A small API server: lists in pages, watches with versions, and the faults of real ones.

It serves any path as a collection, knows one kind of selector (`key` or `key=value`), and passes
the stories of `kube_watch_contract`, which a real API server passes too.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tidegate_runtime.ops import Server

Object = dict[str, Any]
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


class FakeKube:
    """The server. `tokens`: bearer tokens it takes. `refusals`: statuses of the next answers.
    `oldest`: watches of earlier versions are answered 410."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokens = {"first"}
        self.refusals: list[int] = []
        self.version = 100
        self.oldest = 50
        self.asked: list[tuple[str, dict[str, str]]] = []
        self._objects: dict[str, dict[tuple[str, str], Object]] = {}
        self._log: list[tuple[int, str, str, Object, Object | None]] = []
        self._streams: set[asyncio.Queue[bytes | None]] = set()
        self._news = asyncio.Event()
        self.token_file = folder / "token"
        self.token_file.write_text("first")
        self.kubeconfig = str(folder / "kubeconfig")
        self.namespace = "story"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["FakeKube"]:
        """Serve on a port of its own."""
        listening = socket.create_server(("127.0.0.1", 0))
        self._write_kubeconfig(listening.getsockname()[1])
        routes = [Route("/{path:path}", self._answer, methods=METHODS)]
        server = Server(
            uvicorn.Config(
                Starlette(routes=routes), log_config=None, lifespan="off",
                timeout_graceful_shutdown=1,
            )
        )  # fmt: skip
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield self
        finally:
            self.end()
            server.should_exit = True
            await task

    def _write_kubeconfig(self, port: int) -> None:
        named = {"name": "fake"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{**named, "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [{**named, "user": {"tokenFile": str(self.token_file)}}],
            "contexts": [{**named, "context": {"cluster": "fake", "user": "fake"}}],
        }
        Path(self.kubeconfig).write_text(yaml.safe_dump(config))

    # What tests do to it

    def store(self, path: str, one: Object) -> None:
        """Make or change an object of the collection at `path`."""
        self.version += 1
        metadata = {**one["metadata"], "resourceVersion": str(self.version)}
        one = {**one, "metadata": metadata}
        known = self._objects.setdefault(path, {})
        key = (metadata.get("namespace", ""), metadata["name"])
        old = known.get(key)
        known[key] = one
        self._tell("MODIFIED" if old else "ADDED", path, one, old)

    def remove(self, path: str, name: str, namespace: str = "") -> None:
        """Delete an object."""
        self.version += 1
        old = self._objects[path].pop((namespace, name))
        metadata = {**old["metadata"], "resourceVersion": str(self.version)}
        self._tell("DELETED", path, {**old, "metadata": metadata}, old)

    def serve(self, path: str) -> None:
        """Have an empty collection at `path`, as after a CRD was created."""
        self._objects.setdefault(path, {})

    def forget_history(self) -> None:
        """Compact: only watches from now on are possible."""
        self.oldest = self.version
        self._log.clear()

    def say(self, data: bytes) -> None:
        """Send bytes on every watch."""
        for stream in self._streams:
            stream.put_nowait(data)

    def cut(self) -> None:
        """Break every watch, without the end of a chunked answer."""
        for stream in self._streams:
            stream.put_nowait(None)

    def end(self) -> None:
        """End every watch in order."""
        for stream in self._streams:
            stream.put_nowait(b"")

    @property
    def watches(self) -> int:
        """Watches that are open."""
        return len(self._streams)

    async def put(self, name: str, value: str, label: str = "yes") -> None:
        """As a story's place."""
        metadata = {"name": name, "namespace": self.namespace, "labels": {"story": label}}
        self.store(self._maps, {"metadata": metadata, "data": {"value": value}})

    async def delete(self, name: str) -> None:
        """As a story's place."""
        self.remove(self._maps, name, self.namespace)

    @property
    def _maps(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/configmaps"

    # Answers

    def _tell(self, kind: str, path: str, one: Object, old: Object | None) -> None:
        self._log.append((self.version, kind, path, one, old))
        self._news.set()
        self._news = asyncio.Event()

    async def _answer(self, request: Request) -> Response:
        path, query = request.url.path, dict(request.query_params)
        self.asked.append((path, query))
        if request.headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
            return _status(401, "Unauthorized")
        if self.refusals:
            return _status(self.refusals.pop(0), "as the test wants it")
        if path not in self._objects:
            return _status(404, "the server could not find the requested resource")
        if "watch" not in query:
            return self._list(path, query)
        if int(query["resourceVersion"]) < self.oldest:
            return _status(410, "too old resource version")
        return StreamingResponse(self._watch(path, query), media_type="application/json")

    def _list(self, path: str, query: dict[str, str]) -> Response:
        found = [
            one
            for _, one in sorted(self._objects[path].items())
            if _selected(one, query.get("labelSelector", ""))
        ]
        start, size = int(query.get("continue", 0)), int(query["limit"])
        more = str(start + size) if start + size < len(found) else ""
        metadata = {"resourceVersion": str(self.version), "continue": more}
        return JSONResponse({"metadata": metadata, "items": found[start : start + size]})

    async def _watch(self, path: str, query: dict[str, str]) -> AsyncIterator[bytes]:
        said: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._streams.add(said)
        sent, selector = int(query["resourceVersion"]), query.get("labelSelector", "")
        until = asyncio.get_running_loop().time() + float(query["timeoutSeconds"])
        try:
            while (left := until - asyncio.get_running_loop().time()) > 0:
                news = self._news
                for version, kind, at, one, old in list(self._log):
                    if at == path and version > sent:
                        sent = version
                        if line := _line(kind, one, old, selector):
                            yield line
                woken = [asyncio.ensure_future(said.get()), asyncio.ensure_future(news.wait())]
                await asyncio.wait(woken, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                data = woken[0].result() if woken[0].done() else b"\n"
                for task in woken:
                    task.cancel()
                if data is None:
                    raise ConnectionAbortedError("as the test wants it")
                if data == b"":
                    return
                if data != b"\n":
                    yield bytes(data)  # type: ignore[arg-type]
        finally:
            self._streams.discard(said)


def _selected(one: Object, selector: str) -> bool:
    key, _, value = selector.partition("=")
    labels = one["metadata"].get("labels", {})
    return not key or (key in labels and value in {"", labels[key]})


def _line(kind: str, one: Object, old: Object | None, selector: str) -> bytes:
    """As a watch with a selector sees it: what leaves it is deleted, what enters it is added."""
    was = old is not None and _selected(old, selector)
    now = kind != "DELETED" and _selected(one, selector)
    if not was and not now:
        return b""
    told = "DELETED" if not now else "MODIFIED" if was else "ADDED"
    return json.dumps({"type": told, "object": one}).encode() + b"\n"


def _status(code: int, message: str) -> Response:
    return JSONResponse({"kind": "Status", "code": code, "message": message}, code)
