"""Who asks, and for what: the checks before a request is held or routed.

Rates, concurrency and money will be checked here, between `identify` and `resolve`'s answer and
the gate's `place`; a new tenant is postpaid without limits, so today there is nothing to refuse.
"""

import msgspec

from tidegate_billing.links import KeyView
from tidegate_runtime import openai
from tidegate_runtime.contract.links import ModelView
from tidegate_runtime.contract.names import NameTable
from tidegate_runtime.errors import PlatformError, TenantError, model_not_found
from tidegate_runtime.front import Incoming
from tidegate_runtime.tenants import Tenants

MODELS = "/v1/models"


def identify(tenants: Tenants, incoming: Incoming, now: float) -> KeyView:
    """The key's owner. Raises TenantError (401), PlatformError (503) without a fresh picture."""
    if not incoming.token:
        raise TenantError(
            401, "invalid_api_key", "No API key was sent: use `Authorization: Bearer KEY`"
        )
    if not tenants.fresh(now):
        raise PlatformError(503, "tenants_unknown", "Keys cannot be checked now", retry_after=1)
    key = tenants.lookup(incoming.token)
    if key is None:
        raise TenantError(401, "invalid_api_key", "The API key is not valid")
    return key


def resolve(names: NameTable, key: KeyView, request: openai.Request) -> ModelView:
    """The model that this tenant means by this name. Raises TenantError (404, 400)."""
    view = names.lookup(key.tenant, request.model)
    if view is None:
        raise model_not_found(request.model)
    task = openai.TASKS[request.endpoint]
    if view.task != task:
        raise TenantError(
            400,
            "task_not_served",
            f"The model `{request.model}` serves `{view.task}`; {request.endpoint} needs `{task}`",
            param="model",
        )
    return view


def catalogue(names: NameTable, key: KeyView, incoming: Incoming) -> bytes:
    """`/v1/models` and `/v1/models/NAME`: what the tenant may use. Raises TenantError."""
    if incoming.path != MODELS and not incoming.path.startswith(MODELS + "/"):
        raise TenantError(404, "not_found", f"There is no route {incoming.path[:200]}")
    if incoming.method != b"GET":
        raise TenantError(405, "method_not_allowed", f"{MODELS} takes GET")
    if incoming.path == MODELS:
        data = [_model(v, n) for v in names.visible(key.tenant) for n in (v.name, *v.aliases)]
        return msgspec.json.encode({"object": "list", "data": data})
    name = incoming.path[len(MODELS) + 1 :]
    view = names.lookup(key.tenant, name)
    if view is None:
        raise model_not_found(name)
    return msgspec.json.encode(_model(view, name))


def _model(view: ModelView, name: str) -> dict[str, object]:
    created = int(view.created)
    return {"id": name, "object": "model", "created": created, "owned_by": view.owner}
