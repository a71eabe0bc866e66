"""What travels between operator and router, as NDJSON lines.

operator -> router  GET /internal/demand  (the router serves it on its operations port): a
                    DemandLine at once when a model gets its first waiting request or a replica
                    first answered, else one a second.
router <- world     GET /internal/world   (local mode: served by `up` where a cluster has its API
                    server): a WorldLine at once on every change, else a beat every 5 s.

Every request carries `Authorization: Bearer <internal token>`. Times are seconds since the epoch.
"""

from typing import Literal

import msgspec

ReplicaState = Literal["starting", "ready", "draining"]
Visibility = Literal["Private", "Public"]


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A start that failed. It answers only requests held for start `start_id` or earlier.

    `final`: held requests are released with it at once; else the operator is still trying."""

    start_id: str
    reason: str
    message: str
    at: float
    final: bool


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """One engine process or pod. `id` is its epoch: unique over restarts.

    `lost`: the control plane hears nothing from where it runs; others are tried first. `mark`: of
    the drain that it is in, another one for each (empty: it is in none)."""

    id: str
    deployment: str
    url: str
    state: ReplicaState
    guard: str
    start_id: str = ""
    lost: bool = False
    mark: str = ""


class ModelView(msgspec.Struct, frozen=True, kw_only=True):
    """What a router needs to know of one ModelDeployment (defaults applied)."""

    deployment: str
    owner: str
    name: str
    aliases: list[str] = []
    created: float = 0.0
    visibility: Visibility = "Private"
    tenants: list[str] = []
    task: str = "generate"
    suspend: bool = False
    valid: bool = True
    target_concurrency: int = 16
    max_concurrency: int = 32
    max_replicas: int = 4
    hold_seconds: float = 600
    non_stream_hold_seconds: float = 300
    max_held: int = 512
    heartbeat_seconds: float = 10
    stall_seconds: float = 120
    strategy: str = "LeastLoad"
    start_id: str = ""
    failure: Failure | None = None


class WorldLine(msgspec.Struct, frozen=True, kw_only=True):
    """`world`: the whole picture, replacing what was known. `beat`: the picture is current."""

    type: Literal["world", "beat"]
    version: int
    models: list[ModelView] = []
    replicas: list[Replica] = []


class ModelDemand(msgspec.Struct, frozen=True, kw_only=True):
    """Demand for one deployment as one router sees it.

    `held_since`: when the oldest waiting request came (0: none waits)."""

    deployment: str
    in_flight: int = 0
    held: int = 0
    held_since: float = 0.0
    last_request: float = 0.0


class ReplicaDemand(msgspec.Struct, frozen=True, kw_only=True):
    """One replica as one router sees it. `excluded`: it sends nothing new there (draining seen),
    and `mark` is that drain's.

    `answered_at`: when the readiness request was answered (0: not yet); `answer_error`: the
    readiness request was refused, in the engine's words. `first_forward`: when the first held
    request was forwarded to it (0: none was). `hung`: why its engine is taken to hang; the router sends
    nothing there any more."""

    id: str
    in_flight: int = 0
    excluded: bool = False
    mark: str = ""
    answered_at: float = 0.0
    answer_error: str = ""
    first_forward: float = 0.0
    hung: str = ""


class DemandLine(msgspec.Struct, frozen=True, kw_only=True):
    """One router's whole demand. Models and replicas with nothing to say may be left out."""

    router: str
    at: float
    models: list[ModelDemand] = []
    replicas: list[ReplicaDemand] = []
