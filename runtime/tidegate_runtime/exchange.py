"""One request's life behind admission: held, dispatched, answered, settled.

An exchange may make several attempts (one per engine asked); each is on record before it is sent
and settled once. Bytes of an answer go out only after their counts are in the attempt's slot, the
last ones only after the settlement is durable. Before the first byte of an answer went out a
failure is retried elsewhere; after it, a failure is told in-band and never retried.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import structlog

from tidegate_billing.links import KeyView
from tidegate_billing.usage import Outcome, Usage, uuid7
from tidegate_runtime import http1, openai, refusals
from tidegate_runtime.boundary import bounded
from tidegate_runtime.errors import EngineError, PlatformError, Refusal
from tidegate_runtime.messages.route import DIALECTS
from tidegate_runtime.reply import Reply
from tidegate_runtime.settlement import settlement
from tidegate_runtime.stream import Counts, MalformedAnswer, Scanner, usage_of

log = structlog.get_logger()

if TYPE_CHECKING:
    from tidegate_runtime.draw import Draw
    from tidegate_runtime.endpoints import ModelState, ReplicaState
    from tidegate_runtime.front import Front, Incoming
    from tidegate_runtime.gate import Gate
    from tidegate_runtime.hold import Ticket
    from tidegate_runtime.upstream import Upstream

MAX_ATTEMPTS: Final = 4
Done = Callable[[], None] | None
UNREACHABLE_SECONDS: Final = 20.0
_RETRYABLE: Final = frozenset({502, 503, 504})


class Exchange:
    """One admitted request. Ends exactly once, in `_end`."""

    __slots__ = (
        "_attempt", "_content_type", "_dialect", "_forwarded", "_parts", "_reply", "_scanner", "_slot",
        "_status", "_tail", "_upstream", "body", "connect_until", "draw", "ended", "failed", "fed_at", "front", "gate", "heard_at",
        "incoming", "key", "model", "replica", "request", "since", "started", "ticket", "tries", "unreached",
    )  # fmt: skip

    def __init__(
        self, gate: "Gate", front: "Front", incoming: "Incoming", key: KeyView,
        model: "ModelState", request: openai.Request, body: bytes,
    ) -> None:  # fmt: skip
        self.gate = gate
        self.front = front
        self.incoming = incoming
        self.key = key
        self.model = model
        self.request = request
        self.body = body
        self.started = time.time()
        self.since = self.heard_at = gate.loop.time()
        self.ticket: Ticket[Exchange] | None = None
        self.tries = self.unreached = 0
        self.failed: set[str] = set()
        self.ended = self._forwarded = False
        self.draw: Draw | None = None
        self._attempt: Usage | None = None
        self.replica: ReplicaState | None = None
        self.connect_until = self.fed_at = 0.0
        self._upstream: Upstream | None = None
        self._slot = -1
        self._dialect = DIALECTS.get(incoming.path)
        self._reply = (Reply if self._dialect is None else self._dialect.reply)(front, incoming)
        self._reset()

    def _reset(self) -> None:
        self._status, self._content_type = 0, b""
        self._parts: list[bytes] = []
        self._tail = b""
        self._scanner: Scanner | None = None

    @bounded
    def dispatch(self, replica: "ReplicaState") -> None:
        """Make an attempt at `replica`."""
        meter = self.gate.meter
        self.tries += 1
        self._reset()
        now = time.time()
        attempt = Usage(
            # The first attempt goes by the request's own id: one id fewer to make and to join on.
            attempt_id=self.incoming.request_id[4:] if self.tries == 1 else uuid7(),
            kind="attempt",
            request_id=self.incoming.request_id,
            client_request_id=self.incoming.client_request_id,
            tenant=self.key.tenant,
            project=self.key.project,
            key_id=self.key.id,
            model=self.model.view.name,
            deployment=self.model.view.deployment,
            endpoint=self.incoming.path,
            started_at=int(now * 1e6),
            replica=replica.id,
            price_version=self.model.price_version,
        )
        self._slot = meter.slots.take(attempt.attempt_id) if self.request.stream else -1
        if self._slot < 0 and self.request.stream:
            self.refuse(refusals.too_many_streams())
            return
        try:
            meter.attempt(attempt)
        except OSError:
            if self._slot >= 0:
                meter.slots.give(self._slot)
            self.refuse(self.gate.unmetered())
            return
        self._attempt = attempt
        self.heard_at, self.fed_at = self.gate.loop.time(), 0.0
        self.replica = replica
        replica.in_flight += 1
        self.model.in_flight += 1
        self.gate.dialer.connect(self, replica)

    @bounded
    def connected(self, upstream: "Upstream") -> None:
        """A connection is there: send the request."""
        attempt = self._attempt
        if attempt is None:  # the client left meanwhile
            if not upstream.replica.keep(upstream):
                upstream.abort()
            return
        self._upstream = upstream
        replica = upstream.replica
        cap = None if self.draw is None else self.draw.cap(self.model.context)
        body = openai.splice(self.body, self.request, self.gate.salt(self.key, self.request), cap)
        head = http1.upstream_head(
            openai.engine_path(self.incoming.path), replica.host_header, replica.guard,
            attempt.attempt_id, self.incoming.trace, len(body),
        )  # fmt: skip
        if self.ticket is not None and not replica.first_forward:
            self.gate.first_forward(replica)
        upstream.begin(self, head + body)
        if self.front.paused:
            upstream.pause(True)

    # The engine's answer (Reader)

    @bounded
    def answer_head(self, status: int, content_type: bytes) -> None:
        """The answer's head: decides how its body is read."""
        self._status, self._content_type = status, content_type
        request = self.request
        if status == 200 and request.stream and content_type.startswith(b"text/event-stream"):
            self._scanner = (Scanner if self._dialect is None else self._dialect.scanner)(
                request.want_usage, request.want_continuous, request.choices, request.prompts
            )

    @bounded
    def answer_body(self, data: bytes) -> None:
        """Bytes of the body: count, store the count, forward."""
        self.heard_at = self.gate.loop.time()
        scanner = self._scanner
        if scanner is None:
            self._parts.append(data)
            return
        self.fed_at = self.heard_at
        try:
            out = scanner.feed(data)
        except MalformedAnswer as exc:
            self._break(str(exc))
            return
        self.gate.meter.slots.put(self._slot, scanner.prompt, scanner.completion)
        if scanner.done:
            self._tail += out
        elif out:
            self._forward(out)

    @bounded
    def answer_end(self) -> None:
        """The answer is whole."""
        self._upstream = None
        if self._scanner is not None:
            self._stream_end(self._scanner)
        elif self._status == 200:
            self._plain_end()
        else:
            self._error_end()

    @bounded
    def answer_lost(self, reason: str, *, stale: bool) -> None:
        """The engine's connection broke."""
        self._upstream = None
        if self._attempt is None:
            return
        if self._scanner is not None and self._scanner.done and not self._scanner.error:
            self._stream_end(self._scanner)
        elif self._forwarded:
            self._break(f"the engine broke off: {reason}")
        else:
            self._retry(reason, stale=stale)

    # Endings of an attempt

    def _stream_end(self, scanner: Scanner) -> None:
        if not scanner.done and not self._forwarded and not scanner.error:
            self._retry("the engine ended its answer before it began", stale=False)
        elif not scanner.done or scanner.error:
            self._break("the engine ended its answer early")
        else:
            self._settle_counted("completed", self._stream_done)

    @bounded
    def _stream_done(self) -> None:
        self._forward(self._tail)
        self._reply.end()
        self._end(200)

    def _plain_end(self) -> None:
        body = b"".join(self._parts)
        try:
            counts = usage_of(body)
            self._parts[:] = [body if self._dialect is None else self._dialect.answer(body)]
        except MalformedAnswer as exc:
            self._retry(str(exc), stale=False)
            return
        self.fed_at = self.heard_at
        self._settle("completed", counts, self._plain_done)

    @bounded
    def _plain_done(self) -> None:
        self._answer(200, self._parts[0], self._content_type or http1.JSON)

    def _error_end(self) -> None:
        replica = self.replica
        leaving = replica is None or not replica.usable
        if self._status in _RETRYABLE or (self._status == 500 and leaving):
            self._retry(f"the engine answered {self._status}", stale=False)
            return
        body = b"".join(self._parts)
        if self._status in {401, 403} or not body.startswith(b'{"error"'):
            refusal = EngineError(
                502 if self._status < 500 else self._status,
                "engine_error",
                f"The engine answered {self._status}.",
            )
            self._settle("failed", None, lambda: self.refuse(refusal))
        else:
            status, content_type = self._status, self._content_type or http1.JSON
            self._settle("failed", None, lambda: self._answer(status, body, content_type))

    def _retry(self, reason: str, *, stale: bool) -> None:
        """Nothing went out yet: settle this attempt unbilled and try again."""
        attempt = self._attempt
        if attempt is None:
            return
        if not stale:
            self.failed.add(attempt.replica)
            self.gate.suspect(self.model, self.replica, reason)
        self._drop_upstream()
        self._settle("failed", None, None, reason="retry")
        if self.tries - self.unreached < MAX_ATTEMPTS:
            self.gate.place(self, again=True)
        else:
            self.refuse(EngineError(502, "engine_failed", "The model's engine failed repeatedly."))

    @bounded
    def not_connected(self, reason: str) -> None:
        """The replica took no connection: it is gone, and the world will say so. Nothing was asked,
        so this costs no try; but a replica that is only listed shall not be waited for too long."""
        now = self.gate.loop.time()
        if not self.connect_until:
            self.connect_until = now + UNREACHABLE_SECONDS
        if now < self.connect_until:
            self.unreached += 1
        self._retry(reason, stale=False)

    def _break(self, reason: str) -> None:
        """Bytes went out already: bill what was counted, tell the client in-band."""
        self._drop_upstream()
        error = EngineError(502, "engine_broke_off", f"The answer is incomplete: {reason}.")
        self._settle_counted("broken", lambda: self.refuse(error))

    @bounded
    def client_gone(self) -> None:
        """The client left: the engine shall stop, what was counted is billed."""
        if self.ended:
            return
        self.gate.unhold(self)
        self._drop_upstream()
        self._settle_counted("aborted", None)
        self._end(499)

    @bounded
    def client_paused(self, paused: bool) -> None:
        """Back-pressure: do not read from the engine what the client does not take."""
        if self._upstream is not None:
            self._upstream.pause(paused)

    @bounded
    def give_up(self, reason: str) -> None:
        """End an attempt of which the engine says nothing."""
        if self._forwarded:
            self._break(reason)
        else:
            self._retry(reason, stale=False)

    def hung(self) -> None:
        """Its engine hangs. That costs two tries: it may be this very request that it hangs on."""
        self.tries += 1
        self.give_up("the engine hangs")

    # Settlement

    def _settle_counted(self, outcome: Outcome, done: Done) -> None:
        counts = None if self._scanner is None else self._scanner.seen()
        self._settle(outcome, counts, done)

    def _settle(
        self, outcome: Outcome, counts: Counts | None, done: Done, reason: str = ""
    ) -> None:
        """Write the settlement of the attempt, if one is open; call `done` when it is durable."""
        attempt = self._attempt
        if attempt is None:
            if done is not None:
                done()
            return
        partial = self._scanner is not None and not self._scanner.final
        settled = settlement(
            attempt, outcome, counts, partial=partial, reason=reason, now=time.time()
        )
        self._attempt = None
        self._release()
        self.gate.settled(self, settled)
        self.gate.meter.settle(settled, self._slot, done)
        self._slot = -1

    def _release(self) -> None:
        """Give back the place at the very replica it was taken from, whatever the world says now."""
        replica, self.replica = self.replica, None
        self.model.in_flight -= 1
        if replica is not None:
            replica.in_flight -= 1
            replica.heard(self.fed_at)
            if replica.state == "draining" and not replica.in_flight:
                self.gate.news.set()  # the operator waits for just this
        self.gate.freed(self.model)

    def _drop_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()

    def _forward(self, data: bytes) -> None:
        if not self._forwarded:
            self._forwarded = True
            self.body = b""  # nothing will be tried again
        self._reply.events(data)

    @bounded
    def heartbeat(self) -> None:
        """Tell a waiting stream's client that we are alive."""
        self._reply.heartbeat()

    def _answer(self, status: int, body: bytes, content_type: bytes) -> None:
        if not self.ended:
            self._reply.whole(status, body, content_type)
            self._end(status)

    def refuse(self, refusal: Refusal) -> None:
        """Answer with an error: by status where nothing went out, else in-band without [DONE]."""
        if not self.ended:
            self.gate.refused(self.incoming, refusal)
            self._reply.refuse(refusal)
            self._end(refusal.status)

    def fail(self, *_: object) -> None:
        """A fault of ours in this request: end it alone, settled and told (see `boundary`)."""
        log.exception("request_failed", request_id=self.incoming.request_id)
        if self.ended:
            return
        try:
            self.gate.unhold(self)
            self._drop_upstream()
            self._settle_counted("broken", None)
            self.refuse(PlatformError(500, "internal_error", "Tidegate failed on this request."))
        finally:
            if not self.ended:  # even that failed: the journal's next life settles it
                if self.replica is not None:
                    self._release()
                self._end(500)
                self.front.close()

    def _end(self, status: int) -> None:
        if self.ended:
            return
        self.ended = True
        self.gate.ended(self, status)
        if self.front.listener is self:
            self.front.finish()
