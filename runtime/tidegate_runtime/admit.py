"""Who asks, and for what: the checks before a request is held or routed.

Rates, concurrency and money will be checked here, between `identify` and `resolve`'s answer and
the gate's `place`; a new tenant is postpaid without limits, so today there is nothing to refuse.
"""

import msgspec

from tidegate_billing.links import KeyView
from tidegate_billing.who.scopes import ROUTE_OF
from tidegate_runtime import openai
from tidegate_runtime.contract.links import ModelView
from tidegate_runtime.contract.names import NameTable
from tidegate_runtime.errors import PlatformError, TenantError, model_not_found
from tidegate_runtime.front import Incoming
from tidegate_runtime.tenants import Tenants

MODELS = "/v1/models"


def identify(tenants: Tenants, incoming: Incoming, now: float, wall: float) -> KeyView:
    """The key's owner. `now` is the loop's clock, `wall` the time of day, by which keys expire.

    Raises TenantError (401, 403), PlatformError (503) without a fresh picture."""
    if not incoming.token:
        raise TenantError(
            401,
            "invalid_api_key",
            "No API key was sent: use `Authorization: Bearer KEY` (or `x-api-key: KEY`)",
        )
    if not tenants.fresh(now):
        raise PlatformError(503, "tenants_unknown", "Keys cannot be checked now", retry_after=1)
    key = tenants.lookup(incoming.token)
    if key is None:
        raise _invalid()
    refusal = standing(tenants, key, wall)
    if refusal is not None:
        raise refusal
    return key


def standing(tenants: Tenants, key: KeyView, wall: float) -> TenantError | None:
    """Why a key that was good when its request came is not good now, if so.

    What waits for an engine waits for minutes: a key that was revoked, has expired or whose tenant
    was suspended meanwhile starts nothing."""
    current = tenants.known(key.id)
    if current is None:
        return _invalid()
    if current.expires_at is not None and wall * 1e6 >= current.expires_at:
        return TenantError(401, "invalid_api_key", "The API key has expired")
    if key.tenant in tenants.suspended:
        return TenantError(
            403, "tenant_suspended", f"The tenant `{key.tenant}` is suspended; ask its operator"
        )
    return None


def _invalid() -> TenantError:
    return TenantError(401, "invalid_api_key", "The API key is not valid")


def resolve(names: NameTable, tenants: Tenants, key: KeyView, request: openai.Request) -> ModelView:
    """The model that this key means by this name. Raises TenantError (403, 404, 400).

    A model out of the key's scope is not told from one that does not exist."""
    if key.routes is not None and ROUTE_OF.get(request.endpoint) not in key.routes:
        raise TenantError(
            403,
            "route_not_allowed",
            f"This API key may not use {request.endpoint}; allowed: {', '.join(key.routes)}",
        )
    view = names.lookup(key.tenant, request.model)
    if view is None or not tenants.in_scope(key, request.model):
        raise model_not_found(request.model)
    tasks = openai.TASKS[request.endpoint]
    if view.task not in tasks:
        needed = " or ".join(f"`{task}`" for task in tasks)
        raise TenantError(
            400,
            "task_not_served",
            f"The model `{request.model}` serves `{view.task}`; {request.endpoint} needs {needed}",
            param="model",
        )
    return view


def catalogue(names: NameTable, tenants: Tenants, key: KeyView, incoming: Incoming) -> bytes:
    """`/v1/models` and `/v1/models/NAME`: what the key may use. Raises TenantError."""
    if incoming.path != MODELS and not incoming.path.startswith(MODELS + "/"):
        known = ", ".join((MODELS, *openai.TASKS))
        raise TenantError(
            404, "not_found", f"There is no route {incoming.path[:200]}; there are: {known}"
        )
    if incoming.method != b"GET":
        raise TenantError(405, "method_not_allowed", f"{MODELS} takes GET")
    if incoming.path == MODELS:
        data = [
            _model(view, name)
            for view in names.visible(key.tenant)
            for name in (view.name, *view.aliases)
            if tenants.in_scope(key, name)
        ]
        return msgspec.json.encode({"object": "list", "data": data})
    name = incoming.path[len(MODELS) + 1 :]
    found = names.lookup(key.tenant, name)
    if found is None or not tenants.in_scope(key, name):
        raise model_not_found(name)
    return msgspec.json.encode(_model(found, name))


def _model(view: ModelView, name: str) -> dict[str, object]:
    created = int(view.created)
    return {"id": name, "object": "model", "created": created, "owned_by": view.owner}
