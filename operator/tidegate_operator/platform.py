"""What the platform team decides: images, profiles, policy. `platform.yaml`, rendered by the chart.

The file is read once, when an operator starts. A mistake in it stops the process and names the
field: a platform that half understands its own rules would sell what it should refuse. The structs
are the only list of fields; the checks that name a misspelt one are derived from them.

`refused` is the other half: what a resource asks for that its tenant may not have, or that this
platform does not offer. It stands beside the schema's verdict, not in it, since the same resource
may be fine for another tenant.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

from tidegate_runtime.contract import tasks
from tidegate_runtime.contract.document import load
from tidegate_runtime.contract.resource import dotted
from tidegate_runtime.contract.spec import ModelDeployment
from tidegate_runtime.contract.validate import Schema, check, did_you_mean

__all__ = [
    "CacheRules",
    "Capacity",
    "Chosen",
    "EngineImage",
    "Engines",
    "InvalidPlatform",
    "Platform",
    "Policy",
    "Profile",
    "Selector",
    "Toleration",
    "chosen",
    "parse",
    "read",
    "refused",
]

EVERYBODY: Final = "*"
SERVED_SOURCES: Final = ("file", "hf", "pkg", "pvc", "sim")
"""Schemes of `spec.model.uri` that engines in a cluster can be given."""

Quantity = Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$")]
_Text = Annotated[str, Meta(min_length=1, max_length=512)]


class _Part(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    forbid_unknown_fields=True,
    omit_defaults=True,
):
    pass


class EngineImage(_Part, frozen=True):
    """The image of an engine, and how it is pulled.

    `versions`: further images by what `spec.engine.version` may say; empty means `image`.
    `pull_secrets`: names of Secrets in the model's namespace. `fetch_env`: for the program that
    brings a model into the pod: a package index, a proxy. `fetch_image`: the image that has this
    program, where the engine's has not (vLLM's own); empty: the engine's."""

    image: _Text
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    pull_secrets: list[str] = []
    versions: dict[str, str] = {}
    fetch_env: dict[str, str] = {}
    fetch_image: str = ""


class Engines(_Part, frozen=True):
    """One image per engine type."""

    vllm: EngineImage
    sim: EngineImage


class Toleration(_Part, frozen=True):
    """As Kubernetes has it. `effect` left out: every one. `toleration_seconds` -1: for ever."""

    key: str = ""
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    toleration_seconds: Annotated[int, Meta(ge=-1, le=2**31 - 1)] = -1


class Profile(_Part, frozen=True):
    """What a replica with one unit of this profile runs on.

    A count (`name:count`) multiplies `gpus` and nothing else: memory and processors are stated for
    a replica. `shared_memory` counts against the memory limit. `supplemental_groups`: for devices
    whose files a group owns (AMD's /dev/kfd). `image`: of vLLM for these devices, where the
    engine's own is for others; empty: the engine's. `elastic`: nodes for it are added by an
    autoscaler, which goes by pods that wait for one."""

    image: str = ""
    gpus: Annotated[int, Meta(ge=0, le=64)] = 0
    gpu_resource: str = ""
    device: Literal["cpu", "gpu"] = "cpu"
    requests: dict[str, Quantity] = {}
    limits: dict[str, Quantity] = {}
    shared_memory: Quantity = "1Gi"
    node_selector: dict[str, str] = {}
    tolerations: list[Toleration] = []
    runtime_class_name: str = ""
    env: dict[str, str] = {}
    supplemental_groups: list[int] = []
    elastic: bool = False


class Policy(_Part, frozen=True):
    """Tenants that may have what costs or risks something; `*` is every tenant."""

    public: list[str] = []
    prices: list[str] = []
    images: list[str] = []
    args: list[str] = msgspec.field(default_factory=lambda: [EVERYBODY])
    env: list[str] = []


class Selector(_Part, frozen=True):
    """Pods of one part of the platform."""

    namespace: _Text
    labels: dict[str, str]


class CacheRules(_Part, frozen=True):
    """Claims for weights. `storage_class` empty: the cluster's default.

    A ReadWriteOnce volume is on one node at a time: models with several replicas on several nodes
    need a class that has ReadWriteMany."""

    storage_class: str = ""
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany"] = "ReadWriteOnce"


class Capacity(_Part, frozen=True):
    """What happens where devices are short.

    `give_way`: idle models go to zero where one that is asked for has no room. `minimum_idle_seconds`:
    for how long nobody must have used a model before it is made to."""

    give_way: bool = True
    minimum_idle_seconds: Annotated[int, Meta(ge=0, le=86400)] = 60


class Platform(_Part, frozen=True):
    """All of `platform.yaml`."""

    engines: Engines
    profiles: dict[str, Profile]
    router_selector: Selector
    operator_selector: Selector
    policy: Policy = Policy()
    cache: CacheRules = CacheRules()
    capacity: Capacity = Capacity()


class InvalidPlatform(ValueError):
    """platform.yaml cannot be used; `problems` has a line for each fault."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        super().__init__("\n".join(f"{source}: {problem}" for problem in problems))
        self.problems = tuple(problems)


def read(path: Path) -> Platform:
    """The platform's settings. Raises InvalidPlatform, also where the file cannot be read."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise InvalidPlatform(str(path), [f"cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise InvalidPlatform(str(path), ["not UTF-8"]) from error
    return parse(text, str(path))


def parse(text: str, source: str) -> Platform:
    """The same from text; `source` names it in problems. Raises InvalidPlatform."""
    documents, faults = load(text)
    if faults:
        raise InvalidPlatform(source, [f"line {one.line}: {one.message}" for one in faults])
    if len(documents) != 1:
        raise InvalidPlatform(source, [f"must be one document, has {len(documents)}"])
    value = documents[0].value
    wrong = [f"{dotted(path)}: {why}" for path, why in check(value, _fitted(_schema(), value))]
    if wrong:
        raise InvalidPlatform(source, [one.removeprefix(": ") for one in wrong])
    made = msgspec.convert(value, Platform)
    wrong = list(_inconsistent(made))
    if wrong:
        raise InvalidPlatform(source, wrong)
    return made


@cache
def _schema() -> Schema:
    made: Schema = msgspec.json.schema(Platform)
    return made


_KEPT: Final = (
    *("type", "enum", "required", "minimum", "maximum", "pattern", "minLength", "maxLength"),
)


def _fitted(node: Schema, value: Any) -> Schema:
    """The JSON Schema of the structs as the structural one that `check` understands, for `value`:
    references followed, and maps written out by the keys that `value` has."""
    if "$ref" in node:
        node = _schema()["$defs"][node["$ref"].rpartition("/")[2]]
    made: Schema = {key: node[key] for key in _KEPT if key in node}
    if "enum" in made:  # of strings, where the empty one means the field is left out
        made |= {"type": "string", "enum": [one for one in made["enum"] if one]}
    inner: Mapping[str, Any] = value if isinstance(value, dict) else {}
    if "properties" in node:
        fields = node["properties"].items()
        made["properties"] = {name: _fitted(one, inner.get(name)) for name, one in fields}
    elif made["type"] == "object":
        each = node["additionalProperties"]
        made["properties"] = {name: _fitted(each, one) for name, one in inner.items()}
    if "items" in node:
        first = value[0] if isinstance(value, list) and value else None
        made["items"] = _fitted(node["items"], first)
    return made


def _inconsistent(platform: Platform) -> Iterator[str]:
    if "cpu" not in platform.profiles:
        yield "profiles.cpu: is required (resources that name no profile run on it)"
    for name, profile in platform.profiles.items():
        if profile.gpus and not profile.gpu_resource:
            yield f"profiles.{name}.gpuResource: is required where gpus is not 0 (nvidia.com/gpu)"
        if profile.gpus and profile.device != "gpu":
            yield f"profiles.{name}.device: must be gpu where gpus is not 0"


class Chosen(NamedTuple):
    """The profile that a resource asks for, and its devices per replica."""

    profile: Profile
    gpus: int


def chosen(resource: ModelDeployment, platform: Platform) -> Chosen:
    """What a replica of `resource` runs on. Raises KeyError where `refused` would refuse it."""
    name, _, count = resource.spec.resources.profile.partition(":")
    profile = platform.profiles[name]
    return Chosen(profile, profile.gpus * int(count or 1))


def refused(resource: ModelDeployment, owner: str, platform: Platform) -> list[str]:
    """Why the tenant `owner` may not have this resource here, as `field: what to do`; empty = may.

    A resource with an entry here must not be planned."""
    return [
        *_profile(resource, platform),
        *_engine(resource, platform),
        *(
            f"{field}: {what} not allowed for tenant {owner}; ask the platform team (policy.{rule})"
            for field, what, rule in _wishes(resource)
            if not {EVERYBODY, owner} & set(getattr(platform.policy, rule))
        ),
    ]


def _profile(resource: ModelDeployment, platform: Platform) -> Iterator[str]:
    name, _, count = resource.spec.resources.profile.partition(":")
    known = list(platform.profiles)
    if name not in platform.profiles:
        guess = did_you_mean(name, known)
        if "(known:" not in guess:
            guess += f" (known: {', '.join(known)})"
        yield f"spec.resources.profile: {name} is no profile of this platform{guess}"
    elif int(count or 1) > 1 and not platform.profiles[name].gpus:
        yield f"spec.resources.profile: {name} has no devices to count; write {name}"


def _engine(resource: ModelDeployment, platform: Platform) -> Iterator[str]:
    spec = resource.spec
    offered: EngineImage = getattr(platform.engines, spec.engine.type)
    if (
        spec.engine.version
        and not spec.engine.image
        and spec.engine.version not in offered.versions
    ):
        known = ", ".join(offered.versions) or "none; leave it out for the platform's"
        field = f"spec.engine.version: {spec.engine.version}"
        yield f"{field} of {spec.engine.type} is not offered (known: {known})"
    if tasks.engine_task(spec.model.task) is None:
        yield f"spec.model.task: {spec.model.task} is not served yet; {tasks.ALLOWED}"
    scheme, _, rest = spec.model.uri.partition("://")
    if scheme not in SERVED_SOURCES:
        allowed = ", ".join(f"{one}://" for one in SERVED_SOURCES)
        yield f"spec.model.uri: {scheme}:// cannot be fetched here yet; allowed are {allowed}"
    elif scheme in {"file", "pvc"} and ".." in rest.split("/"):
        yield "spec.model.uri: the path must be without '..'"
    elif scheme == "file" and not rest.startswith("/"):
        yield "spec.model.uri: file:// takes the absolute path of a folder in the engine's image"
    elif scheme == "pvc" and not rest.partition("/")[0]:
        yield "spec.model.uri: pvc:// takes CLAIM/PATH, a claim of the same namespace"


def _wishes(resource: ModelDeployment) -> Iterator[tuple[str, str, str]]:
    """What needs a permission: its field, a sentence's beginning, and the rule that grants it."""
    spec = resource.spec
    if spec.access.visibility == "Public":
        yield "spec.access.visibility", "Public is", "public"
    if spec.pricing is not None:
        yield "spec.pricing", "own prices are", "prices"
    for index, adapter in enumerate(spec.adapters):
        if adapter.access is not None and adapter.access.visibility == "Public":
            yield f"spec.adapters[{index}].access.visibility", "Public is", "public"
        if adapter.pricing is not None:
            yield f"spec.adapters[{index}].pricing", "own prices are", "prices"
    if spec.engine.image:
        yield "spec.engine.image", "an own image is", "images"
    if spec.engine.args:
        yield "spec.engine.args", "own arguments are", "args"
    if spec.engine.env:
        yield "spec.engine.env", "own variables are", "env"
