"""Fenced blocks of the documentation, and whether a program's output looks as the page says."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
_BLOCK = re.compile(
    r"(?:^<!-- test: (?P<mark>[^\n]*?) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_NUMBERS = re.compile(r"\d[\d,]*")


class Block(NamedTuple):
    """One fenced block. `mark`: what the comment right above it tells a test to do with it."""

    mark: str
    kind: str
    text: str
    line: int


def blocks(path: Path) -> Iterator[Block]:
    """All of a page, in order."""
    text = path.read_text()
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(found["mark"] or "", found["kind"], found["text"], line)


def unlike(expected: str, output: str) -> str:
    """The first line of `output` that is not as `expected` has it; empty where it all is.

    Numbers and spaces may be others. `...` stands for any text in a line, and for any lines."""
    patterns = [_pattern(line) for line in expected.splitlines()]
    lines = [line for line in output.splitlines() if line.strip()]
    return _unlike(patterns, lines)


def _unlike(patterns: list[str], lines: list[str]) -> str:
    any_lines = False
    for pattern in patterns:
        if pattern == "\\.\\.\\.":
            any_lines = True
            continue
        while lines and any_lines and not re.fullmatch(pattern, lines[0].strip()):
            lines = lines[1:]
        if not lines:
            return f"nothing is like {pattern}"
        if not re.fullmatch(pattern, lines[0].strip()):
            return lines[0]
        lines, any_lines = lines[1:], False
    return lines[0] if lines and not any_lines else ""


def _pattern(line: str) -> str:
    if line.strip() == "...":
        return "\\.\\.\\."
    words = []
    for word in line.split():
        parts = [_NUMBERS.sub("\0", part) for part in word.split("...")]
        escaped = [re.escape(part).replace(re.escape("\0"), r"\d[\d,]*") for part in parts]
        words.append(".*".join(escaped))
    return r"\s+".join(words)
