"""The schema's CEL rules, evaluated here as the API server evaluates them.

cel-python is imported on the first rule and not before: it costs 15 MB and a third of a second,
and of our processes only the one that reads resources needs it. Values are typed by the schema and
not by how they are written: `panicThreshold: 2` is a double to CEL, as it is in the API server,
where comparing it with an int literal would be a type error.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

from tidegate_runtime.contract.document import Path
from tidegate_runtime.contract.validate import Fault, Schema


def broken_rules(
    value: Any, schema: Schema, path: Path = (), faulty: frozenset[Path] = frozenset()
) -> Iterator[Fault]:
    """The rules that `value` breaks. It has its defaults; parts with `faulty` paths are skipped."""
    if isinstance(value, dict):
        if not any(one[: len(path)] == path for one in faulty):
            yield from _broken(value, schema, path)
        for name, inner in schema.get("properties", {}).items():
            if name in value:
                yield from broken_rules(value[name], inner, (*path, name), faulty)
    elif isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from broken_rules(item, schema["items"], (*path, index), faulty)


def _broken(value: dict[str, Any], schema: Schema, path: Path) -> Iterator[Fault]:
    rules = schema.get("x-kubernetes-validations", ())
    if not rules:
        return
    typed = _typed(value, schema)
    for rule in rules:
        if not _holds(rule["rule"], typed):
            yield Fault(path, rule["message"])


def _holds(rule: str, value: Any) -> bool:
    from celpy import celtypes

    # An error inside a rule is a defect of the rule and not of the resource: it raises.
    verdict = _program(rule).evaluate({"self": value})
    assert isinstance(verdict, (bool, celtypes.BoolType)), rule
    return bool(verdict)


@cache
def _environment() -> Any:
    import celpy

    return celpy.Environment()


@cache
def _program(rule: str) -> Any:
    environment = _environment()
    return environment.program(environment.compile(rule))


def _typed(value: Any, schema: Schema) -> Any:
    from celpy import celtypes

    kind = schema["type"]
    if kind == "object":
        known = schema.get("properties", {})
        return celtypes.MapType(
            {
                celtypes.StringType(name): _typed(item, known[name])
                for name, item in value.items()
                if name in known
            }
        )
    if kind == "array":
        return celtypes.ListType([_typed(item, schema["items"]) for item in value])
    simple = {
        "string": celtypes.StringType,
        "integer": celtypes.IntType,
        "number": celtypes.DoubleType,
        "boolean": celtypes.BoolType,
    }
    return simple[kind](value)
