"""Output that nobody can take, and addresses and keys that are none."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tidegate_operator.cli import address, chat, output, sse
from tidegate_operator.cli.failure import CommandError
from tidegate_operator.local import Event

READERLESS = """
import os, sys
from tidegate_operator.cli import output, up
from tidegate_operator.local import Event
out, to = os.pipe()
os.close(out)
os.dup2(to, 1)
report = output.lasting(up.print_event if sys.argv[1] == "json" else up.print_line)
for number in range(3):
    report(Event(ts=1.0, event="model", name="m", phase="Idle"))
"""


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_platform_outlives_the_reader_of_its_events(form: str) -> None:
    done = subprocess.run(
        [sys.executable, "-Ic", READERLESS, form],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_an_event_that_cannot_be_written_stops_nothing() -> None:
    told: list[str] = []

    def full(event: Event) -> None:
        told.append(event.event)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    report = output.lasting(full)
    for event in ("ready", "stopping"):
        report(Event(ts=1.0, event=event))
    assert told == ["ready", "stopping"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_encoding_holds_what_is_said(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    output.settle()
    value = {"text": "caf\xe9 \u2192 \ud800"}
    print(output.line(value), flush=True)
    assert json.loads(raw.getvalue().decode(encoding)) == value
    print("\u2192\ud800", flush=True)
    monkeypatch.undo()


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://", "ftp://h", "h", "http://h:99999", "http://h:x", "http://h\n"]
)
def test_urls_that_are_none_are_named(url: str) -> None:
    with pytest.raises(CommandError, match="URL="):
        address.web("URL", url)
    assert address.web("URL", "http://[::1]:8080/v1") == "http://[::1]:8080/v1"


@pytest.mark.parametrize("key", ["ключ", "a\nb", "a\x00"])
def test_a_key_that_no_header_holds_is_not_shown(key: str) -> None:
    with pytest.raises(CommandError) as raised:
        address.secret("KEY", key)
    assert key not in str(raised.value)
    assert address.secret("KEY", "sk-1") == "sk-1"


@pytest.mark.parametrize(
    "body",
    [
        '{"choices": 5}', '{"choices": ["x"]}', '{"usage": {"prompt_tokens": "x"}}',
        '{"usage": {"prompt_tokens": 1e999}}', '{"choices": [{"delta": {"content": ["x"]}}]}', "[]",
    ],
)  # fmt: skip
def test_what_is_no_event_is_an_error_and_no_fault(body: str) -> None:
    said = sse.chunk(f"data: {body}")
    assert said is not None
    assert said.error.startswith("not an event")


def test_a_model_cannot_steer_the_terminal() -> None:
    text = "a\tb\n\x1b]52;c;cm0=\x07\x9b2Jc\r"
    assert chat.harmless(text) == "a\tb\n]52;c;cm0=2Jc"


def test_a_question_that_is_no_text_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO(b"one\ntw\xff\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw, encoding="utf-8"))
    questions = chat.typed()
    assert next(questions) == "one"
    with pytest.raises(CommandError, match="line 2: not text in utf-8"):
        next(questions)


@pytest.mark.parametrize(("term", "redrawn"), [("xterm", True), ("dumb", False)])
def test_a_dumb_terminal_gets_lines(
    term: str, redrawn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    assert output.redraws(Console(force_terminal=True)) is redrawn
