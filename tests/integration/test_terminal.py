"""The live view of `up`, of `status --watch` and of chat, in a real terminal."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import terminal
from running import Platform, platform, sim, wait_for
from terminal import Terminal

COMMAND = [sys.executable, "-Im", "tidegate_operator.cli"]
PORTS = ("--port", "0", "--admin-port", "0", "--ops-port", "0")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[list[Terminal]]:
    terminal.need()
    made: list[Terminal] = []
    yield made
    for one in made:
        one.close()


def shows(screen: Terminal, pattern: str) -> str:
    """Wait until the screen has a line like this."""

    def look() -> str:
        found = re.search(pattern, screen.text(), re.MULTILINE)
        return found[0] if found else ""

    try:
        return str(wait_for(look, pattern))
    except AssertionError:
        raise AssertionError(f"never on the screen: {pattern}\n{screen.text()}") from None


def shows_end(screen: Terminal) -> None:
    """Wait for the program's end; it went well."""
    wait_for(lambda: screen.status, "the end")
    assert screen.status == "status 0"


def test_up_is_watched_and_steered_by_keys(opened: list[Terminal], tmp_path: Path) -> None:
    file, data = tmp_path / "models.yaml", tmp_path / "data"
    file.write_text(sim("first", idle=600) + sim("second", idle=600, tokens_per_second=20))
    command = [*COMMAND, "up", "-f", str(file), "--data", str(data), *PORTS]
    screen = Terminal(tmp_path, command, {})
    opened.append(screen)
    shows(screen, r"^ready: http://")
    shows(screen, r"^model +phase +for +ready +in flight +held +in/s +out/s +cost")
    shows(screen, r"^> first +Idle")
    shows(screen, r"^up/down choose")
    screen.press("Down")
    shows(screen, r"^> second +Idle")
    screen.press("w")
    shows(screen, r"^> second +Ready +\w+ +1/1")
    shows(screen, r"^second: last start [0-9.]+s: launching [0-9.]+")
    screen.press("l")
    shows(screen, r"^--- second-1-")
    shows(screen, r'"event": "ready"')

    up = Platform(data, None)  # type: ignore[arg-type]
    with up.client() as client:
        body = {"model": "second", "max_tokens": 1000, "stream": True}
        body |= {"messages": [{"role": "user", "content": "hello"}]}
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            shows(screen, r"^> second +Ready +\w+ +1/1 +1 +0 .* [12][0-9]\.[0-9] ")
            assert answer.status_code == 200  # it was seen; its end is not waited for
    (usage,) = wait_for(
        lambda: up.api("/api/v1/usage", tenant="default", by="model")["data"], "the bill"
    )
    assert usage["completion_tokens"]
    shows(screen, rf"^cost this month: {re.escape(usage['amount_exact'])} USD$")
    screen.press("s")
    shows(screen, r"^> second +Idle")
    up.admin.close()
    screen.press("q")
    shows_end(screen)


def test_a_terminal_that_only_watches(opened: list[Terminal], tmp_path: Path) -> None:
    with platform(tmp_path, sim(idle=600)) as up:
        screen = Terminal(tmp_path, [*COMMAND, "status", "--watch", "--data", str(up.data)], {})
        opened.append(screen)
        shows(screen, r"^> sim +Idle")
        screen.press("w")
        shows(screen, r"^> sim +Ready")
        screen.press("q")
        shows_end(screen)
        assert up.process.poll() is None


def test_a_load_is_seen_while_it_runs(opened: list[Terminal], tmp_path: Path) -> None:
    with platform(tmp_path, sim(idle=600)) as up:
        command = [*COMMAND, "bench", "load", up.base, "--data", str(up.data), "--rate", "20"]
        command += ["--duration", "10m", "--max-tokens", "4"]
        # Its last screen stays while somebody reads it.
        screen = Terminal(tmp_path, ["sh", "-c", 'trap : INT; "$@"; read _', "sh", *command], {})
        opened.append(screen)
        shows(screen, r"^[0-9]+ s: [1-9][0-9]+ of [0-9]+ over, [0-9]+ in flight, 0 failed, ")
        screen.press("C-c")
        shows(screen, r"^times are milliseconds from the intended send time")
        shows(screen, r"^time to first token +[0-9]+ ")
        screen.press("Enter")
        wait_for(lambda: screen.status, "the end")


def test_chat_in_a_terminal(opened: list[Terminal], tmp_path: Path) -> None:
    with platform(tmp_path, sim(idle=600, start_seconds=3, tokens_per_second=10)) as up:
        command = [*COMMAND, "chat", "sim", "--max-tokens", "50", "--data", str(up.data)]
        screen = Terminal(tmp_path, command, {})
        opened.append(screen)
        shows(screen, r"^>")
        screen.press("hello", "Enter")
        shows(screen, r"^\([0-9]+s\) sim is starting: ")
        shows(screen, r"^ t0 t1 t2 t3")
        screen.press("C-c")  # ends the answer, not the conversation
        cut = shows(screen, r"^\[.*, interrupted\]")
        assert re.search(r" 0\.[0-9]+ USD, ", cut)
        shows(screen, r"^>$")
        screen.press("/reset", "Enter", "hello you", "Enter")
        last = shows(screen, r"^\[2 tokens in, 50 out, first token .*\]")
        assert re.search(r", [0-9]+\.[0-9] tokens/s, 0\.0000202 USD\]", last)
        screen.press("C-d")
        shows_end(screen)
