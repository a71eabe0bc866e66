"""Resources from text and files: every problem with its file, line and field.

Local mode has no API server to refuse a bad resource, so this does it, by the same schema,
defaults and rules. A resource with a problem is left out; the others of the same file are kept.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import msgspec

from tidegate_runtime.contract import cel, document, engine_checks
from tidegate_runtime.contract.document import Path
from tidegate_runtime.contract.links import ModelView
from tidegate_runtime.contract.schema import API_VERSION, KIND, spec_schema
from tidegate_runtime.contract.spec import EngineSpec, Metadata, ModelDeployment, Spec
from tidegate_runtime.contract.validate import Fault, Schema, check, defaulted, did_you_mean, shown

__all__ = [
    "ModelDeployment",
    "Parsed",
    "Problem",
    "dotted",
    "is_resource_file",
    "judge",
    "load",
    "parse",
    "read",
    "twice",
    "view",
]

_MAX_BYTES = 1 << 20
_NAME = {
    "type": "string",
    "minLength": 1,
    "maxLength": 253,
    "pattern": r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$",
}
_NAMESPACE = {
    "type": "string",
    "minLength": 1,
    "maxLength": 63,
    "pattern": r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$",
}
_TEXT = {"type": "object", "additionalProperties": {"type": "string"}}
_METADATA: Schema = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": _NAME,
        "namespace": _NAMESPACE,
        "labels": _TEXT,
        "annotations": _TEXT,
    },
}
# What `kubectl get -o yaml` adds: harmless to us, so a resource fetched from a cluster can be read.
_SERVER_FIELDS = frozenset(
    {
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generation",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    }
)
_MADE_BY = {
    "Tenant": " (in a cluster only; here: `tidegate tenant`)",
    "PriceBook": " (in a cluster only; here: `tidegate price-book`)",
}
_TOP = ("apiVersion", "kind", "metadata", "spec", "status")


@dataclass(frozen=True)
class Problem:
    """Why a resource is refused. `line` counts from 1, 0 where there is no text; `field` is a
    path such as `spec.engine.args[0]`, empty for the file as a whole."""

    file: str
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return (
            f"{where}: {self.field}: {self.message}" if self.field else f"{where}: {self.message}"
        )


@dataclass(frozen=True)
class Parsed:
    """The good resources, and what is wrong with the others."""

    resources: list[ModelDeployment] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def read(paths: Sequence[FilePath]) -> Parsed:
    """All resources of the files and directories (`*.yaml` and `*.yml`, not recursive, sorted).

    A path that is missing or cannot be read is a problem, as is a namespace/name met twice.
    """
    problems: list[Problem] = []
    found: list[ModelDeployment] = []
    for path in _files(paths, problems):
        try:
            data = path.read_bytes()
        except OSError as error:
            problems.append(Problem(str(path), 0, "", f"cannot be read: {error.strerror}"))
            continue
        found += _parse(data, str(path), problems)
    return Parsed(_distinct(found, problems), problems)


def parse(text: str, source: str) -> Parsed:
    """All resources of one text; `source` names it in problems."""
    return load(text.encode("utf-8", "surrogatepass"), source)


def load(data: bytes, source: str) -> Parsed:
    """All resources of one file's content; `source` names it in problems."""
    problems: list[Problem] = []
    return Parsed(_distinct(_parse(data, source, problems), problems), problems)


def is_resource_file(name: str) -> bool:
    """Whether a file of this name in a directory is read: `*.yaml` and `*.yml`, none that is hidden
    (editors lock files under such names)."""
    return name.endswith((".yaml", ".yml")) and not name.startswith(".")


def twice(one: ModelDeployment, first: ModelDeployment) -> Problem:
    """That `one` is of a deployment that `first` is of already."""
    where = f"{first.source_file}:{first.source_line}"
    message = f"{one.deployment} is given twice, first in {where}"
    return Problem(one.source_file, one.source_line, "metadata.name", message)


def judge(value: Any) -> tuple[ModelDeployment | None, list[str]]:
    """A resource as an API server gives it, and what only we can see is wrong: `field: message`."""
    made, faults = _resource(value, "")
    return made, [f"{dotted(fault.path)}: {fault.message}" for fault in faults]


def view(resource: ModelDeployment, created: float) -> ModelView:
    """What a router needs to know of `resource`, first seen at `created` (seconds since epoch)."""
    spec = resource.spec
    return ModelView(
        deployment=resource.deployment,
        owner=resource.owner,
        name=resource.served_name,
        aliases=spec.model.aliases,
        created=created,
        visibility=spec.access.visibility,
        tenants=spec.access.tenants,
        task=spec.model.task,
        suspend=spec.suspend,
        target_concurrency=spec.scaling.target_concurrency,
        max_concurrency=spec.scaling.concurrency_limit,
        max_replicas=spec.scaling.max_replicas,
        hold_seconds=spec.cold_start.hold_seconds,
        non_stream_hold_seconds=spec.cold_start.non_stream_hold_seconds,
        max_held=spec.cold_start.max_held,
        heartbeat_seconds=spec.cold_start.heartbeat_seconds,
        stall_seconds=spec.engine.stall_seconds,
        strategy=spec.routing.strategy,
    )


def dotted(path: Path) -> str:
    """A path as people write it: `spec.engine.args[0]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _files(paths: Sequence[FilePath], problems: list[Problem]) -> Iterator[FilePath]:
    seen: set[FilePath] = set()
    for path in paths:
        inside = [path]
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if is_resource_file(p.name))
            if not inside:
                problems.append(Problem(str(path), 0, "", "has no *.yaml or *.yml file"))
        elif not path.exists():
            problems.append(Problem(str(path), 0, "", "does not exist"))
            continue
        for one in inside:
            if one.is_dir() or one.resolve() in seen:
                continue  # a file named twice is read once
            seen.add(one.resolve())
            yield one


def _parse(data: bytes, source: str, problems: list[Problem]) -> list[ModelDeployment]:
    if len(data) > _MAX_BYTES:
        problems.append(Problem(source, 0, "", f"is larger than {_MAX_BYTES} bytes"))
        return []
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problems.append(Problem(source, line, "", "not UTF-8"))
        return []
    documents, faults = document.load(text)
    problems += [Problem(source, f.line, dotted(f.path), f.message) for f in faults]
    found: list[ModelDeployment] = []
    for one in documents:
        resource, wrong = _resource(one.value, source)
        for path, message in wrong:
            problems.append(Problem(source, one.line_of(path), dotted(path), message))
        lost = any(fault.document == one.number for fault in faults)
        if resource is not None and not lost:
            line = one.line_of(("metadata", "name"))
            found.append(msgspec.structs.replace(resource, source_line=line))
    problems.sort(key=lambda problem: (problem.file != source, problem.line))
    return found


def _resource(value: Any, source: str) -> tuple[ModelDeployment | None, list[Fault]]:
    if not isinstance(value, dict):
        return None, [Fault((), f"must be a {KIND}, got {shown(value)}")]
    faults = list(_kind(value))
    if faults:
        return None, faults
    faults += [
        Fault((name,), f"is not a known field{did_you_mean(name, list(_TOP))}")
        for name in value
        if name not in _TOP
    ]
    metadata = _metadata(value.get("metadata"), faults)
    spec = _spec(value.get("spec"), faults)
    if faults or metadata is None or spec is None:
        return None, faults
    made = ModelDeployment(metadata=metadata, spec=spec, source_file=source)
    faults += _alias_of_itself(made)
    return (None if faults else made), faults


def _kind(value: dict[str, Any]) -> Iterator[Fault]:
    for name, allowed in (("apiVersion", API_VERSION), ("kind", KIND)):
        if name not in value:
            yield Fault((name,), f"is required (allowed: {allowed})")
        elif value[name] != allowed:
            hint = _MADE_BY.get(str(value[name]), "") if name == "kind" else ""
            yield Fault((name,), f"must be {allowed}, got {shown(value[name])}{hint}")


def _metadata(value: Any, faults: list[Fault]) -> Metadata | None:
    if value is None:
        faults.append(Fault(("metadata", "name"), "is required"))
        return None
    if isinstance(value, dict):
        value = {k: v for k, v in value.items() if k not in _SERVER_FIELDS and v is not None}
    wrong = list(check(value, _METADATA, ("metadata",)))
    faults += wrong
    return None if wrong else msgspec.convert(value, Metadata)


def _spec(value: Any, faults: list[Fault]) -> Spec | None:
    if value is None:
        faults.append(Fault(("spec",), "is required"))
        return None
    filled = defaulted(value, spec_schema())
    wrong = list(check(filled, spec_schema(), ("spec",)))
    # A rule needs what it reads to be sound; a fault elsewhere does not silence it.
    wrong += cel.broken_rules(filled, spec_schema(), ("spec",), frozenset(f.path for f in wrong))
    if not any(fault.path[:2] in {("spec",), ("spec", "engine")} for fault in wrong):
        engine = msgspec.convert(filled["engine"], EngineSpec)
        wrong += [Fault(("spec", *path), text) for path, text in engine_checks.refused(engine)]
    faults += wrong
    return None if wrong else msgspec.convert(filled, Spec, strict=False)


def _alias_of_itself(made: ModelDeployment) -> Iterator[Fault]:
    # CEL cannot see metadata.name from inside spec; the API server has the same blind spot, and
    # there the operator says it in the condition Valid.
    for index, alias in enumerate(made.spec.model.aliases):
        if alias == made.served_name:
            path = ("spec", "model", "aliases", index)
            yield Fault(path, f"{alias!r} is the model's name already")


def _distinct(found: list[ModelDeployment], problems: list[Problem]) -> list[ModelDeployment]:
    first: dict[str, ModelDeployment] = {}
    for one in found:
        known = first.setdefault(one.deployment, one)
        if known is not one:
            problems.append(twice(one, known))
    return list(first.values())
