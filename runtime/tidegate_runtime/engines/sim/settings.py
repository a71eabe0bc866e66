"""The command line as one frozen value.

Everything has a default, because the same flags stand in a resource's `engine.args`, where the
platform adds host, port, model and truth itself. The secret is not a flag: it comes from the
environment, where other users of the machine cannot read it.
"""

import argparse
import dataclasses
import ipaddress
import math
from collections.abc import Callable, Sequence
from typing import NoReturn

from tidegate_runtime.engines.sim import fault

PROGRAM = "python -m tidegate_runtime.engines.sim"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the engine is to do.

    `model`: the name it serves, and `aliases`: further ones that it answers to.
    `start_seconds`: how long the start takes. `ttft_ms`: from a request to its first token.
    `tokens_per_second`: per stream and choice; 0 is as fast as possible. `seed`: of embeddings.
    `memory_mib`: memory that it takes when it has started, as weights would.
    `truth`: path of the truth file ("": none).
    `shutdown_timeout`: seconds that running answers get after SIGTERM.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    model: str = "sim"
    aliases: tuple[str, ...] = ()
    start_seconds: float = 0.0
    ttft_ms: float = 20.0
    tokens_per_second: float = 50.0
    fail: tuple[fault.Fault, ...] = ()
    seed: int = 0
    memory_mib: int = 0
    truth: str = ""
    shutdown_timeout: float = 30.0
    no_guard: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that a request may give, the model's own first."""
        return (self.model, *self.aliases)


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises instead of leaving the process."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def options(args: Sequence[str]) -> Options:
    """Parse flags; pure.

    Raises ValueError naming the flag that is unknown, incomplete or out of range.
    """
    found = vars(_parser().parse_args(list(args)))
    found["fail"] = tuple(found["fail"] or ())
    found["aliases"] = tuple(found.pop("alias") or ())
    found["truth"] = found["truth"] or ""
    return Options(**found)


def usage() -> str:
    """The text of `--help`."""
    return _parser().format_help()


def guard_secret(chosen: Options, secret: str) -> bytes:
    """What callers must present; empty = nothing. A secret that is set always guards.

    Raises ValueError where an engine would stand open to more than this machine.
    """
    if secret or _loopback(chosen.host):
        return secret.encode()
    raise ValueError(
        "ENGINE_GUARD_SECRET is not set: set it to the secret that callers must present; "
        f"without one only a loopback --host is allowed, not {chosen.host!r}"
    )


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _parser() -> _Parser:
    default = Options()
    parser = _Parser(prog=PROGRAM, add_help=False, allow_abbrev=False)
    add = parser.add_argument
    add("--host", type=_text, default=default.host)
    add("--port", type=_whole(0, 65535), default=default.port, help="0: any free port")
    add("--model", type=_text, default=default.model)
    add("--alias", type=_text, action="append", metavar="NAME", help="a further name; repeatable")
    add("--start-seconds", type=_amount, default=default.start_seconds)
    add("--ttft-ms", type=_amount, default=default.ttft_ms)
    add("--tokens-per-second", type=_amount, default=default.tokens_per_second)
    add("--fail", type=_fault, action="append", metavar="KIND[@N]", help=", ".join(fault.KINDS))
    add("--seed", type=_whole(0, 2**63 - 1), default=default.seed)
    add("--memory-mib", type=_whole(0, 1_000_000), default=default.memory_mib)
    add("--truth", type=_text, metavar="FILE")
    add("--shutdown-timeout", type=_amount, default=default.shutdown_timeout)
    add("--no-guard", action="store_true", help="no warning where no secret is set")
    return parser


def _text(value: str) -> str:
    if not value or not value.isprintable():
        raise argparse.ArgumentTypeError(f"{value!r} must be printable text, not empty")
    return value


def _amount(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1e9:
        raise argparse.ArgumentTypeError(f"{value!r} must be a number from 0 to 1e9")
    return number


def _whole(least: int, most: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        digits = value.removeprefix("-")
        if not (digits.isascii() and digits.isdigit()) or not least <= int(value) <= most:
            raise argparse.ArgumentTypeError(
                f"{value!r} must be a whole number from {least} to {most}"
            )
        return int(value)

    return read


def _fault(value: str) -> fault.Fault:
    try:
        return fault.parse(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
