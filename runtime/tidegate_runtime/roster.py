"""How a gate takes what the world says: models and replicas that came, changed or went.

A picture comes whole (local mode, the one on disk) or as what changed in it (a cluster, where a
thousand models may change one at a time). Both take the same steps, and each step costs what has
changed: the table of names, which needs all of them, is built only where a name may be different.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from tidegate_runtime.admit import resolve
from tidegate_runtime.contract.links import ModelView, Replica, WorldLine
from tidegate_runtime.contract.names import NameTable
from tidegate_runtime.endpoints import ModelState, merge
from tidegate_runtime.errors import EngineError, Refusal, model_not_found

if TYPE_CHECKING:
    from tidegate_runtime.exchange import Exchange
    from tidegate_runtime.gate import Gate


def replace(gate: "Gate", world: WorldLine) -> None:
    """Take a whole picture."""
    views: dict[str, ModelView | None] = dict.fromkeys(gate.models)
    replicas: dict[str, list[Replica]] = {}
    for view in world.models:
        views[view.deployment] = view
        replicas[view.deployment] = []
    for replica in world.replicas:
        replicas.setdefault(replica.deployment, []).append(replica)
    gate.pictured = True
    change(gate, views, replicas)


def change(
    gate: "Gate", views: Mapping[str, ModelView | None], replicas: Mapping[str, list[Replica]]
) -> None:
    """Take what changed: views by deployment (None: gone), and all replicas of a deployment."""
    touched: dict[str, ModelState] = {}
    gone: list[ModelState] = []
    came = {
        deployment
        for deployment, view in views.items()
        if view is not None and view.valid and not _valid(gate.models.get(deployment))
    }
    if _views(gate, views, touched, gone):
        gate.names = NameTable.build(model.view for model in gate.models.values())
        _release_nameless(gate, gone, came)
        gate.news.set()
    for deployment, told in replicas.items():
        model = gate.models.get(deployment)
        if model is not None and merge(model, told, gate.probe_started):
            touched[deployment] = model
    for model in touched.values():
        release(model)
        gate.drain_queue(model)
    if touched:
        gate.news.set()


def _views(
    gate: "Gate",
    views: Mapping[str, ModelView | None],
    touched: dict[str, ModelState],
    gone: list[ModelState],
) -> bool:
    """Whether the names may mean something else now."""
    renamed = False
    for deployment, view in views.items():
        model = gate.models.get(deployment)
        if view is None:
            if model is not None:
                del gate.models[deployment]
                merge(model, [], gate.probe_started)
                gone.append(model)
                renamed = True
        elif model is None:
            model = touched[deployment] = gate.models[deployment] = ModelState(view)
            model.price_version = gate.tenants.prices.get(deployment, 0)
            renamed = True
        elif model.view != view:
            renamed = renamed or _speaks_otherwise(model.view, view)
            model.view = view
            touched[deployment] = model
    return renamed


def suspended(view: ModelView) -> Refusal:
    """Why a suspended model serves nobody."""
    return EngineError(
        503, "model_suspended", f"The model `{view.name}` is suspended (spec.suspend)"
    )


def _speaks_otherwise(old: ModelView, new: ModelView) -> bool:
    """Whether two views differ in more than what the operator says of the model's starts."""
    return msgspec.structs.replace(old, start_id=new.start_id, failure=new.failure) != new


def _valid(model: ModelState | None) -> bool:
    return model is not None and model.view.valid


def _release_nameless(gate: "Gate", gone: list[ModelState], came: set[str]) -> None:
    """Nobody waits for a model that nobody can call any more: it is gone, is not valid, or lost its
    name. Where one is given up and another comes with its name in the same step, that is a rename:
    who waits goes along."""
    nameless = [
        model
        for model in gate.models.values()
        if model.queue and (not model.view.valid or model.view.deployment in gate.names.conflicts)
    ]
    for model in gone + nameless:
        lost = model.view.deployment in gate.names.conflicts
        for ticket in list(model.queue):
            model.queue.remove(ticket)
            exchange = ticket.item
            other = None if lost else _heir(gate, exchange, came)
            if other is None:
                exchange.refuse(model_not_found(exchange.request.model))
                continue
            exchange.model, exchange.ticket = other, None
            other.last_request = max(other.last_request, model.last_request)
            if gate.till is None or gate.till.admit(exchange):
                gate.place(exchange)


def _heir(gate: "Gate", exchange: "Exchange", came: set[str] | None = None) -> ModelState | None:
    """Which of the models that came (None: of all) has the name that a request came by; none for a
    request that has reserved what the former model may cost it."""
    if exchange.draw is not None:
        return None
    try:
        view = resolve(gate.names, gate.tenants, exchange.key, exchange.request)
    except Refusal:
        return None
    return gate.models[view.deployment] if came is None or view.deployment in came else None


def callable_model(gate: "Gate", exchange: "Exchange") -> ModelState | None:
    """The model that a request is for, which may have been given up while the request ran and is to
    be tried again: then the one that has its name now, as for those who waited. None: none has."""
    model = exchange.model
    view = model.view
    mine = gate.models.get(view.deployment) is model
    if mine and view.valid and view.deployment not in gate.names.conflicts:
        return model
    other = _heir(gate, exchange)
    if other is not None:
        exchange.model, exchange.ticket = other, None
        other.last_request = max(other.last_request, model.last_request)
    return other


def release(model: ModelState) -> None:
    """Answer those who wait for what will not come: it is suspended, or its start has failed."""
    view = model.view
    if view.suspend:
        for ticket in list(model.queue):
            model.queue.remove(ticket)
            ticket.item.refuse(suspended(view))
    failure = view.failure
    if failure is None or not failure.final:
        return
    error = EngineError(
        503, "model_start_failed",
        f"The model `{view.name}` could not start: {failure.reason}: {failure.message}",
        retry_after=5,
    )  # fmt: skip
    for ticket in model.queue.release(failure.start_id):
        ticket.item.refuse(error)
