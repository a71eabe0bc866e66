"""How a running model goes over to another plan, and how it is given up.

What a plan changes without another build is taken at once. With another build the old replicas go
on serving until new ones have answered; `rolling` says how many of each there shall be.
"""

import dataclasses
from typing import TYPE_CHECKING

import msgspec

from tidegate_operator.drain import busy, choose
from tidegate_operator.local import rolling
from tidegate_operator.local.plan import Plan
from tidegate_operator.local.preparing import prepare
from tidegate_operator.local.replica import Running
from tidegate_operator.local.retry import Retry

if TYPE_CHECKING:
    from tidegate_operator.local.model import Model


def take(model: "Model", plan: Plan) -> None:
    """Goes over to another plan of the same deployment; the caller publishes and evaluates."""
    anew = plan.build != model.plan.build or model.removed or bool(model.stuck)
    if not anew:  # of the same build, and prepared
        plan = dataclasses.replace(plan, engine=model.plan.engine)
    model.plan, model.removed = plan, False
    if anew:
        model.retry, model.stuck = Retry(), ""
        model.view = msgspec.structs.replace(model.view, failure=None)
        if model.preparation is not None:
            model.preparation.cancel()
        model.preparing, model.prepared_at = ("", ""), 0.0
        model.preparation = model.site.spawn(prepare(model))
    see(model)


def remove(model: "Model") -> None:
    """Gives the model up: it has no name from the next publication on, and what runs is finished."""
    model.removed = True
    if model.preparation is not None:
        model.preparation.cancel()
    model.preparing = ("", "")
    see(model)


def see(model: "Model") -> None:
    """Makes the model's view what its plan says. Names wait until the last old replica is let go,
    for that one answers to no new name; the new replicas, which know both, serve from then on."""
    now = model.view
    model.view = msgspec.structs.replace(
        model.plan.view,
        valid=not model.conflict and not model.removed,
        start_id=now.start_id,
        failure=now.failure,
    )
    if model.old() and not model.off:
        model.view = msgspec.structs.replace(
            model.view, name=now.name, aliases=now.aliases, task=now.task
        )


def move(model: "Model", now: float) -> None:
    """Starts and lets go what brings the model to as many replicas of its plan as are wanted."""
    old = model.old()
    if not old:
        model.stuck = ""
    due = rolling.moves(
        _group(model, old=True),
        _group(model, old=False),
        model.desired,
        able=not old or bool(model.prepared_at and not model.stuck and now >= model.retry.at),
        surge=model.plan.surge,
        unavailable=model.plan.unavailable,
    )
    if due.stop_old or due.stop_new:
        new = [run for run in model.active() if run.build == model.plan.build]
        model.let_go(_leaving(model, old, due.stop_old, now), now)
        model.let_go(_leaving(model, new, due.stop_new, now), now)
        see(model)
        model.publish()
    if due.start > 0:
        model.grow(due.start, now)


def _group(model: "Model", *, old: bool) -> rolling.Group:
    states = [run.state for run in model.runs.values() if (run.build != model.plan.build) == old]
    return rolling.Group(*(states.count(one) for one in ("ready", "starting", "draining")))


def _leaving(model: "Model", runs: list[Running], count: int, now: float) -> list[Running]:
    states = {run.id: run.state for run in runs}
    loads = busy(states, model.site.picture.lines(now))
    loads = [one._replace(ready=states[one.id] == "ready") for one in loads]
    return [model.runs[replica] for replica in choose(loads, count)]
