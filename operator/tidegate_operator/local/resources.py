"""From resource files to what local mode runs.

Files carry no creation time, and conflicts over a name go by age. So the moment a deployment was
first seen is kept in the data directory, as a cluster keeps it in the resource.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from tidegate_billing.links import ModelPricing
from tidegate_operator import spec
from tidegate_operator.local.datadir import write_private
from tidegate_operator.local.engines import Engine, Sim
from tidegate_operator.local.following import build
from tidegate_operator.local.plan import Plan
from tidegate_runtime.contract import resource as contract
from tidegate_runtime.contract.links import ModelView
from tidegate_runtime.contract.names import NameTable
from tidegate_runtime.contract.spec import EnvVar, ModelDeployment

SEEN = "first-seen.json"


def first_seen(data: Path, deployments: Iterable[str], now: float) -> dict[str, float]:
    """When each deployment was first seen here; new ones count from `now`, in the given order."""
    path = data / SEEN
    try:
        known = msgspec.json.decode(path.read_bytes(), type=dict[str, float])
    except (OSError, msgspec.MsgspecError):
        known = {}
    wanted = list(deployments)
    seen = {name: known.get(name, now + i / 1000) for i, name in enumerate(wanted)}
    if any(name not in known for name in wanted):
        write_private(path, msgspec.json.encode(known | seen))
    return seen


def plans(
    resources: Iterable[ModelDeployment],
    seen: Mapping[str, float],
    cache: Path,
    python: Path | None = None,
) -> list[Plan]:
    """What to run for each resource. `python`: what runs vLLM for devices other than the CPU."""
    return [plan(one, seen[one.deployment], cache, python=python) for one in resources]


def plan(
    one: ModelDeployment,
    seen: float,
    cache: Path,
    former: Iterable[str] = (),
    *,
    python: Path | None = None,
) -> Plan:
    """What to run for a resource that was first seen at `seen`. Its engine also answers to the
    names `former`: requests that came under those may still wait for it."""
    return Plan(
        view=contract.view(one, seen),
        policy=spec.policy(one),
        engine=engine(_answering(one, former), cache, python),
        build=build(one),
        surge=one.spec.rollout.max_surge,
        unavailable=one.spec.rollout.max_unavailable,
        drain_seconds=float(one.spec.drain.timeout_seconds),
        grace_seconds=float(one.spec.cold_start.fail_grace_seconds),
        start_seconds=float(one.spec.cold_start.start_timeout_seconds),
        pricing=ModelPricing(
            deployment=one.deployment,
            model=one.served_name,
            owner=one.owner,
            pricing=one.spec.pricing,
            adapters=[adapter.name for adapter in one.spec.adapters],
        ),
    )


def _answering(one: ModelDeployment, names: Iterable[str]) -> ModelDeployment:
    model = one.spec.model
    known = {one.served_name, *model.aliases}
    more = [name for name in dict.fromkeys(names) if name not in known]
    replace = msgspec.structs.replace
    named = replace(model, aliases=[*model.aliases, *more])
    return replace(one, spec=replace(one.spec, model=named)) if more else one


def engine(one: ModelDeployment, cache: Path, python: Path | None = None) -> Engine:
    """How the resource's engine is prepared and started."""
    env = environment(one.spec.engine.env)
    if one.spec.engine.type == "sim":
        return Sim(one.served_name, one.spec.engine.args, env, one.spec.model.aliases)
    from tidegate_operator.local.vllm import Vllm

    return Vllm(one, env, cache, python)


def environment(entries: Iterable[EnvVar]) -> dict[str, str]:
    """`spec.engine.env` as names and values. A Secret's key is read from the variable of the same
    name in `up`'s own environment: one machine has no Secrets."""
    return {
        entry.name: os.environ.get(entry.name, "") if entry.value is None else entry.value
        for entry in entries
    }


def conflicts(views: Iterable[ModelView]) -> Mapping[str, str]:
    """Deployments that lost a name they want, and to whom."""
    return NameTable.build(views).conflicts
