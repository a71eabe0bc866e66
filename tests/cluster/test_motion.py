"""A short cut of `motion.py`: everything moves once while streams flow, and nothing is lost."""

from harness import installed, scenarios
from harness.installed import SYSTEM, Platform
from harness.layout import Cluster
from harness.load import Plan
from harness.stage import NAME, TENANTS, staged

PLAN = Plan(7, [NAME], TENANTS, stream_tokens=(40, 60), long_seconds=4.0)


def test_nothing_is_lost_in_motion(tidegate: Platform, own_cluster: Cluster) -> None:
    """0 -> 1 -> 2, a rollout, a deleted engine, a deleted router, a killed operator, -> 0."""
    image = installed.load_images(own_cluster)["tidegate"]
    routers = ("-n", SYSTEM, "scale", "sts/tidegate-router")
    tidegate.kubectl(*routers, "--replicas=2")
    try:
        with staged(tidegate, image, PLAN) as stage:
            stage.routers(2)
            scenarios.briefly(stage)
            made = stage.judge()
    finally:
        tidegate.kubectl(*routers, "--replicas=1")
    print("\n".join(stage.log))
    print(made.outcomes, made.spanned, f"longest gap {made.longest_gap:.2f} s")
    assert not made.wrong, made.wrong
    assert made.outcomes.keys() == {"answered"}
    assert made.outcomes.total() >= 60
