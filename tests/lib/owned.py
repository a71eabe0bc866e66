"""The marks of a pod that a model's own Deployment has made: the label alone makes no replica."""

from typing import Any

from tidegate_runtime.contract import cluster


def owned(model: str, uid: str) -> dict[str, Any]:
    """Metadata of a pod of `model`, the resource with `uid`."""
    reference = {
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "controller": True, "uid": f"rs-of-{uid}",
        "name": f"{cluster.child_name(model)}-5d66847dc7",
    }  # fmt: skip
    return {
        "labels": {cluster.LABEL_MODEL: cluster.label_value(model)},
        "annotations": {cluster.OWNER_UID: uid},
        "ownerReferences": [reference],
    }
