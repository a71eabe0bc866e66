"""The Secrets that keys are delivered into, as plain objects. Pure.

A Secret is ours by its label, which names the tenant; an annotation names the entry it was made
for, another the key in it. It holds nothing else: what was there before is taken out when a new key
comes. One without the label is somebody else's, whatever its name, and nothing of it is read.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from tidegate_billing.links import SettledKey

Object = Mapping[str, Any]

LABEL: Final = "tidegate.dev/key-of"
ENTRY: Final = "tidegate.dev/key-name"
KEY_ID: Final = "tidegate.dev/key-id"
PREFIX: Final = "tidegate.dev/key-prefix"


class Place(NamedTuple):
    """Where an entry's key goes."""

    namespace: str
    name: str
    field: str

    @property
    def collection(self) -> str:
        """The path of the namespace's Secrets."""
        return f"/api/v1/namespaces/{self.namespace}/secrets"

    @property
    def path(self) -> str:
        """The path of the Secret."""
        return f"{self.collection}/{self.name}"

    def __str__(self) -> str:
        """As a status names it."""
        return f"{self.namespace}/{self.name}"


def place(entry: Object) -> Place:
    """Where the key of an entry of a spec goes."""
    where = entry["secretRef"]
    return Place(where["namespace"], where["name"], where.get("key") or "key")


def at(secret: Object) -> tuple[str, str]:
    """Where a Secret is."""
    return secret["metadata"]["namespace"], secret["metadata"]["name"]


def delivered(secret: Object | None, entry: str, field: str) -> str:
    """The id of the key that a Secret of ours holds for an entry; empty: none that can be used."""
    if secret is None:
        return ""
    notes = secret["metadata"].get("annotations") or {}
    try:
        value = base64.b64decode((secret.get("data") or {}).get(field) or "", validate=True)
    except (binascii.Error, ValueError):
        return ""
    prefix = str(notes.get(PREFIX) or "")
    whole = bool(prefix) and value.startswith(prefix.encode()) and len(value) > len(prefix)
    return str(notes.get(KEY_ID) or "") if whole and notes.get(ENTRY) == entry else ""


def fresh(tenant: str, where: Place, key: SettledKey) -> dict[str, Any]:
    """A Secret that is not there yet. Without a key in `key`, to try whether it could be."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {
            "name": where.name,
            "namespace": where.namespace,
            "labels": {LABEL: tenant},
            "annotations": _notes(key),
        },
        "data": {where.field: _encoded(key.key)},
    }


def changed(secret: Object, where: Place, key: SettledKey) -> dict[str, Any]:
    """The merge patch that puts another key into a Secret of ours, as it was read and no other."""
    emptied = dict.fromkeys(secret.get("data") or {})
    return {
        "metadata": {
            "resourceVersion": secret["metadata"]["resourceVersion"],
            "annotations": _notes(key),
        },
        "data": {**emptied, where.field: _encoded(key.key)},
    }


def _notes(key: SettledKey) -> dict[str, str]:
    return {ENTRY: key.name, KEY_ID: key.id, PREFIX: key.prefix}


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
