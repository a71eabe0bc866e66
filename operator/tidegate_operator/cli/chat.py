"""`tidegate chat`: a conversation in the terminal. Answers go to stdout, everything else to stderr."""

import io
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Self, TextIO

import httpx

from tidegate_operator.cli import address, output, platform, sse, watching
from tidegate_operator.cli.failure import CommandError
from tidegate_operator.cli.talk import INTERRUPTED, Answer, Gateway, Talk

PATIENCE = 0.5
"""Seconds without a word after which people are told what is waited for."""
HELP = "/reset forgets the conversation, /quit or Ctrl-D ends it, Ctrl-C stops an answer"


def gateway(values: Mapping[str, str], data: Path) -> tuple[Gateway, platform.Platform | None]:
    """Where to ask: settings, else the local platform with its own key. Raises CommandError."""
    url, key = values.get("BASE_URL", ""), values.get("API_KEY", "")
    if url:
        address.web("TIDEGATE_BASE_URL", url)
        if not key:
            raise CommandError("TIDEGATE_BASE_URL is set but TIDEGATE_API_KEY is not; set it")
        return Gateway(url, address.secret("TIDEGATE_API_KEY", key)), None
    found = platform.local(data)
    base = str(platform.read_run(data).get("base_url", ""))
    key = address.secret("TIDEGATE_API_KEY", key)
    return Gateway(base, key or platform.read_secret(data / "api-key")), found


class Chat:
    """What people see of a conversation. `look`: what is waited for, in words."""

    def __init__(self, talk: Talk, look: Callable[[], str], *, as_json: bool) -> None:
        self._talk, self._look, self._as_json = talk, look, as_json
        self._terminal = sys.stdin.isatty() and sys.stderr.isatty()
        self._costs: list[Mapping[str, Decimal]] = []

    def run(self, questions: Iterator[str]) -> int:
        """Answers each question; the exit status. A refusal ends it where nobody is there to ask
        again."""
        for question in questions:
            if question.strip() == "/quit":
                break
            if question.strip() == "/reset":
                self._talk.reset()
            elif question.strip():
                status = self._tried(question)
                if status and not self._terminal:
                    return status
        if len(self._costs) > 1:
            cost = watching.money_words(watching.total(self._costs))
            print(f"{len(self._costs)} answers, {cost}", file=sys.stderr)
        return 0

    def _tried(self, question: str) -> int:
        """Answers one question; the exit status where nobody is there to ask again."""
        try:
            error = self._answer(question).error
        except CommandError as refusal:
            print(f"error: {refusal}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\ninterrupted", file=sys.stderr)
            return 130
        return 130 if error == INTERRUPTED else 1 if error else 0

    def _answer(self, question: str) -> Answer:
        shown = sys.stdout.isatty()
        with Waiting(self._look, visible=sys.stderr.isatty()) as waiting:

            def heard(said: sse.Chunk) -> None:
                waiting.over()
                if not self._as_json:
                    print(harmless(said.text) if shown else said.text, end="", flush=True)

            answer = self._talk.ask(question, heard)
        if answer.cost is not None:
            self._costs.append(answer.cost)
        if self._as_json:
            print(output.line(answer.document()), flush=True)
        else:
            print(flush=True)
            print(summary(answer), file=sys.stderr)
        return answer


def harmless(text: str) -> str:
    """The text without what steers a terminal (its title, the clipboard): a model writes what it is told."""
    return "".join(one for one in text if one in "\n\t" or unicodedata.category(one) != "Cc")


def summary(answer: Answer) -> str:
    """What an answer took and cost, in one line."""
    words = []
    if answer.tokens is not None:
        words.append(f"{answer.tokens.prompt} tokens in, {answer.tokens.completion} out")
    words.append(f"first token {answer.first:.2f} s")
    if answer.per_second:
        words.append(f"{answer.per_second:.1f} tokens/s")
    cost = "cost not known yet" if answer.cost is None else watching.money_words(answer.cost)
    words.append(cost)
    if answer.error:
        words.append(answer.error)
    return f"[{', '.join(words)}]"


class Waiting:
    """Says what is waited for until the first word comes: in place in a terminal, else a line for
    each new step."""

    def __init__(self, look: Callable[[], str], *, visible: bool) -> None:
        self._look, self._visible = look, visible
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._say, name="waiting", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over()

    def over(self) -> None:
        """The first word is here; the line is gone when this returns."""
        if not self._over.is_set():
            self._over.set()
            self._thread.join()

    def _say(self) -> None:
        began, last = time.monotonic(), ""
        while not self._over.wait(PATIENCE):
            words = self._look()
            if self._visible:
                waited = time.monotonic() - began
                print(f"\r\x1b[K({waited:.0f}s) {words}", end="", file=sys.stderr, flush=True)
            elif words != last:
                print(f"({words})", file=sys.stderr, flush=True)
            last = words
        if last and self._visible:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def looker(found: platform.Platform | None, model: str) -> Callable[[], str]:
    """What says what a model is waited for; of a platform elsewhere only that it is."""
    if found is None:
        return lambda: f"waiting for {model}; it may be starting"
    # Its own short patience: an answer must never wait for what is said about it.
    http = httpx.Client(timeout=0.5, trust_env=False)
    headers = {"authorization": f"Bearer {found.token}"}

    def look() -> str:
        try:
            answer = http.get(f"{found.ops_url}/api/v1/models", headers=headers)
            rows: list[dict[str, Any]] = answer.json()["data"]
        except (httpx.HTTPError, ValueError, KeyError):
            return f"waiting for {model}"
        return next((waiting_for(row) for row in rows if row["name"] == model), "waiting")

    return look


def waiting_for(row: Mapping[str, Any]) -> str:
    """What a model in this state is waited for."""
    if row["ready"]:
        return f"{row['name']} is at work"
    if row["phase"] == "Starting":
        return f"{row['name']} is starting: {row.get('phase_detail') or 'not begun yet'}"
    return f"waiting for {watching.words(row)}"


def _text(lines: TextIO) -> Iterator[str]:
    """The lines. Raises CommandError at one that is not in the encoding of the locale."""
    if isinstance(lines, io.TextIOWrapper):
        lines.reconfigure(errors="surrogateescape")
    for number, line in enumerate(lines, 1):
        if not line.isprintable() and any("\ud800" <= one <= "\udfff" for one in line):
            raise CommandError(f"standard input, line {number}: not text in {lines.encoding}")
        yield line


def typed() -> Iterator[str]:
    """The questions: lines that are typed, or all of a pipe's lines."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        yield from (line.rstrip("\n") for line in _text(sys.stdin))
        return
    import readline  # noqa: F401 - input() edits lines with it

    print(HELP, file=sys.stderr)
    while True:
        try:
            yield input("> ")
        except (EOFError, KeyboardInterrupt):
            print(file=sys.stderr)
            return
