"""Which deployment a model name means to a tenant: one rule, for operator and router alike.

A name belongs to one deployment in each tenant's view: the tenant's own first, then public ones, then
those that list the tenant. Within each group the oldest wins, then the smaller `namespace/name`. An
alias is a name like any other.

A deployment whose own name (not an alias) belongs to an older one, of the same owner or, for a public
one, public like it, is in conflict: it holds no name at all, for anybody, and its aliases are free.
So a deployment is in conflict exactly when its owner cannot call it by its name, and what is not in
conflict serves:

    platform/a   Public,  "qwen"   oldest     everybody sees it as "qwen"
    platform/b   Public,  "qwen"   younger    in conflict, until platform/a goes
    team-c/mine  Private, "qwen"   youngest   team-c sees its own: shadowing is no conflict
    team-d/ours  Private, "qwen"   lists team-e, which sees platform/a: nobody takes a public name
                                   from others by listing them

A table is built anew from each picture of the world, so a loser is promoted by the winner's going
and nothing has to remember that it lost. Its size is that of the names plus the access lists: a
tenant that owns nothing and is listed nowhere costs nothing and shares the public table.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tidegate_runtime.contract.links import ModelView

_NOTHING: Mapping[str, ModelView] = {}

_Names = dict[str, ModelView]


@dataclass(frozen=True)
class NameTable:
    """An immutable answer to "who is `name` for `tenant`?". Make one with `NameTable.build`."""

    views: tuple[ModelView, ...]
    public: Mapping[str, ModelView]
    by_tenant: Mapping[str, Mapping[str, ModelView]]
    conflicts: Mapping[str, str]
    """Deployments that hold no name, each with a sentence saying which was lost and to whom."""
    missed: Mapping[str, str]
    """Deployments that serve, but lack an alias that an older one has, each with a sentence."""

    @staticmethod
    def build(views: Iterable[ModelView]) -> "NameTable":
        """The table of `views`. Those with `valid=False` hold no name and are left out."""
        ordered = tuple(sorted((view for view in views if view.valid), key=_age))
        public: _Names = {}
        own: dict[str, _Names] = {}
        conflicts: dict[str, str] = {}
        missed: dict[str, str] = {}
        for view in ordered:
            tables = [own.setdefault(view.owner, {})]
            if view.visibility == "Public":
                tables.append(public)
            rival = _holder(tables, view.name)
            if rival is not None:
                conflicts[view.deployment] = _loss("model name", view.name, rival)
                continue
            _award(view, tables, missed)
        serving = tuple(view for view in ordered if view.deployment not in conflicts)
        return NameTable(ordered, public, _with_listed(serving, own, public), conflicts, missed)

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


def _names(view: ModelView) -> Iterable[str]:
    return dict.fromkeys((view.name, *view.aliases))


def _holder(tables: Iterable[_Names], name: str) -> ModelView | None:
    return next((table[name] for table in tables if name in table), None)


def _award(view: ModelView, tables: list[_Names], missed: dict[str, str]) -> None:
    """Enter the names of `view`; an alias that is taken anywhere it would count is left out."""
    for name in _names(view):
        rival = _holder(tables, name)
        if rival is not None:
            missed.setdefault(view.deployment, _loss("alias", name, rival))
            continue
        for table in tables:
            table[name] = view


def _loss(what: str, name: str, winner: ModelView) -> str:
    return f"the {what} {name!r} belongs to {winner.deployment}, which is older"


def _with_listed(
    serving: Iterable[ModelView], own: Mapping[str, _Names], public: _Names
) -> dict[str, _Names]:
    """What differs for each tenant from the public table: its own, and what lists it."""
    seen = {tenant: dict(names) for tenant, names in own.items()}
    for view in serving:
        if view.visibility == "Public":
            continue
        for tenant in dict.fromkeys(view.tenants):
            if tenant == view.owner:
                continue
            names = seen.setdefault(tenant, {})
            for name in _names(view):
                if name not in public and own.get(view.owner, {}).get(name) is view:
                    names.setdefault(name, view)
    return seen
