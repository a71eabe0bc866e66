"""What is to run for one resource."""

from dataclasses import dataclass

from tidegate_billing.links import ModelPricing
from tidegate_operator.autoscale import Policy
from tidegate_operator.local.engines import Engine
from tidegate_runtime.contract.links import ModelView


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A resource as local mode needs it, defaults applied. `build`: what an engine process is made
    of; a running one of another is replaced, as `surge` and `unavailable` say. `grace_seconds`: how
    long what waiting may cure is waited for before it counts as failed; `start_seconds`: how long a
    start may take."""

    view: ModelView
    policy: Policy
    engine: Engine
    build: str
    surge: int = 1
    unavailable: int = 0
    drain_seconds: float
    grace_seconds: float
    start_seconds: float
    pricing: ModelPricing
