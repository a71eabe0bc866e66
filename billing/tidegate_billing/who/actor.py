"""Who makes a change, or asks: a program of ours, the platform's admin, or a service account."""

from typing import NamedTuple

from tidegate_billing.who.roles import ALLOWED, Action, Role


class Actor(NamedTuple):
    """`role` None: ours, and free to do everything. A service account is bound to its
    `organization`, and to its `tenant` where it has one."""

    id: str
    role: Role | None = None
    organization: str = ""
    tenant: str | None = None

    def may(self, action: Action) -> bool:
        """Whether the role allows this, wherever the role counts."""
        return self.role is None or action in ALLOWED[self.role]

    def covers(self, organization: str | None, tenant: str | None) -> bool:
        """Whether an object of this organization (and tenant, where it has one) exists for it."""
        if self.role is None:
            return True
        if self.tenant is not None:
            return tenant == self.tenant
        return organization == self.organization


ADMIN = Actor("admin")
OPERATOR = Actor("operator")
SYSTEM = Actor("system")
