"""A running model goes over to another plan; a fault in one model's decision stays with that model."""

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import planning
from tidegate_operator.local import replacing, resources
from tidegate_operator.local.fleet import Fleet
from tidegate_operator.local.model import Model
from tidegate_operator.local.options import Event
from tidegate_operator.local.plan import Plan


def plan(tmp_path: Path, **changes: Any) -> Plan:
    return resources.plan(planning.resource(planning.VLLM, **changes), 1.0, tmp_path)


def model(made: Plan) -> Model:
    site = SimpleNamespace(spawn=lambda work: work.close())
    return Model(made, cast("Any", site), lambda cold: None)


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"scaling": {"maxReplicas": 2}}, True),
        ({"engine": {"stallSeconds": 15}}, True),
        ({"engine": {"args": ["--max-num-seqs", "4"]}}, False),
    ],
)
def test_an_engine_that_is_prepared_stays_so_where_its_build_does(
    tmp_path: Path, changes: dict[str, Any], kept: bool
) -> None:
    first, then = plan(tmp_path), plan(tmp_path, **changes)
    one = model(first)
    one.prepared_at = 1.0
    replacing.take(one, then)
    assert (one.plan.engine is first.engine) is kept
    assert bool(one.prepared_at) is kept
    assert one.plan.policy == then.policy
    assert one.view.stall_seconds == then.view.stall_seconds


async def test_a_fault_in_one_model_is_told_once_and_stops_no_other(tmp_path: Path) -> None:
    said: list[Event] = []
    evaluated: list[str] = []
    nothing = SimpleNamespace(settle=lambda *_: None)
    site = SimpleNamespace(
        report=said.append,
        picture=SimpleNamespace(lines=lambda now: {}),
        binding=nothing,
        room=SimpleNamespace(),
    )
    names = ("broken", "sound")
    plans = [resources.plan(planning.resource(name=one), 1.0, tmp_path) for one in names]
    fleet = Fleet(plans, cast("Any", site))
    for one in fleet.models.values():
        cast("Any", one).evaluate = lambda now, name=one.view.name: (
            evaluated.append(name) if name == "sound" else {}["no such"]
        )
    for _ in range(2):
        fleet._evaluate(time.time())
    assert evaluated == ["sound", "sound"]
    assert [(one.event, one.name) for one in said] == [("error", "broken")]
    assert "KeyError: 'no such'" in said[0].message
    await asyncio.sleep(0)
