"""The `ModelDeployment` as values: the schema's shape, with its defaults.

A resource read by `resource.parse` went through the schema's defaults already; the defaults here
serve code that builds one. A test holds them to the schema.
"""

from typing import Literal

import msgspec

from tidegate_billing.links import Pricing

__all__ = [
    "Access",
    "Adapter",
    "Cache",
    "ColdStart",
    "Drain",
    "EngineSpec",
    "EnvVar",
    "Metadata",
    "ModelDeployment",
    "ModelSpec",
    "Pricing",
    "ResourcesSpec",
    "Rollout",
    "Routing",
    "Scaling",
    "SecretKey",
    "SecretRef",
    "Spec",
    "Task",
    "ValueFrom",
    "Visibility",
]

Task = Literal["generate", "embed", "rerank", "classify", "score", "transcribe"]
Visibility = Literal["Private", "Public"]


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    pass


class SecretRef(_Part, frozen=True):
    """A Secret of the deployment's namespace."""

    name: str


class SecretKey(_Part, frozen=True):
    """A key of a Secret of the deployment's namespace."""

    name: str
    key: str


class Cache(_Part, frozen=True):
    """A claim that keeps the weights. Without `size` there is none."""

    size: str | None = None
    storage_class: str | None = None


class ModelSpec(_Part, frozen=True):
    """Where the model comes from and what callers name it."""

    uri: str
    revision: str = "main"
    secret_ref: SecretRef | None = None
    name: str | None = None
    aliases: list[str] = []
    task: Task = "generate"
    cache: Cache = Cache()


class ValueFrom(_Part, frozen=True):
    """Where an environment variable's value is kept."""

    secret_key_ref: SecretKey


class EnvVar(_Part, frozen=True):
    """One environment variable of the engine: exactly one of `value` and `value_from`."""

    name: str
    value: str | None = None
    value_from: ValueFrom | None = None


class EngineSpec(_Part, frozen=True):
    """What serves the model. Empty `version` and `image` mean the platform's."""

    type: Literal["vllm", "sim"] = "vllm"
    version: str = ""
    image: str = ""
    stall_seconds: int = 120
    args: list[str] = []
    env: list[EnvVar] = []


class ResourcesSpec(_Part, frozen=True):
    """What a replica runs on: `profile` or `profile:count`."""

    profile: str = "cpu"


class Scaling(_Part, frozen=True):
    """How many replicas, and when. `max_concurrency` None: twice the target."""

    min_replicas: int = 0
    max_replicas: int = 4
    target_concurrency: int = 16
    max_concurrency: int | None = None
    idle_seconds: int = 300
    scale_down_delay_seconds: int = 60
    stable_window_seconds: int = 60
    panic_window_seconds: int = 6
    panic_threshold: float = 2.0

    @property
    def concurrency_limit(self) -> int:
        """Requests in flight a replica may carry."""
        return self.max_concurrency or 2 * self.target_concurrency


class ColdStart(_Part, frozen=True):
    """What happens to requests while no replica is ready."""

    hold_seconds: int = 600
    non_stream_hold_seconds: int = 300
    max_held: int = 512
    heartbeat_seconds: int = 10
    fail_grace_seconds: int = 120
    start_timeout_seconds: int = 1800


class Routing(_Part, frozen=True):
    """How a replica is picked."""

    strategy: Literal["PrefixHash", "LeastLoad"] = "PrefixHash"
    prefix_length: int = 256
    load_factor: float = 1.25


class Drain(_Part, frozen=True):
    """How long a draining replica may finish what it serves."""

    timeout_seconds: int = 600


class Rollout(_Part, frozen=True):
    """How a changed model replaces the running one."""

    max_surge: int = 1
    max_unavailable: int = 0


class Access(_Part, frozen=True):
    """Who may call it besides the owner."""

    visibility: Visibility = "Private"
    tenants: list[str] = []


class Adapter(_Part, frozen=True):
    """A LoRA adapter under a name of its own. None: as its model."""

    name: str
    uri: str
    revision: str = "main"
    access: Access | None = None
    pricing: Pricing | None = None


class Spec(_Part, frozen=True):
    """What should be served, how, to whom and at what price. `pricing` None: not priced."""

    model: ModelSpec
    suspend: bool = False
    engine: EngineSpec = EngineSpec()
    resources: ResourcesSpec = ResourcesSpec()
    scaling: Scaling = Scaling()
    cold_start: ColdStart = ColdStart()
    routing: Routing = Routing()
    drain: Drain = Drain()
    rollout: Rollout = Rollout()
    adapters: list[Adapter] = []
    access: Access = Access()
    pricing: Pricing | None = None


class Metadata(_Part, frozen=True):
    """The part of Kubernetes' ObjectMeta that matters here."""

    name: str
    namespace: str = "default"
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class ModelDeployment(msgspec.Struct, frozen=True, kw_only=True):
    """One resource, valid and with its defaults. `source_file` is empty where it has none;
    `source_line` is its name's in that file, from 1."""

    metadata: Metadata
    spec: Spec
    source_file: str = ""
    source_line: int = 0

    @property
    def deployment(self) -> str:
        """`namespace/name`, the resource's key everywhere."""
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def served_name(self) -> str:
        """The OpenAI "model" string."""
        return self.spec.model.name or self.metadata.name

    @property
    def owner(self) -> str:
        """The tenant it belongs to by the local rule: its namespace."""
        return self.metadata.namespace
