"""`tidegate up` as people and programs see it: settings in; events out as lines, NDJSON or a table.

The supervisor reports changes; this module only shows them. A terminal's table is imported where
there is a terminal: a service that writes to a log carries none of it.
"""

import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, cast

import msgspec

from tidegate_billing import settings as config
from tidegate_operator import local
from tidegate_operator.cli import output
from tidegate_operator.cli.places import default_cache, default_data

_SIZES = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def options(
    files: tuple[Path, ...], values: Mapping[str, str], environ: Mapping[str, str]
) -> local.UpOptions:
    """The supervisor's options from settings. Raises SettingError for a value out of range."""
    data = Path(values["DATA"]) if "DATA" in values else default_data(environ)
    cache = Path(values["CACHE"]) if "CACHE" in values else default_cache(environ)
    durability = config.choice(values, "DURABILITY", "strict", ("strict", "relaxed"))
    levels, forms = ("debug", "info", "warning", "error"), ("json", "text")
    return local.UpOptions(
        files=files,
        data=_place("DATA", data),
        cache=_place("CACHE", cache),
        host=config.text(values, "HOST", "127.0.0.1"),
        port=config.port(values, "PORT", 8080),
        admin_port=config.port(values, "ADMIN_PORT", 8081),
        ops_port=_ops_port(values),
        routers=config.integer(values, "ROUTERS", 1, 1, 16),
        durability=cast("Literal['strict', 'relaxed']", durability),
        log_level=config.choice(values, "LOG_LEVEL", "info", levels),
        log_format=config.choice(values, "LOG_FORMAT", "json", forms),
        # Not resolved: an environment's interpreter is a link that says where it is.
        vllm_python=(
            Path(values["VLLM_PYTHON"]).expanduser().absolute() if "VLLM_PYTHON" in values else None
        ),
        memory=_memory(values),
        minimum_idle=float(config.integer(values, "MINIMUM_IDLE_SECONDS", 10, 0, 86_400)),
    )


def _memory(values: Mapping[str, str]) -> int:
    given = values.get("MEMORY", "0")
    found = re.fullmatch(r"([0-9]{1,9})(Mi|Gi|Ti)", given)
    if found is None and given != "0":
        raise config.SettingError(
            f"TIDEGATE_MEMORY={given!r}: allowed are a size such as 512Mi, 6Gi or 1Ti, and 0 for "
            "all that is free"
        )
    return 0 if found is None else int(found[1]) * _SIZES[found[2]]


def _place(name: str, path: Path) -> Path:
    """The directory in full. What is told of it is UTF-8, in JSON and in a database's address."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise config.SettingError(f"TIDEGATE_{name}={str(path)!r}: the path is not UTF-8") from None
    return path.expanduser().absolute()


def _ops_port(values: Mapping[str, str]) -> int:
    try:
        return config.integer(values, "OPS_PORT", 9090, 0, 65533)
    except config.SettingError as error:
        because = "the two ports after it are used too (0: any free ones)"
        raise config.SettingError(f"{error}; {because}") from error


def up(chosen: local.UpOptions, *, as_json: bool) -> int:
    """Run the platform until it is told to stop. The exit status."""
    from tidegate_operator.local.notify import telling

    def run(report: Callable[[local.Event], None]) -> int:
        return local.run(chosen, telling(output.lasting(report), os.environ))

    if as_json:
        return run(print_event)
    if not sys.stdout.isatty() or os.environ.get("TERM", "") == "dumb":
        # A service's log is read by whatever reads its parts' logs.
        chose_json = os.environ.get("TIDEGATE_LOG_FORMAT") == "json"
        return run(print_event if chose_json else print_line)
    from tidegate_operator.cli import platform
    from tidegate_operator.cli.keyboard import Keyboard
    from tidegate_operator.cli.screen import Screen

    def connect() -> platform.Client:
        return platform.Client(platform.local(chosen.data))

    screen = Screen(connect=connect, keyboard=Keyboard.opened())
    try:
        return run(screen.report)
    finally:
        screen.close()


def print_event(event: local.Event) -> None:
    """One line of NDJSON, at once."""
    sys.stdout.buffer.write(msgspec.json.encode(event) + b"\n")
    sys.stdout.buffer.flush()


def print_line(event: local.Event) -> None:
    """One plain line: errors and warnings on stderr, everything else on stdout."""
    aside = event.event in {"error", "warning"}
    print(sentence(event), file=sys.stderr if aside else sys.stdout, flush=True)


def sentence(event: local.Event) -> str:
    """An event in words."""
    if event.event == "ready":
        return f"ready: {event.base_url} (management {event.admin_url})"
    if event.event == "model":
        words = [f"{event.name or event.deployment}: {event.phase}", event.detail]
        if event.warning:
            words.append(f"warning: {event.warning}")
        return ", ".join(word for word in words if word)
    if event.event == "error":
        return f"error: {event.name}: {event.message}" if event.name else f"error: {event.message}"
    if event.event == "file":
        return event.message
    if event.event == "warning":
        return f"warning: {event.warning}"
    if event.event == "stopping":
        return "stopping: what runs may finish"
    return f"stopped: {event.message}" if event.message else "stopped"


def duration(seconds: float) -> str:
    """Whole seconds, as `7s`, `1m07s` or `2h05m`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"
