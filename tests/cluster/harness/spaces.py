"""Namespaces of a test's own: new names each time, so that nothing left of one meets another."""

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import installed
from .installed import Platform
from .kubectl import get, items, wait_for

KINDS = (
    "deployment", "service", "poddisruptionbudget", "secret", "configmap", "networkpolicy",
    "serviceaccount",
)  # fmt: skip
"""The kinds of a model's children, but for the claim that only some have."""


@contextmanager
def fresh(tidegate: Platform, prefix: str, tenant: str = "") -> Iterator[str]:
    """A namespace of a tenant (empty: of the one called as it is), removed at the end."""
    name = f"{prefix}-{secrets.token_hex(3)}"
    installed.namespace(tidegate.cluster, name, tenant)
    wait_for(lambda: get(tidegate.cluster, "serviceaccount", "default", name), f"{name} usable")
    try:
        yield name
    finally:
        tidegate.kubectl("delete", "namespace", name, "--wait=false")


def change(tidegate: Platform, space: str, name: str, **fields: Any) -> None:
    """Merge fields into a resource's spec; None takes one away."""
    patch(tidegate, space, "modeldeployment", name, {"spec": fields})


def patch(
    tidegate: Platform, space: str, kind: str, name: str, by: Any, how: str = "merge"
) -> dict[str, Any]:
    """Edit any object as a person would; the object right after it."""
    words = ("patch", kind, name, "--type", how, "-p", json.dumps(by), "-o", "json")
    return dict(json.loads(tidegate.kubectl("-n", space, *words)))


def children(tidegate: Platform, space: str, label: str) -> dict[str, dict[str, Any]]:
    """All that is there of a model, by kind: its children and its claim."""
    wanted = f"tidegate.dev/model={label}"
    found = items(tidegate.cluster, ",".join((*KINDS, "pvc")), space, wanted)
    return {one["kind"].lower(): one for one in found}
