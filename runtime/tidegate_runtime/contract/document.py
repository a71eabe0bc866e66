"""YAML text to plain values that remember their lines.

Two readers must agree: this one and kubectl, which reads YAML through Go and then as JSON. So
scalars are resolved here as Go does it and not as PyYAML does: a date stays a string, `1e3` is a
number, `12:30` is a string. What JSON cannot hold (infinities, keys that are no strings) and what
would be silently lost (duplicate keys) is a fault.
"""

import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

try:
    from yaml import CSafeLoader as _Loader
except ImportError:  # PyYAML was built without libyaml: slower, the same nodes
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

Path = tuple[str | int, ...]
"""Where a value stands: ("spec", "engine", "args", 0)."""

_MAX_VALUES = 100_000
_MAX_DEPTH = 64
_TOO_MUCH = "nested too deeply, or too much of it"
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON", "y", "Y"})
_FALSE = frozenset({"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF", "n", "N"})
_PLAIN_WORDS = _NULL | _TRUE - {"y", "Y"} | _FALSE - {"n", "N"}
_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)\Z")
_BASED = re.compile(r"([-+]?)(0x[0-9a-fA-F_]+|0o?[0-7_]+|0b[01_]+)\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_ENDLESS = re.compile(r"([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z")


@dataclass(frozen=True)
class Fault:
    """Something wrong with the text at `path`, line `line` (from 1)."""

    path: Path
    line: int
    message: str
    document: int = -1


@dataclass
class Document:
    """One document: its value, and the line of every value and key in it (from 1).

    `number` counts the text's documents from 0; a `Fault` names the one it is in (-1: none)."""

    value: Any
    line: int
    number: int
    lines: dict[Path, int] = field(default_factory=dict)

    def line_of(self, path: Path) -> int:
        """The line of `path`, or of the nearest parent that is in the text."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, self.line)


def load(text: str) -> tuple[list[Document], list[Fault]]:
    """All documents of `text` but empty ones, and what is wrong with it as YAML."""
    documents: list[Document] = []
    faults: list[Fault] = []
    try:
        if deep := _too_deep(text):
            return [], [deep]
        for number, node in enumerate(yaml.compose_all(text, Loader=_Loader)):
            if node is None:
                continue
            reader = _Reader(number)
            value = reader.read(node, ())
            faults += reader.faults
            if value is not None and not reader.broken:
                documents.append(Document(value, node.start_mark.line + 1, number, reader.lines))
    except yaml.MarkedYAMLError as error:
        faults.append(_syntax(error))
    except yaml.YAMLError as error:  # a reader error: bytes that are not text
        faults.append(Fault((), 1, f"not YAML: {str(error).splitlines()[0]}"))
    return documents, faults


def _too_deep(text: str) -> Fault | None:
    """Where the text is nested beyond what is read. Looked for in its events, before there are nodes:
    these are built by recursion in C, and enough brackets would end this process."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _MAX_DEPTH + 1:
                mark = event.start_mark
                return Fault((), mark.line + 1 if mark else 1, _TOO_MUCH)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return None


def _syntax(error: yaml.MarkedYAMLError) -> Fault:
    mark = error.problem_mark or error.context_mark
    parts = [part for part in (error.context, error.problem) if part]
    return Fault((), mark.line + 1 if mark else 1, f"not YAML: {': '.join(parts)}")


class _Reader:
    """Walks one document's nodes. Anchors make a graph of them, so the walk is bounded."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.lines: dict[Path, int] = {}
        self.faults: list[Fault] = []
        self.broken = False
        self._values = self._merges = 0

    def read(self, node: yaml.Node, path: Path) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        self._values += 1
        if self.broken:
            return None
        if self._values > _MAX_VALUES or len(path) > _MAX_DEPTH:
            self._fault(node, path, _TOO_MUCH)
            self.broken = True
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                for key, value in self._merge(value_node, path).items():
                    merged.setdefault(key, value)
                continue
            key = key_node.value
            if not isinstance(key, str):
                self._fault(key_node, path, "a key must be a string")
                continue
            inner = (*path, key)
            if key in found:
                message = f"given twice, first on line {self.lines[inner]}"
                self._fault(key_node, inner, message)
                continue
            self.lines[inner] = key_node.start_mark.line + 1
            found[key] = self.read(value_node, inner)
        return {**merged, **found}

    def _merge(self, node: yaml.Node, path: Path) -> dict[str, Any]:
        self._merges += 1  # it is read at the same path, so the path's length does not bound it
        if self._merges > _MAX_DEPTH:
            self._fault(node, path, _TOO_MUCH)
            self.broken = True
            return {}
        value = self.read(node, path)
        self._merges -= 1
        parts = value if isinstance(value, list) else [value]
        merged: dict[str, Any] = {}
        for part in parts:
            if not isinstance(part, dict):
                self._fault(node, path, "<< takes a mapping or a list of mappings")
                continue
            merged = {**part, **merged}
        return merged

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        text: str = node.value
        if getattr(node, "style", None):  # quoted or a block: a string as it stands
            return text
        if node.tag == "tag:yaml.org,2002:str" and (text in _PLAIN_WORDS or _INT.match(text)):
            return text  # only `!!str` brings the loader to call these a string
        if text in _NULL:
            return None
        if text in _TRUE or text in _FALSE:
            return text in _TRUE
        if _ENDLESS.match(text):
            self._fault(node, path, f"{text} is not a number that JSON can hold")
            return None
        return _number(text)

    def _fault(self, node: yaml.Node, path: Path, message: str) -> None:
        self.faults.append(Fault(path, node.start_mark.line + 1, message, self.number))


def _number(text: str) -> int | float | str:
    """The number that a plain scalar is; its text, as in Go, where it only looks like one: `0x_`, or more
    digits than a number holds."""
    try:
        found = _read_number(text)
    except ValueError:
        return text
    return text if found in {math.inf, -math.inf} else found


def _read_number(text: str) -> int | float | str:
    if _INT.match(text):
        return int(text.replace("_", ""))
    if based := _BASED.match(text):
        digits = based[2].replace("_", "")
        value = int(digits, 0) if digits[1:2] in "xob" else int(digits, 8)
        return -value if based[1] == "-" else value
    if _FLOAT.match(text):
        return float(text)
    return text
