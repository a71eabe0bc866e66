"""A router alone: models, endpoints and keys from one file (bench kit, debugging).

models: [{name: fake, endpoints: [http://127.0.0.1:9001]}]
keys: [{key: sk-1, tenant: bench}]
"""

from pathlib import Path

import msgspec

from tidegate_billing.keys import digest
from tidegate_billing.links import KeyView
from tidegate_runtime.contract import document
from tidegate_runtime.contract.links import ModelView, Replica, WorldLine


class _Model(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    endpoints: list[str]
    task: str = "generate"


class _Key(msgspec.Struct, forbid_unknown_fields=True):
    key: str
    tenant: str


class _File(msgspec.Struct, forbid_unknown_fields=True):
    models: list[_Model]
    keys: list[_Key]


class StaticError(ValueError):
    """The file cannot be used; says which file and field."""


def read(path: Path, pepper: bytes) -> tuple[WorldLine, list[KeyView]]:
    """The file as a world and keys. Raises StaticError."""
    doc = _read(path)
    keys = [
        KeyView(
            id=f"key-{i}", digest=digest(pepper, k.key.encode()).hex(),
            tenant=k.tenant, project="default",
        )
        for i, k in enumerate(doc.keys)
    ]  # fmt: skip
    models = [
        ModelView(
            deployment=f"default/{m.name}", owner="default", name=m.name, visibility="Public",
            task=m.task, max_concurrency=100_000,
        )
        for m in doc.models
    ]  # fmt: skip
    replicas = [
        Replica(
            id=f"{m.name}-{i}", deployment=f"default/{m.name}", url=url, state="ready", guard=""
        )
        for m in doc.models
        for i, url in enumerate(m.endpoints)
    ]
    return WorldLine(type="world", version=1, models=models, replicas=replicas), keys


def _read(path: Path) -> _File:
    try:
        documents, faults = document.load(path.read_text("utf-8"))
    except OSError as exc:
        raise StaticError(f"{path}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise StaticError(f"{path}: not UTF-8") from exc
    for fault in faults:
        raise StaticError(f"{path}:{fault.line}: {fault.message}")
    if len(documents) != 1:
        raise StaticError(f"{path}: must be one document, has {len(documents)}")
    try:
        return msgspec.convert(documents[0].value, _File)
    except msgspec.ValidationError as exc:
        raise StaticError(f"{path}: {exc}") from exc
