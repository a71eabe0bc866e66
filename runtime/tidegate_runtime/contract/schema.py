"""The `ModelDeployment` schema, read once from the data file beside this module.

One schema serves everybody: the CRD carries it to the API server, local mode validates and
defaults by it, the reference page is generated from it. Nothing else in the code base repeats a
default, a bound or a pattern (the structs of `spec.py` do, and a test holds them to this file).
"""

from copy import deepcopy
from functools import cache
from importlib.resources import files
from typing import Any

from tidegate_runtime.contract.document import load
from tidegate_runtime.contract.validate import Schema, defaulted

GROUP = "tidegate.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "ModelDeployment"
PLURAL = "modeldeployments"

_COLUMNS = (
    ("Model", "string", ".spec.model.name", "The OpenAI model string", 1),
    ("Phase", "string", ".status.phase", "The state in one word", 0),
    ("Ready", "integer", ".status.replicas.ready", "Replicas that answer", 0),
    ("Desired", "integer", ".status.replicas.desired", "Replicas asked for", 0),
    ("Profile", "string", ".spec.resources.profile", "What a replica runs on", 0),
    ("Last Request", "date", ".status.lastRequestTime", "When the last request came", 1),
    ("Age", "date", ".metadata.creationTimestamp", "", 0),
)


@cache
def schema() -> Schema:
    """The whole resource's OpenAPI v3 schema. Shared: do not change what it returns."""
    text = (files(__package__) / "modeldeployment.schema.yaml").read_text("utf-8")
    documents, problems = load(text)
    assert not problems, problems
    value = documents[0].value
    assert isinstance(value, dict)
    _fill(value)
    return value


def _fill(node: Schema) -> None:
    # The API server holds a default against the CEL rules as it is written, before the defaults
    # inside it are filled in: with `default: {}` a rule on the fields would find none of them.
    if "default" in node:
        node["default"] = defaulted(node["default"], node)
    for inner in node.get("properties", {}).values():
        _fill(inner)
    if "items" in node:
        _fill(node["items"])


def spec_schema() -> Schema:
    """The schema of `spec`."""
    found: Schema = schema()["properties"]["spec"]
    return found


def crd() -> dict[str, Any]:
    """The CustomResourceDefinition as it is applied to a cluster."""
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": deepcopy(schema())},
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.scaling.minReplicas",
                "statusReplicasPath": ".status.replicas.ready",
            },
        },
        "additionalPrinterColumns": [_column(*column) for column in _COLUMNS],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["mdep"],
                "categories": ["tidegate"],
            },
            "versions": [version],
        },
    }


def _column(name: str, kind: str, path: str, description: str, priority: int) -> dict[str, Any]:
    column: dict[str, Any] = {"name": name, "type": kind, "jsonPath": path}
    if description:
        column["description"] = description
    if priority:
        column["priority"] = priority
    return column
