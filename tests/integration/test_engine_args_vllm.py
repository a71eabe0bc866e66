"""The list of refused arguments, held against the real vLLM's own parser.

vLLM's Python reads the command lines (`vllm_parser`), ours judges them. What counts is what the
parser makes of an argument, not how it is spelt: an option that opens a door must never be set by
a command line that `denied` lets through.
"""

import asyncio
import json
import os
import random
import subprocess
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import vllm_options
from tidegate_operator.cli.places import default_cache
from tidegate_runtime.contract.engine_args import DENIED, LIMITED, denied
from tidegate_runtime.engines.vllm import environment

pytestmark = pytest.mark.vllm

REFUSED, ALLOWED = vllm_options.REFUSED, vllm_options.ALLOWED
PARSER = Path(vllm_options.__file__).with_name("vllm_parser.py")
# Entries that no option of this vLLM has: names it had before, and families of names to come.
FOR_OTHER_VERSIONS = {"task", "model-tag", "*-host", "*-url", "*-uri"}


@cache
def python() -> Path:
    cache_folder = Path(os.environ.get("TIDEGATE_CACHE") or default_cache(os.environ))
    found = asyncio.run(environment.install(cache_folder, lambda _: None))
    return found.python


def real(lines: list[list[str]]) -> dict[str, Any]:
    """What vLLM's parser makes of each command line."""
    done = subprocess.run(
        [python(), PARSER],
        input=json.dumps(lines),
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "VLLM_PLUGINS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told: dict[str, Any] = json.loads(done.stdout)
    assert len(told["read"]) == len(lines)
    return told


def spellings(name: str) -> list[list[str]]:
    """Ways to write an option that might get past a list of names."""
    under = name.replace("-", "_")
    mixed = name.replace("-", "_", 1)
    ways = [[f"--{way}"] for way in (name, under, mixed)]
    ways += [[f"--{way}=x"] for way in (name, under, mixed)]
    ways += [[f"--{way}", "x"] for way in (name, under)]
    ways += [[f"--{name}.key=1"], [f"--{under}.key", "1"], [f"--{name}.key+=1,2"]]
    ways += [[f"--{name[:end]}"] for end in range(2, len(name))]
    ways += [[f"--{under[:end]}=x"] for end in range(2, len(name))]
    return [["--seed", "1", *way] for way in ways]


def bare(name: str) -> str:
    return name.removeprefix("no-")


def test_every_option_was_decided_about() -> None:
    known = {option.removeprefix("--") for option in real([])["options"]}
    assert known - {*REFUSED, *ALLOWED} == set(), "vLLM has options that nobody has looked at"
    assert {*REFUSED, *ALLOWED} - known == set(), "the lists hold options that vLLM has not"


def test_every_entry_refuses_an_option_that_vllm_has() -> None:
    idle = {
        pattern
        for pattern in (*DENIED, *LIMITED)
        if not any(fnmatchcase(bare(option), pattern) for option in (*REFUSED, *ALLOWED))
    }
    assert idle == FOR_OTHER_VERSIONS


def test_no_spelling_of_a_refused_option_gets_through() -> None:
    lines = [line for name in REFUSED for line in spellings(name)]
    doors = {bare(name) for name in REFUSED}
    opened, reached = [], set()
    for line, told in zip(lines, real(lines)["read"], strict=True):
        through = {bare(name) for name in told.get("set", ())} & doors
        reached |= through
        if through and not denied(line):
            opened.append((line, sorted(through)))
    assert opened == []
    # Else this would prove nothing: the parser did take each of them for what it is.
    assert doors == reached, f"never reached: {sorted(doors - reached)}"


def test_no_mixture_of_pieces_gets_through() -> None:
    chance = random.Random(20261128)
    doors = {bare(name) for name in REFUSED}
    names = [*REFUSED, *ALLOWED]

    def piece() -> str:
        name = chance.choice(names)
        name = name[: chance.randint(2, len(name))] if chance.random() < 0.3 else name
        name = name.replace("-", "_") if chance.random() < 0.3 else name
        end = chance.choice(["", "", "=x", "=1", ".key=1", ".a.b=1", ".key", ".key+"])
        values = ["x", "1", "-1", "-1.5", "{}", '{"a": 1}', "=", "", ".", "--", "-", "a.b"]
        return chance.choice(
            [f"--{name}{end}", f"--{name}{end}", f"-{name}", chance.choice(values)]
        )

    lines = [[piece() for _ in range(chance.randint(1, 5))] for _ in range(20_000)]
    lines = [line for line in lines if not denied(line)]
    assert len(lines) > 1000
    opened = [
        (line, sorted(through))
        for line, told in zip(lines, real(lines)["read"], strict=True)
        if (through := {bare(name) for name in told.get("set", ())} & doors)
    ]
    assert opened == []
