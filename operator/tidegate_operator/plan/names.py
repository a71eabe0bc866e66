"""What a deployment's objects are called, and how they are found again."""

import hashlib
from typing import Final

from tidegate_runtime.contract import cluster
from tidegate_runtime.contract.spec import ModelDeployment

CLAIM_SUFFIX: Final = "-cache"
_NAME_LIMIT: Final = 63


def child(resource: ModelDeployment) -> str:
    """The name of all children but the claim."""
    return cluster.child_name(resource.metadata.name)


def claim(resource: ModelDeployment) -> str:
    """`<child>-cache`, shortened as a child's name is."""
    name = child(resource)
    if len(name + CLAIM_SUFFIX) <= _NAME_LIMIT:
        return name + CLAIM_SUFFIX
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: _NAME_LIMIT - 9 - len(CLAIM_SUFFIX)].rstrip('-')}-{digest}{CLAIM_SUFFIX}"


def selector(resource: ModelDeployment) -> dict[str, str]:
    """What finds a model's pods. A Deployment's selector can never change, so this cannot."""
    return {
        cluster.LABEL_MODEL: cluster.label_value(resource.metadata.name),
        "app.kubernetes.io/managed-by": "tidegate",
    }


def labels(resource: ModelDeployment) -> dict[str, str]:
    """On every child and every pod."""
    return selector(resource) | {"app.kubernetes.io/component": "engine"}
