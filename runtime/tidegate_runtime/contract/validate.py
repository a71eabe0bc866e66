"""A structural OpenAPI v3 schema applied to plain values: defaults, then checks.

Only what Kubernetes allows in a structural schema and this schema uses is understood; a keyword
beyond that is an error of ours and raises KeyError when the schema is first used, so that no rule
is ever skipped in silence. Every fault is found, not only the first, and says what is allowed.
Unlike a lax API server, a field that the schema does not know is a fault (as with
`kubectl --validate=strict`): a misspelt `idleSecond` would otherwise cost a GPU for a night.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import cache
from typing import Any, NamedTuple

from tidegate_runtime.contract.document import Path
from tidegate_runtime.contract.forms import meaning

Schema = dict[str, Any]
"""A node of an OpenAPI v3 schema."""


class Fault(NamedTuple):
    """What is wrong with the value at `path`."""

    path: Path
    message: str


def defaulted(value: Any, schema: Schema) -> Any:
    """`value` with the schema's defaults filled in, as the API server does it. A copy.

    Defaults apply inside defaults; a null where null is not allowed and a default exists is
    replaced by the default, one without default is dropped.
    """
    if isinstance(value, dict) and "properties" in schema:
        return _defaulted_object(value, schema["properties"])
    if isinstance(value, list) and "items" in schema:
        return [defaulted(item, schema["items"]) for item in value]
    return value


def _defaulted_object(value: dict[str, Any], properties: Mapping[str, Schema]) -> dict[str, Any]:
    filled = {k: v for k, v in value.items() if v is not None or k not in properties}
    for name, inner in properties.items():
        if name not in filled and "default" in inner:
            filled[name] = deepcopy(inner["default"])
        if name in filled:
            filled[name] = defaulted(filled[name], inner)
    return filled


def check(value: Any, schema: Schema, path: Path = ()) -> Iterator[Fault]:
    """Everything in which `value` breaks `schema`, CEL rules apart."""
    known = schema["type"]
    if not _is(value, known):
        got = "something else" if schema.get("format") == "password" else shown(value)
        yield Fault(path, f"must be {_article(known)}, got {got}{_hint(value, schema)}")
        return
    for keyword, limit in schema.items():
        yield from _CHECKS[keyword](value, limit, schema, path)


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return isinstance(value, _TYPES[kind])


_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "boolean": bool,
}


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aio' else 'a'} {kind}"


def _hint(value: Any, schema: Schema) -> str:
    if schema["type"] == "string" and isinstance(value, (int, float)):
        return " (put it in quotes)"
    if "enum" in schema:
        return f" (allowed: {', '.join(schema['enum'])})"
    if "minimum" in schema:
        return f" ({_range(schema)})"
    return ""


def shown(value: Any) -> str:
    """`value` for a message: short, and quoted where it is text."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _range(schema: Schema) -> str:
    return f"allowed: {schema['minimum']} to {schema['maximum']}"


def _minimum(value: Any, limit: float, schema: Schema, path: Path) -> Iterator[Fault]:
    if value < limit:
        yield Fault(path, f"must be at least {limit}, got {shown(value)} ({_range(schema)})")


def _maximum(value: Any, limit: float, schema: Schema, path: Path) -> Iterator[Fault]:
    if value > limit:
        yield Fault(path, f"must be at most {limit}, got {shown(value)} ({_range(schema)})")


def _enum(value: Any, limit: list[str], _: Schema, path: Path) -> Iterator[Fault]:
    if value not in limit:
        yield Fault(
            path,
            f"must be one of {', '.join(limit)}, got {shown(value)}{nearest(value, limit)}",
        )


def _pattern(value: str, limit: str, _: Schema, path: Path) -> Iterator[Fault]:
    if not compiled(limit).search(value):
        yield Fault(path, f"must match {limit}, got {shown(value)}{meaning(limit)}")


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    """A schema's pattern as Go reads it: `$` is the end of the text, not before a last newline."""
    ending = pattern.endswith("$") and not pattern.endswith("\\$")
    return re.compile(f"{pattern[:-1]}\\Z" if ending else pattern, re.ASCII)


def _min_length(value: str, limit: int, _: Schema, path: Path) -> Iterator[Fault]:
    if len(value) < limit:
        yield Fault(path, f"must have at least {limit} characters, has {len(value)}")


def _max_length(value: str, limit: int, _: Schema, path: Path) -> Iterator[Fault]:
    if len(value) > limit:
        yield Fault(path, f"must have at most {limit} characters, has {len(value)}")


def _max_items(value: list[Any], limit: int, _: Schema, path: Path) -> Iterator[Fault]:
    if len(value) > limit:
        yield Fault(path, f"must have at most {limit} items, has {len(value)}")


def _items(value: list[Any], limit: Schema, _: Schema, path: Path) -> Iterator[Fault]:
    for index, item in enumerate(value):
        yield from check(item, limit, (*path, index))


def _map_keys(value: list[Any], limit: list[str], _: Schema, path: Path) -> Iterator[Fault]:
    seen: set[tuple[Any, ...]] = set()
    for index, item in enumerate(value):
        if not isinstance(item, dict) or not all(isinstance(item.get(k), str) for k in limit):
            continue
        key = tuple(item[name] for name in limit)
        if key in seen:
            yield Fault((*path, index, limit[0]), f"{shown(key[0])} is given twice in this list")
        seen.add(key)


def _required(value: dict[str, Any], limit: list[str], _: Schema, path: Path) -> Iterator[Fault]:
    for name in limit:
        if name not in value:
            yield Fault((*path, name), "is required")


def _properties(
    value: dict[str, Any], limit: Mapping[str, Schema], _: Schema, path: Path
) -> Iterator[Fault]:
    for name, item in value.items():
        if name in limit:
            yield from check(item, limit[name], (*path, name))
        else:
            yield Fault((*path, name), f"is not a known field{did_you_mean(name, list(limit))}")


def nearest(value: Any, known: list[str]) -> str:
    """The one of `known` that was probably meant, as a question; empty where none is near."""
    folded = {name.lower(): name for name in known}
    near = difflib.get_close_matches(str(value).lower(), folded, n=1, cutoff=0.6)
    return f" (did you mean {folded[near[0]]}?)" if near else ""


def did_you_mean(value: Any, known: list[str]) -> str:
    """`nearest`, or all of `known` where none is near."""
    return nearest(value, known) or f" (known: {', '.join(known)})"


def _no_check(*_: Any) -> Iterator[Fault]:
    return iter(())


_CHECKS: Mapping[str, Callable[[Any, Any, Schema, Path], Iterator[Fault]]] = {
    "minimum": _minimum,
    "maximum": _maximum,
    "enum": _enum,
    "pattern": _pattern,
    "minLength": _min_length,
    "maxLength": _max_length,
    "maxItems": _max_items,
    "items": _items,
    "x-kubernetes-list-map-keys": _map_keys,
    "required": _required,
    "properties": _properties,
    # Checked elsewhere (type above, CEL in `cel`), or words for people and for the API server.
    "type": _no_check,
    "default": _no_check,
    "description": _no_check,
    "format": _no_check,
    "additionalProperties": _no_check,
    "x-kubernetes-validations": _no_check,
    "x-kubernetes-list-type": _no_check,
}
