"""As a service: what systemd is told, the example unit, and the two forms of a log."""

import configparser
import json
import logging
import os
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tidegate_billing.process import log_to_stderr
from tidegate_billing.settings import KNOWN, SettingError
from tidegate_operator.local import Event, notify
from tidegate_operator.local.options import UpOptions

ROOT = Path(__file__).resolve().parents[2]


def event(kind: str, **more: str) -> Event:
    return Event(ts=1.0, event=kind, **more)  # type: ignore[arg-type]


def ready() -> Event:
    return event("ready", base_url="http://127.0.0.1:8080")


@pytest.mark.parametrize(
    ("said", "models", "message"),
    [
        (ready(), {}, "READY=1\nSTATUS=serving on http://127.0.0.1:8080"),
        (
            ready(), {"a": "Idle", "b": "Idle", "c": "Failed"},
            "READY=1\nSTATUS=serving on http://127.0.0.1:8080; models: 1 Failed, 2 Idle",
        ),
        (event("model", name="a"), {"a": "Ready", "b": ""}, "STATUS=serving; models: 1 Pending, 1 Ready"),
        (event("error", name="m", message="two\nlines"), {}, "STATUS=m: two lines"),
        (event("error", message="x" * 999), {}, "STATUS=" + "x" * 200),
        (event("warning", warning="w"), {}, ""),
        (event("stopping"), {"a": "Ready"}, "STOPPING=1\nSTATUS=stopping: what runs may finish"),
        (event("stopped"), {}, ""),
    ],
)  # fmt: skip
def test_what_systemd_is_told(said: Event, models: dict[str, str], message: str) -> None:
    assert notify.message_of(said, models) == message


@pytest.mark.parametrize("abstract", [False, True])
def test_it_is_told_over_either_kind_of_socket(abstract: bool, tmp_path: Path) -> None:
    name = f"@tidegate-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0", 1))
        manager.settimeout(5)
        environ = {"NOTIFY_SOCKET": name, "PATH": "/bin"}
        seen: list[Event] = []
        report = notify.telling(seen.append, environ)
        assert environ == {"PATH": "/bin"}, "no child may speak in our name"
        sent = [ready(), event("model", name="m", phase="Idle"), event("stopping")]
        for one in (sent[0], sent[1], sent[1], sent[2]):
            report(one)
        assert seen == [sent[0], sent[1], sent[1], sent[2]]
        heard = [manager.recv(4096).decode() for _ in range(3)]
        assert [message.partition("\n")[0] for message in heard] == [
            "READY=1", "STATUS=serving; models: 1 Idle", "STOPPING=1",
        ]  # fmt: skip


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/at/all", "@nobody-listens-here"])
def test_a_manager_that_is_not_there_stops_nothing(address: str) -> None:
    seen: list[Event] = []
    notify.telling(seen.append, {"NOTIFY_SOCKET": address})(ready())
    assert len(seen) == 1


def test_the_example_unit_fits_the_program() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ROOT / "examples" / "tidegate.service")
    service = unit["Service"]
    assert (service["Type"], service["KillMode"]) == ("notify", "mixed")
    program, *words = shlex.split(service["ExecStart"])
    assert program.endswith("/bin/tidegate")
    assert words[:2] == ["up", "-f"]
    text = (ROOT / "examples" / "tidegate.service").read_text()
    names = {word.partition("=")[0] for word in text.replace("=TIDEGATE_", " TIDEGATE_").split()}
    ours = {name.removeprefix("TIDEGATE_") for name in names if name.startswith("TIDEGATE_")}
    assert ours == {"DATA", "CACHE", "LOG_FORMAT"}
    assert ours <= KNOWN
    slowest = UpOptions(files=(), data=Path(), cache=Path()).stop_seconds + 2 * 10.0 + 5.0
    assert float(service["TimeoutStopSec"]) > slowest


@pytest.fixture
def unconfigured() -> Iterator[None]:
    before = logging.getLogger().handlers[:]
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = before


@pytest.mark.parametrize("form", ["json", "text", ""])
def test_a_log_is_json_or_text(
    form: str, unconfigured: None, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to_stderr("info", {"TIDEGATE_LOG_FORMAT": form} if form else {})
    log = structlog.get_logger()
    log.debug("unseen")
    try:
        int("seen")
    except ValueError:
        log.warning("broken", model="m", exc_info=True)
    said = capsys.readouterr().err
    assert "ValueError: invalid literal" in said
    if form == "text":
        assert "[warning  ] broken" in said
        assert "model=m" in said
        assert "\x1b" not in said
    else:
        line = json.loads(said)
        assert (line["level"], line["event"], line["model"]) == ("warning", "broken", "m")


def test_another_form_is_refused_by_name() -> None:
    with pytest.raises(SettingError, match=r"TIDEGATE_LOG_FORMAT='xml'.* json \| text"):
        log_to_stderr("info", {"TIDEGATE_LOG_FORMAT": "xml"})
