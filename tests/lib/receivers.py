"""A receiver of webhooks for tests: a real server on a real socket, which checks every signature."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

from tidegate_billing import alerts


@dataclass
class Receiver:
    """What came. `answer` decides what is answered to a request's number, from 1; `hold`: not before
    this is set."""

    port: int = 0
    secrets: list[str] = field(default_factory=list)
    answer: Callable[[int], int] = lambda _number: 200
    headers: dict[str, str] = field(default_factory=dict)
    hold: threading.Event | None = None
    clock: Callable[[], int] | None = None
    ids: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    given: list[dict[str, str]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    came: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}/hook?a=1"

    def take(self, given: dict[str, str], body: bytes) -> int:
        """One request; the status it is answered with."""
        with self.lock:
            self.came += 1
            number = self.came
            self.given.append(given)
            now = self.clock() if self.clock else int(given["webhook-timestamp"]) * 1_000_000
            if self.secrets:
                try:
                    alerts.verify(self.secrets, given, body, now)
                except alerts.SignatureError as error:
                    self.refused.append(str(error))
                    return 401
            self.ids.append(given["webhook-id"])
            self.bodies.append(msgspec.json.decode(body))
        if self.hold is not None:
            self.hold.wait(30)
        return self.answer(number)


@contextmanager
def receiving(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """A receiver, until the block ends."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            given = {name.lower(): value for name, value in self.headers.items()}
            status = receiver.take({**given, ":path": self.path}, body)
            try:
                self.send_response(status)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", "0")
                self.end_headers()
            except OSError:  # it was held for longer than its sender waits
                self.close_connection = True

        def log_message(self, *_arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_arguments: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        if receiver.hold is not None:
            receiver.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()
