"""One conversation with a model over the gateway, and what each answer took and cost.

The cost is the receipt's (`GET /v1/generations/{id}`, the caller's own key): exact, and the same
that the invoice adds up.
"""

import json
import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple, Self

import httpx

from tidegate_operator.cli import sse
from tidegate_operator.cli.failure import CommandError

WAIT_SECONDS = 900.0
"""A first real start may install the engine and convert the model before it answers."""
RECEIPT_SECONDS = 5.0
INTERRUPTED = "interrupted"
"""The error of an answer that Ctrl-C ended."""
_PAUSE = 0.1


class Gateway(NamedTuple):
    """Where models answer, and the key they answer to."""

    url: str
    key: str


class Answer(NamedTuple):
    """What came back. `first` and `took` are seconds from the request on; `cost` is None where
    nobody says what it cost; `tokens` is None where the answer broke off before it was counted."""

    text: str
    request_id: str
    first: float
    took: float
    tokens: sse.Tokens | None
    cost: Mapping[str, Decimal] | None = None
    error: str = ""

    @property
    def per_second(self) -> float:
        """Tokens per second after the first one; 0 where that cannot be said."""
        if self.tokens is None or self.took <= self.first or self.tokens.completion < 2:
            return 0.0
        return (self.tokens.completion - 1) / (self.took - self.first)

    def document(self) -> dict[str, Any]:
        """For programs: one line of `chat --json`."""
        tokens = self.tokens
        return {
            "text": self.text,
            "request_id": self.request_id,
            "prompt_tokens": None if tokens is None else tokens.prompt,
            "cached_tokens": None if tokens is None else tokens.cached,
            "completion_tokens": None if tokens is None else tokens.completion,
            "ttft_seconds": round(self.first, 6),
            "seconds": round(self.took, 6),
            "tokens_per_second": round(self.per_second, 3),
            "cost": None
            if self.cost is None
            else [
                {"currency": name, "amount_exact": f"{amount:f}"}
                for name, amount in sorted(self.cost.items())
            ],
            "error": self.error or None,
        }


class Talk:
    """A conversation. A turn that failed is forgotten, so that it can be asked again."""

    def __init__(self, gateway: Gateway, model: str, system: str = "", limit: int = 0) -> None:
        self.model = model
        self._limit = limit
        self._messages = [{"role": "system", "content": system}] if system else []
        self._kept = len(self._messages)
        # No proxy of the environment: the key goes to the gateway and to nobody else.
        self._http = httpx.Client(
            base_url=gateway.url.rstrip("/").removesuffix("/v1"),
            headers={"authorization": f"Bearer {gateway.key}"},
            timeout=httpx.Timeout(WAIT_SECONDS, connect=10),
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def reset(self) -> None:
        """Forgets what was said, but for the system's message."""
        del self._messages[self._kept :]

    def ask(self, question: str, heard: Callable[[sse.Chunk], None]) -> Answer:
        """Asks; each piece goes to `heard` as it comes. An interrupt ends the answer and is kept as
        its error. Raises CommandError where there was no answer."""
        self._messages.append({"role": "user", "content": question})
        try:
            answer = self._stream(heard)
        except BaseException:
            self._messages.pop()
            raise
        self._messages.append({"role": "assistant", "content": answer.text})
        return answer._replace(cost=self._cost(answer.request_id))

    def _body(self) -> dict[str, Any]:
        body = {
            "model": self.model,
            "messages": self._messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return body | ({"max_tokens": self._limit} if self._limit else {})

    def _stream(self, heard: Callable[[sse.Chunk], None]) -> Answer:
        began = time.monotonic()
        progress = _Progress(began)
        request_id = ""
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=self._body()) as answer:
                request_id = answer.headers.get("x-request-id", "")
                if answer.status_code != 200:
                    raise CommandError(_refusal(answer))
                for line in answer.iter_lines():
                    progress.line(line, heard)
            if not progress.done and not progress.error:
                progress.error = _unfinished(answer, bool(progress.parts))
        except httpx.HTTPError as error:
            if not progress.parts:
                url = f"{self._http.base_url}"
                raise CommandError(f"{url} did not answer: {_why(error)}") from None
            progress.error = f"the answer broke off: {_why(error)}"
        except KeyboardInterrupt:
            if not progress.parts:
                raise
            progress.error = INTERRUPTED
        if progress.error and not progress.parts:
            raise CommandError(progress.error)
        took = time.monotonic() - began
        text = "".join(progress.parts)
        first = progress.first or took
        return Answer(text, request_id, first, took, progress.tokens, error=progress.error)

    def _cost(self, request_id: str) -> dict[str, Decimal] | None:
        """What the receipt says, once the router has told billing; None where there is none."""
        until = time.monotonic() + RECEIPT_SECONDS
        while request_id:
            try:
                answer = self._http.get(f"/v1/generations/{request_id}", timeout=RECEIPT_SECONDS)
            except httpx.HTTPError:
                return None
            if answer.status_code == 200:
                return amounts(answer.json())
            later = answer.status_code in {404, 429, 503}
            if not later or not _tidegate(answer) or time.monotonic() > until:
                return None
            time.sleep(_PAUSE)
        return None


class _Progress:
    """How far an answer is."""

    def __init__(self, began: float) -> None:
        self._began = began
        self.first = 0.0
        self.parts: list[str] = []
        self.tokens: sse.Tokens | None = None
        self.error = ""
        self.done = False

    def line(self, line: str, heard: Callable[[sse.Chunk], None]) -> None:
        """Takes in a line of the stream."""
        said = sse.chunk(line)
        if said is None:
            return
        self.tokens = said.tokens or self.tokens
        self.error = said.error or self.error
        self.done = self.done or said.done
        if said.text or said.thought:
            self.first = self.first or time.monotonic() - self._began
            self.parts.append(said.text)
            heard(said)


def amounts(receipt: Mapping[str, Any]) -> dict[str, Decimal] | None:
    """What a receipt comes to, by currency; None while its price is not known."""
    if receipt.get("price_pending"):
        return None
    found: dict[str, Decimal] = {}
    for amount in receipt.get("amounts") or ():
        currency = str(amount["currency"]).upper()
        found[currency] = found.get(currency, Decimal(0)) + Decimal(amount["value_exact"])
    return found


def _tidegate(answer: httpx.Response) -> bool:
    """Whether who answers knows receipts: anybody else's 404 will not change."""
    return "generation_not_found" in answer.text or answer.status_code != 404


def _unfinished(answer: httpx.Response, begun: bool) -> str:
    """What a stream is that ended without an end of its own."""
    if begun:
        return "the answer broke off"
    kind = answer.headers.get("content-type", "")
    if kind.startswith("text/event-stream"):
        return f"{answer.url} ended its answer before it had begun"
    return f"{answer.url} answered with {kind or 'no content-type'}, not with a stream of events"


def _refusal(answer: httpx.Response) -> str:
    content = answer.read().decode("utf-8", "replace")
    try:
        return f"{sse.words(json.loads(content))}, status {answer.status_code}"
    except ValueError:
        return f"{answer.url} answered {answer.status_code}: {content[:200]}"


def _why(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__
