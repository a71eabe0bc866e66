"""What each role may do: a table, and nothing but a table.

A role counts inside the organization or the tenant of the service account that bears it; what is
outside does not exist for it. The admin token is the platform's own and may do everything. What
only the platform may do is in no role: to make organizations, to suspend or move a tenant or change its plan (else a
tenant could undo it), to say what things cost, to give credit, and to read what spans tenants.
"""

from typing import Final, Literal

Role = Literal["owner", "billing", "developer", "viewer"]
Action = Literal[
    "organization.create",
    "organization.read",
    "organization.update",
    "tenant.create",
    "tenant.read",
    "tenant.update",
    "tenant.suspend",
    "tenant.move",
    "tenant.plan",
    "project.create",
    "project.read",
    "project.update",
    "key.create",
    "key.read",
    "key.update",
    "service_account.create",
    "service_account.read",
    "service_account.update",
    "usage.read",
    "invoice.read",
    "event.read",
    "contract.read",
    "credit.read",
    "credit.update",
    "price.update",
    "budget.read",
    "budget.update",
    "webhook.read",
    "webhook.update",
    "audit.read",
    "audit.verify",
    "platform.read",
]

ROLES: Final[tuple[Role, ...]] = ("owner", "billing", "developer", "viewer")

_SEES: Final[frozenset[Action]] = frozenset(
    {
        "organization.read",
        "tenant.read",
        "project.read",
        "key.read",
        "usage.read",
        "budget.read",
        "webhook.read",
    }
)
_BUILDS: Final[frozenset[Action]] = frozenset(
    {"project.create", "project.update", "key.create", "key.update", "event.read"}
)
_PAYS: Final[frozenset[Action]] = frozenset(
    {
        "invoice.read",
        "event.read",
        "contract.read",
        "credit.read",
        "audit.read",
        "budget.update",
        "webhook.update",
    }
)
_RULES: Final[frozenset[Action]] = frozenset(
    {
        "organization.update",
        "tenant.create",
        "tenant.update",
        "service_account.create",
        "service_account.read",
        "service_account.update",
    }
)

ALLOWED: Final[dict[Role, frozenset[Action]]] = {
    "viewer": _SEES,
    "developer": _SEES | _BUILDS,
    "billing": _SEES | _PAYS,
    "owner": _SEES | _BUILDS | _PAYS | _RULES,
}


def roles_with(action: Action) -> list[Role]:
    """The roles that may do this, for the sentence of a refusal."""
    return [role for role in ROLES if action in ALLOWED[role]]
