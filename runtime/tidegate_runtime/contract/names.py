"""Which deployment a model name means to a tenant: one rule, for operator and router alike.

A name belongs to one deployment in each tenant's view: the tenant's own first, then what is shared
with it (public deployments and those that list the tenant). Within either group the oldest wins,
then the smaller `namespace/name`. An alias is a name like any other.

    platform/a   Public,  "qwen"   oldest     team-b sees it as "qwen"
    platform/b   Public,  "qwen"   younger    in conflict: nobody but its owner would reach it
    team-c/mine  Private, "qwen"   youngest   team-c sees its own: shadowing is not a conflict

A table is built anew from each picture of the world, so a loser is promoted by the winner's going
and nothing has to remember that it lost. Its size is that of the names plus the access lists: a
tenant that owns nothing and is listed nowhere costs nothing and shares the public table.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tidegate_runtime.contract.links import ModelView

_NOTHING: Mapping[str, ModelView] = {}


@dataclass(frozen=True)
class NameTable:
    """An immutable answer to "who is `name` for `tenant`?". Make one with `NameTable.build`."""

    views: tuple[ModelView, ...]
    public: Mapping[str, ModelView]
    by_tenant: Mapping[str, Mapping[str, ModelView]]
    conflicts: Mapping[str, str]
    """Deployments that lost a name, each with a sentence saying which and to whom."""

    @staticmethod
    def build(views: Iterable[ModelView]) -> "NameTable":
        """The table of `views`. Those with `valid=False` hold no name and are left out."""
        ordered = tuple(sorted((view for view in views if view.valid), key=_age))
        conflicts: dict[str, str] = {}
        public = _award((v for v in ordered if v.visibility == "Public"), conflicts)
        by_tenant = {
            tenant: _view_of(tenant, own, listed, public, conflicts)
            for tenant, (own, listed) in _grouped(ordered).items()
        }
        return NameTable(ordered, public, by_tenant, conflicts)

    def lookup(self, tenant: str, name: str) -> ModelView | None:
        """The deployment `name` means to `tenant`; None alike for unknown and for foreign ones."""
        return self.by_tenant.get(tenant, _NOTHING).get(name) or self.public.get(name)

    def visible(self, tenant: str) -> list[ModelView]:
        """What `tenant` can call by its main name, by name."""
        mine = self.by_tenant.get(tenant, _NOTHING)
        reachable = {**self.public, **mine}
        return [view for name, view in sorted(reachable.items()) if view.name == name]


def _age(view: ModelView) -> tuple[float, str]:
    return view.created, view.deployment


def _names(view: ModelView) -> tuple[str, ...]:
    return tuple(dict.fromkeys((view.name, *view.aliases)))


def _award(views: Iterable[ModelView], conflicts: dict[str, str]) -> dict[str, ModelView]:
    """Give each name to the first of `views` (oldest first) that has it; note the losers."""
    won: dict[str, ModelView] = {}
    for view in views:
        for name in _names(view):
            winner = won.setdefault(name, view)
            if winner.deployment != view.deployment:
                conflicts.setdefault(view.deployment, _loss(name, winner))
    return won


def _loss(name: str, winner: ModelView) -> str:
    return f"the model name {name!r} belongs to {winner.deployment}, which is older"


def _grouped(
    ordered: Iterable[ModelView],
) -> dict[str, tuple[list[ModelView], list[ModelView]]]:
    """Per tenant that owns or is listed: its own deployments, and those that list it."""
    groups: dict[str, tuple[list[ModelView], list[ModelView]]] = {}
    for view in ordered:
        groups.setdefault(view.owner, ([], []))[0].append(view)
        for tenant in dict.fromkeys(view.tenants):
            if tenant != view.owner and view.visibility != "Public":
                groups.setdefault(tenant, ([], []))[1].append(view)
    return groups


def _view_of(
    tenant: str,
    own: list[ModelView],
    listed: list[ModelView],
    public: Mapping[str, ModelView],
    conflicts: dict[str, str],
) -> dict[str, ModelView]:
    """The names that differ for `tenant` from what everybody sees."""
    seen = _award(own, conflicts)
    for view in listed:
        for name in _names(view):
            holder = seen.get(name)
            if holder is not None and holder.owner == tenant:
                continue  # its own comes first: shadowing is no conflict
            rival = holder or public.get(name)
            if rival is None or _age(view) < _age(rival):
                if rival is not None:
                    conflicts.setdefault(rival.deployment, _loss(name, view))
                seen[name] = view
            elif rival.deployment != view.deployment:
                conflicts.setdefault(view.deployment, _loss(name, rival))
    return seen
