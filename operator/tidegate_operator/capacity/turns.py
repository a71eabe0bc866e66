"""The order of waiting: within a tenant first come, first served; between tenants by turns.

A turn is one replica, so that a model that scales by ten delays another tenant's by one. Whose last
turn is longest ago comes first. Within a tenant a model's first replica comes before another's
second: serving all badly is better than serving one well.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tidegate_operator.capacity.values import Ask


class Unit(NamedTuple):
    """One replica that an ask wants."""

    ask: Ask
    written: bool


def ordered(asks: Iterable[Ask], served: Mapping[str, float]) -> list[Unit]:
    """Every replica wanted, in the order in which they are looked at: what is written first, for
    the scheduler looks at it now. `served`: when each tenant was last granted something."""
    known = sorted(asks, key=lambda ask: (ask.since, ask.deployment))
    written = [Unit(ask, written=True) for ask in known for _ in range(ask.written)]
    lines: dict[str, list[tuple[int, float, str, Ask]]] = {}
    for ask in known:
        for number in range(ask.written, ask.wanted):
            place = (ask.has + number, ask.since, ask.deployment, ask)
            lines.setdefault(ask.tenant, []).append(place)
    for line in lines.values():
        line.sort(key=lambda place: place[:3], reverse=True)
    tenants = sorted(lines, key=lambda one: (served.get(one, 0.0), _first(lines[one]), one))
    return [*written, *(Unit(ask, written=False) for ask in _turns(tenants, lines))]


def _first(line: list[tuple[int, float, str, Ask]]) -> float:
    return min(since for _, since, _, _ in line)


def _turns(
    tenants: list[str], lines: dict[str, list[tuple[int, float, str, Ask]]]
) -> Iterable[Ask]:
    while tenants:
        for tenant in tenants:
            yield lines[tenant].pop()[3]
        tenants = [tenant for tenant in tenants if lines[tenant]]
