"""What the control plane reads out of a resource's spec."""

from tidegate_operator.autoscale import Policy
from tidegate_runtime.contract.resource import ModelDeployment


def policy(resource: ModelDeployment) -> Policy:
    """The scaling rules of `resource`."""
    scaling = resource.spec.scaling
    return Policy(
        min_replicas=scaling.min_replicas,
        max_replicas=scaling.max_replicas,
        target_concurrency=scaling.target_concurrency,
        idle_seconds=scaling.idle_seconds,
        scale_down_delay_seconds=scaling.scale_down_delay_seconds,
        stable_window_seconds=scaling.stable_window_seconds,
        panic_window_seconds=min(scaling.panic_window_seconds, scaling.stable_window_seconds),
        panic_threshold=scaling.panic_threshold,
    )
