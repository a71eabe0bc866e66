"""What `spec.engine.args` and `spec.engine.env` may say, per engine.

The platform sets part of an engine's command line and environment itself: ports, keys, the guard,
what metering needs. Arguments are appended and the last one wins, so one that repeats a setting of
ours would undo it; those are refused by name, with the reason. For vLLM that is a list of what is
denied (`engine_args`); sim's flags are few, so here they are listed with what each takes.
"""

import re
from collections.abc import Iterator, Mapping

from tidegate_runtime.contract.document import Path
from tidegate_runtime.contract.engine_args import denied, denied_env
from tidegate_runtime.contract.spec import EngineSpec
from tidegate_runtime.contract.validate import did_you_mean

_NUMBER = r"[0-9]{1,9}(\.[0-9]{1,9})?"
_FAIL = (
    r"(crash|hang|malformed)(@[0-9]{1,9})?"
    r"|(refuse|http500|slow|no-usage|wrong-usage)(@[1-9][0-9]{0,8})?"
    r"|die-at-start"
)
_FAIL_WORDS = (
    "KIND or KIND@N, with KIND one of "
    "refuse, crash, hang, http500, slow, die-at-start (no @N), malformed, no-usage, wrong-usage"
)

SIM_FLAGS: Mapping[str, tuple[str, str]] = {
    "--start-seconds": (_NUMBER, "seconds, such as 1.5"),
    "--ttft-ms": (_NUMBER, "milliseconds, such as 20"),
    "--tokens-per-second": (_NUMBER, "a rate per stream, such as 200 (0: no limit)"),
    "--fail": (_FAIL, _FAIL_WORDS),
    "--seed": (r"[0-9]{1,18}", "a whole number"),
    "--memory-mib": (r"[0-9]{1,6}", "memory to take, a whole number of MiB"),
}
"""The sim engine's flags that a resource may give: pattern of the value, and what it takes."""

SIM_PLATFORM_FLAGS: Mapping[str, str] = {
    "--host": "the platform decides where the engine listens",
    "--port": "the platform decides where the engine listens",
    "--model": "the model's name comes from spec.model",
    "--alias": "the model's other names come from spec.model.aliases",
    "--truth": "metering depends on it",
    "--no-guard": "it would change who may call the engine",
    "--shutdown-timeout": "spec.drain decides how long a replica may drain",
}


def refused(engine: EngineSpec) -> Iterator[tuple[Path, str]]:
    """Each argument and variable that is not allowed: its path below `spec`, and why."""
    yield from _sim_arguments(engine.args) if engine.type == "sim" else _arguments(engine.args)
    names = [variable.name for variable in engine.env]
    for denial in denied_env(names):
        path = ("engine", "env", names.index(denial.argument), "name")
        yield path, f"{denial.argument} is refused: {denial.reason}"


def _arguments(args: list[str]) -> Iterator[tuple[Path, str]]:
    # Denials come in the arguments' order, so each is looked for after the one before it.
    start = 0
    for denial in denied(args):
        start = args.index(denial.argument, start) + 1
        shown = denial.argument.partition("=")[0]  # what follows may be a key or a token
        yield ("engine", "args", start - 1), f"{shown!r} is refused: {denial.reason}"


def _sim_arguments(args: list[str]) -> Iterator[tuple[Path, str]]:
    index = 0
    while index < len(args):
        path: Path = ("engine", "args", index)
        flag, joined, value = args[index].partition("=")
        index += 1
        known = flag in SIM_FLAGS
        if flag in SIM_PLATFORM_FLAGS:
            yield path, f"{flag} is refused: {SIM_PLATFORM_FLAGS[flag]}"
        elif not known:
            yield path, f"{flag!r} is not a flag of sim{did_you_mean(flag, list(SIM_FLAGS))}"
        if not joined and index < len(args) and not args[index].startswith("--"):
            value, path = args[index], ("engine", "args", index)
            index += 1
        if known and not re.fullmatch(SIM_FLAGS[flag][0], value):
            yield path, f"{flag} takes {SIM_FLAGS[flag][1]}, got {value!r}"
