"""Which resources may serve, and why the others may not: judged once per generation and owner.

The API server has refused what the schema refuses. What it cannot know is judged here: rules of a
newer version on what was stored before, the deny list, the platform's policy for the owner, and
names, which belong to one deployment each in a tenant's view.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgspec

from tidegate_operator import platform as platforms
from tidegate_operator.kube.state import State
from tidegate_operator.platform import Platform
from tidegate_runtime.contract import resource as resources
from tidegate_runtime.contract.cluster import NAME_CONFLICT, seconds
from tidegate_runtime.contract.links import ModelView
from tidegate_runtime.contract.names import NameTable
from tidegate_runtime.contract.spec import ModelDeployment

Object = Mapping[str, Any]
Reason = Literal["Valid", "InvalidSpec", "PolicyRefused", "NameConflict"]


class Verdict(NamedTuple):
    """`resource` is None where it cannot even be read."""

    resource: ModelDeployment | None
    reason: Reason
    message: str

    @property
    def valid(self) -> bool:
        """Whether it may serve."""
        return self.reason == "Valid"


@dataclass(frozen=True)
class _Judged:
    stamp: tuple[str, int, str]
    verdict: Verdict
    view: ModelView


class Verdicts:
    """The verdicts on all resources, kept while nothing they rest on changes."""

    def __init__(self, state: State, platform: Platform) -> None:
        self._state, self._platform = state, platform
        self._judged: dict[str, _Judged] = {}
        self._table = NameTable.build([])

    def of(self, deployment: str) -> Verdict | None:
        """The verdict on a deployment; None where there is no such resource."""
        judged = self._look(deployment)
        if judged is None:
            return None
        lost = self._table.conflicts.get(deployment)
        if lost and judged.verdict.valid:
            return Verdict(judged.verdict.resource, NAME_CONFLICT, lost)
        missed = self._table.missed.get(deployment)
        if missed and judged.verdict.valid:
            return judged.verdict._replace(message=f"the resource is valid, but {missed}")
        return judged.verdict

    def stale(self, deployment: str) -> bool:
        """Whether the names may mean something else since a deployment was last judged: it came,
        went, or says something else. Not so where only its pods or its status have changed."""
        obj, known = self._state.resources.get(deployment), self._judged.get(deployment)
        if obj is None or known is None:
            return obj is not None or known is not None
        return known.stamp != self._stamp(deployment, obj)

    async def judge(self) -> None:
        """Judge what has not been judged yet, one at a time: each takes milliseconds, and nothing
        else would run for seconds where an operator meets a thousand models."""
        for key in list(self._state.resources):
            if self.stale(key):
                self._look(key)
                await asyncio.sleep(0)

    def settle(self) -> list[str]:
        """Decide on the names again; the deployments whose verdict that changes."""
        for gone in self._judged.keys() - self._state.resources.keys():
            del self._judged[gone]
        found = (self._look(key) for key in self._state.resources)
        views = [judged.view for judged in found if judged is not None]
        before = _losses(self._table)
        self._table = NameTable.build(views)
        after = _losses(self._table)
        return [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]

    def _look(self, deployment: str) -> _Judged | None:
        obj = self._state.resources.get(deployment)
        if obj is None:
            return None
        stamp = self._stamp(deployment, obj)
        known = self._judged.get(deployment)
        if known is None or known.stamp != stamp:
            verdict, view = _judge(obj, stamp[2], self._platform)
            if view.valid != verdict.valid:
                view = msgspec.structs.replace(view, valid=verdict.valid)
            known = self._judged[deployment] = _Judged(stamp, verdict, view)
        return known

    def _stamp(self, deployment: str, obj: Object) -> tuple[str, int, str]:
        """What a verdict rests on: UID, generation, owner."""
        metadata = obj["metadata"]
        owner = self._state.owner(deployment)
        return metadata.get("uid", ""), metadata.get("generation", 0), owner


def _losses(table: NameTable) -> dict[str, str]:
    """What is said of each deployment that lost a name; never both, for who has none misses none."""
    return {**table.missed, **table.conflicts}


def _judge(obj: Object, owner: str, platform: Platform) -> tuple[Verdict, ModelView]:
    metadata = obj["metadata"]
    made, problems = resources.judge(obj)
    if made is None:
        name = f"{metadata['namespace']}/{metadata['name']}"
        view = ModelView(deployment=name, owner=owner, name=metadata["name"], valid=False)
        return Verdict(None, "InvalidSpec", "; ".join(problems)), view
    view = msgspec.structs.replace(
        resources.view(made, seconds(metadata.get("creationTimestamp"))), owner=owner
    )
    refused = platforms.refused(made, owner, platform)
    if refused:
        return Verdict(made, "PolicyRefused", "; ".join(refused)), view
    return Verdict(made, "Valid", "the resource is valid"), view
