"""What `tidegate up` makes of settings and events."""

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from tidegate_billing.settings import SettingError
from tidegate_operator.cli import up
from tidegate_operator.cli.places import default_cache, default_data
from tidegate_operator.cli.screen import Screen, moving
from tidegate_operator.local import Event, UpOptions


def chosen(**values: str) -> UpOptions:
    return up.options((Path("m.yaml"),), values, {"XDG_DATA_HOME": "/d", "XDG_CACHE_HOME": "/c"})


def model(phase: str, **more: str) -> Event:
    return Event(ts=1.0, event="model", name="m", deployment="default/m", phase=phase, **more)


def test_defaults_are_the_documented_ones() -> None:
    options = chosen()
    assert (options.data, options.cache) == (Path("/d/tidegate"), Path("/c/tidegate"))
    assert (options.host, options.port, options.admin_port) == ("127.0.0.1", 8080, 8081)
    assert (options.ops_port, options.routers, options.durability) == (9090, 1, "strict")


def test_settings_win() -> None:
    options = chosen(DATA="/x", PORT="0", ROUTERS="2", DURABILITY="relaxed", LOG_LEVEL="debug")
    assert (options.data, options.port, options.routers) == (Path("/x"), 0, 2)
    assert (options.durability, options.log_level) == ("relaxed", "debug")


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "70000"), ("ROUTERS", "0"), ("DURABILITY", "sometimes"), ("LOG_LEVEL", "loud")],
)
def test_a_value_out_of_range_names_its_setting(name: str, value: str) -> None:
    with pytest.raises(SettingError, match=f"TIDEGATE_{name}"):
        chosen(**{name: value})


@pytest.mark.parametrize("value", ["65534", "65535", "-1"])
def test_the_three_operations_ports_must_exist(value: str) -> None:
    with pytest.raises(SettingError, match=r"TIDEGATE_OPS_PORT.* 0 to 65533.*two ports after it"):
        chosen(OPS_PORT=value)
    assert (chosen(OPS_PORT="65533").ops_port, chosen(OPS_PORT="0").ops_port) == (65533, 0)


@pytest.mark.parametrize("name", ["DATA", "CACHE"])
def test_a_directory_that_cannot_be_told_is_refused(name: str) -> None:
    with pytest.raises(SettingError, match=f"TIDEGATE_{name}=.*not UTF-8"):
        up.options((), {name: "/tmp/caf\udce9"}, {})


def test_a_relative_xdg_directory_is_ignored() -> None:
    home = Path("~").expanduser()
    assert default_data({"XDG_DATA_HOME": "rel"}) == home / ".local/share/tidegate"
    assert default_cache({}) == home / ".cache/tidegate"


def test_events_are_one_line_each(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    up.print_event(model("Starting", detail="loading"))
    line = json.loads(capfdbinary.readouterr().out)
    assert line["event"] == "model"
    assert line["phase"] == "Starting"


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    up.print_line(Event(ts=1, event="ready", base_url="http://g", admin_url="http://a"))
    up.print_line(model("Starting", detail="loading"))
    up.print_line(Event(ts=1, event="error", name="m", message="it died"))
    up.print_line(Event(ts=1, event="warning", warning="no ModelDeployment in f"))
    up.print_line(Event(ts=1, event="stopped"))
    shown = capsys.readouterr()
    assert shown.out == "ready: http://g (management http://a)\nm: Starting, loading\nstopped\n"
    assert shown.err == "error: m: it died\nwarning: no ModelDeployment in f\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0s"), (7.9, "7s"), (67, "1m07s"), (7500, "2h05m")]
)
def test_durations(seconds: float, text: str) -> None:
    assert up.duration(seconds) == text


def test_only_a_model_on_its_way_is_watched() -> None:
    assert moving(model("Starting"))
    assert moving(model("Terminating"))
    assert not any(moving(model(phase)) for phase in ("Idle", "Ready", "Failed", "Suspended"))


def test_the_screen_shows_each_model_and_ends() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    screen = Screen(console, clock=lambda: 9.0)
    screen.report(Event(ts=1.0, event="ready", base_url="http://g", admin_url="http://a"))
    screen.report(model("Starting", detail="loading"))
    deadline = time.monotonic() + 5
    while "loading" not in out.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)
    screen.close()
    assert "http://g" in out.getvalue()
    assert "8s" in out.getvalue()


@pytest.mark.parametrize(
    ("given", "expected"),
    [("0", 0), ("512Mi", 512 * 2**20), ("6Gi", 6 * 2**30), ("1Ti", 2**40)],
)
def test_memory_for_engines(given: str, expected: int) -> None:
    assert chosen(MEMORY=given).memory == expected
    assert chosen().memory == 0


@pytest.mark.parametrize("given", ["6", "6GB", "-1Gi", "1.5Gi", "Gi", "6Gi "])
def test_memory_that_is_no_size_is_named(given: str) -> None:
    with pytest.raises(SettingError, match=r"TIDEGATE_MEMORY=.*allowed are a size such as 512Mi"):
        chosen(MEMORY=given)


def test_how_long_a_model_is_left_alone() -> None:
    assert chosen().minimum_idle == 10.0
    assert chosen(MINIMUM_IDLE_SECONDS="3").minimum_idle == 3.0
    with pytest.raises(SettingError, match="MINIMUM_IDLE_SECONDS"):
        chosen(MINIMUM_IDLE_SECONDS="-1")
