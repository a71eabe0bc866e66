"""How every process reads its settings: `TIDEGATE_*` from the environment, under its flags.

Pure but for one thing: a secret named by `TIDEGATE_X_FILE` is read from that file, so that it
never has to stand in an environment that `ps` or a crash report could show. A name nobody knows
stops the process, because a misspelt setting that is silently ignored is found in production.
No error ever repeats a secret's value.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

PREFIX = "TIDEGATE_"
SECRETS = frozenset(
    {"API_KEY", "ADMIN_TOKEN", "INTERNAL_TOKEN", "KEY_PEPPER", "DATABASE_URL", "GUARD_KEY"}
)
"""Settings that may come from a file, and whose values no error message shows."""

KNOWN: frozenset[str] = frozenset(
    """
    DATA CACHE HOST PORT ADMIN_PORT OPS_PORT BASE_URL API_KEY ADMIN_URL ADMIN_TOKEN BILLING_URL
    INTERNAL_TOKEN KEY_PEPPER DATABASE_URL JOURNAL_DIR DURABILITY LOG_LEVEL LOG_FORMAT
    OPERATOR_URL WORLD_URL NAME LISTEN_FD OPS_FD SEGMENT_BYTES ROUTERS
    NAMESPACE PLATFORM ROUTER_SERVICE GUARD_KEY DRAIN_SECONDS PROBE
    WEBHOOK_DESTINATIONS VLLM_PYTHON MEMORY MINIMUM_IDLE_SECONDS
    """.split()  # noqa: SIM905 - twenty names read better than twenty lines
)
"""Every setting's name, without its prefix. A process uses those it needs."""


class SettingError(ValueError):
    """A setting is unknown, missing or out of range; the message names it and what is allowed."""


def read(flags: Mapping[str, str | None], environ: Mapping[str, str]) -> dict[str, str]:
    """The settings that are set, by name without prefix; a flag wins over the environment.

    Flags may be spelt `ADMIN_PORT`, `admin_port` or `admin-port`; None and empty mean "not given".
    Raises SettingError for an unknown name, a secret given twice, or a file that can't be read.
    """
    values = _from_environ(environ)
    for flag, value in flags.items():
        name = flag.lstrip("-").replace("-", "_").upper()
        if value is None or value == "":
            continue
        base = _secret_file(name)
        if base is not None:
            values[base] = _read_secret(name, value)
        elif name in KNOWN:
            values[name] = value
        else:
            raise SettingError(f"flag {flag!r} is not a setting; known: {_known()}")
    return values


def _from_environ(environ: Mapping[str, str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX):
            continue
        name = variable.removeprefix(PREFIX)
        base = _secret_file(name)
        if base is None and name not in KNOWN:
            raise SettingError(f"{variable} is not a setting; known: {_known()}")
        value = environ[variable]
        if value == "":
            continue
        if base is None:
            values[name] = value
        elif environ.get(PREFIX + base, "") != "":
            raise SettingError(f"{PREFIX}{base} and {variable} are both set; set one of them")
        else:
            values[base] = _read_secret(name, value)
    return values


def _secret_file(name: str) -> str | None:
    base = name.removesuffix("_FILE")
    return base if base != name and base in SECRETS else None


def _read_secret(name: str, path: str) -> str:
    try:
        value = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(
            f"{PREFIX}{name}={path!r} can't be read ({getattr(error, 'strerror', '') or 'not UTF-8'});"
            " allowed: the path of a readable text file"
        ) from error
    if not value:
        raise SettingError(f"{PREFIX}{name}={path!r} is empty; allowed: a file with the secret")
    return value


def _known() -> str:
    return " ".join(sorted(PREFIX + name for name in KNOWN))


def _refuse(name: str, value: str, allowed: str) -> SettingError:
    shown = "(not shown)" if name in SECRETS else repr(value)
    return SettingError(f"{PREFIX}{name}={shown} is out of range; allowed: {allowed}")


def integer(values: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included. Raises SettingError."""
    value = values.get(name)
    if value is None:
        return default
    allowed = f"a whole number from {low} to {high}"
    if not (value.isascii() and value.removeprefix("-").isdigit() and len(value) <= 20):
        raise _refuse(name, value, allowed)
    number = int(value)
    if not low <= number <= high:
        raise _refuse(name, value, allowed)
    return number


def port(values: Mapping[str, str], name: str, default: int) -> int:
    """A TCP port; 0 means any free one. Raises SettingError."""
    return integer(values, name, default, 0, 65535)


def text(values: Mapping[str, str], name: str, default: str) -> str:
    """The value as it stands, or the default."""
    return values.get(name, default)


def choice(values: Mapping[str, str], name: str, default: str, allowed: Collection[str]) -> str:
    """One of `allowed`. Raises SettingError."""
    value = values.get(name, default)
    if value not in allowed:
        raise _refuse(name, value, " | ".join(allowed))
    return value


def required(values: Mapping[str, str], name: str) -> str:
    """The value of a setting without which the process can't work. Raises SettingError."""
    value = values.get(name, "")
    if not value:
        hint = f" (or {PREFIX}{name}_FILE)" if name in SECRETS else ""
        raise SettingError(f"{PREFIX}{name} is not set; set it{hint} to a value that isn't empty")
    return value
