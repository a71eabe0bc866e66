"""What may be set, and what is refused: values.yaml, its schema, and the templates' own checks."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).resolve().parents[2] / "charts" / "tidegate"
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    # typos, at every depth
    "top": ({"routers": {"replicas": 2}}, "'routers' not allowed"),
    "router": ({"router": {"replica": 2}}, "at '/router': additional properties 'replica'"),
    "journal": ({"router": {"journal": {"sise": "1Gi"}}}, "at '/router/journal'"),
    "service": ({"router": {"service": {"typ": "NodePort"}}}, "at '/router/service'"),
    "billing": ({"billing": {"persistance": {}}}, "at '/billing'"),
    "persistence": ({"billing": {"persistence": {"on": True}}}, "at '/billing/persistence'"),
    "database": ({"billing": {"database": {"url": "x"}}}, "at '/billing/database'"),
    "operator": ({"operator": {"replica": 2}}, "at '/operator'"),
    "admin": ({"admin": {"token": "x"}}, "at '/admin': additional properties 'token'"),
    "secrets": ({"secrets": {"pepper": "x"}}, "at '/secrets'"),
    "engine": ({"engines": {"vlm": {}}}, "at '/engines': additional properties 'vlm'"),
    "engine field": ({"engines": {"sim": {"tag": "x"}}}, "at '/engines/sim'"),
    "profile": ({"profiles": {"cpu": {"gpu": 1}}}, "at '/profiles/cpu'"),
    "policy": ({"policy": {"price": []}}, "at '/policy'"),
    "cache": ({"cache": {"class": "x"}}, "at '/cache'"),
    "capacity": ({"capacity": {"giveway": True}}, "at '/capacity'"),
    "network": ({"networkPolicy": {"on": True}}, "at '/networkPolicy'"),
    "peer": ({"networkPolicy": {"metricsFrom": [{"pods": {}}]}}, "/networkPolicy/metricsFrom/0"),
    "toleration": ({"router": {"tolerations": [{"kee": "x"}]}}, "at '/router/tolerations/0'"),
    "affinity": ({"router": {"affinity": {"node": {}}}}, "at '/router/affinity'"),
    "resources": ({"billing": {"resources": {"request": {}}}}, "at '/billing/resources'"),
    "crds": ({"crds": {"install": False}}, "at '/crds'"),
    "test": ({"test": {"model": "x"}}, "at '/test'"),
    # kinds
    "image": ({"image": {"repository": "tidegate"}}, "at '/image': got object, want string"),
    "no image": ({"image": ""}, "at '/image'"),
    "image with a space": ({"image": "tidegate: dev"}, "at '/image'"),
    "words": ({"router": {"replicas": "three"}}, "at '/router/replicas': got string"),
    "fraction": ({"operator": {"replicas": 1.5}}, "at '/operator/replicas'"),
    "tenant": ({"policy": {"public": "team-a"}}, "at '/policy/public': got string, want array"),
    "elastic": ({"profiles": {"cpu": {"elastic": "yes"}}}, "at '/profiles/cpu/elastic'"),
    "variable": ({"profiles": {"cpu": {"env": {"X": 1}}}}, "at '/profiles/cpu/env/X'"),
    # ranges
    "no router": ({"router": {"replicas": 0}}, "at '/router/replicas': minimum"),
    "no operator": ({"operator": {"replicas": 0}}, "at '/operator/replicas': minimum"),
    "gpus": ({"profiles": {"nvidia-l4": {"gpus": 65}}}, "at '/profiles/nvidia-l4/gpus'"),
    "port": ({"networkPolicy": {"apiServerPorts": [0]}}, "/networkPolicy/apiServerPorts/0"),
    "no port": ({"networkPolicy": {"apiServerPorts": []}}, "at '/networkPolicy/apiServerPorts'"),
    "idleness": ({"capacity": {"minimumIdleSeconds": -1}}, "at '/capacity/minimumIdleSeconds'"),
    "grace": ({"router": {"terminationGracePeriodSeconds": 5}}, "terminationGracePeriodSeconds"),
    "patience": ({"test": {"timeoutSeconds": 1}}, "at '/test/timeoutSeconds'"),
    # patterns and choices
    "pull": ({"imagePullPolicy": "Sometimes"}, "at '/imagePullPolicy'"),
    "log": ({"logLevel": "trace"}, "at '/logLevel'"),
    "durability": ({"router": {"durability": "lax"}}, "at '/router/durability'"),
    "size": ({"router": {"journal": {"size": "big"}}}, "at '/router/journal/size'"),
    "empty volume": ({"billing": {"persistence": {"size": "0Gi"}}}, "/billing/persistence/size"),
    "secret's name": ({"admin": {"existingSecret": "My_Secret"}}, "at '/admin/existingSecret'"),
    "profile's name": ({"profiles": {"L4": {}}}, "at '/profiles'"),
    "quantity": (
        {"profiles": {"cpu": {"requests": {"cpu": "some"}}}},
        "/profiles/cpu/requests/cpu",
    ),
    "resource": ({"profiles": {"cpu": {"requests": {"ram": "1Gi"}}}}, "/profiles/cpu/requests"),
    "device": ({"profiles": {"cpu": {"device": "tpu"}}}, "at '/profiles/cpu/device'"),
    "nameless gpus": ({"profiles": {"mine": {"gpus": 1}}}, "missing property 'gpuResource'"),
    "gpus on cpu": (
        {"profiles": {"cpu": {"gpus": 1, "gpuResource": "a.b/c"}}},
        "at '/profiles/cpu/device': value must be 'gpu'",
    ),
    "cpu is always there": ({"profiles": {"cpu": None}}, "missing property 'cpu'"),
    "effect": (
        {"billing": {"tolerations": [{"effect": "Never"}]}},
        "/billing/tolerations/0/effect",
    ),
    "wild": ({"policy": {"images": ["team-*"]}}, "at '/policy/images/0'"),
    "url": ({"baseUrl": "models.example"}, "at '/baseUrl'"),
    "access": ({"cache": {"accessMode": "Many"}}, "at '/cache/accessMode'"),
    "kind of service": ({"router": {"service": {"type": "Ingress"}}}, "at '/router/service/type'"),
    # what only the templates can know
    "two databases": (
        {"billing": {"database": {"existingSecret": "pg"}}},
        "billing.persistence.enabled and billing.database.existingSecret exclude each other",
    ),
    "no database": (
        {"billing": {"persistence": {"enabled": False}}},
        "billing has no database: set billing.database.existingSecret",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_value_is_refused_by_name(helm: Any, case: str) -> None:
    values, words = REFUSED[case]
    done = helm("template", "tidegate", str(CHART), values=values)
    assert done.returncode != 0
    assert words in done.stderr


def test_the_chart_lints_clean(helm: Any) -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout
    assert "WARNING" not in done.stdout


def _closed(schema: dict[str, Any], where: str) -> list[str]:
    """Where a schema would let a typo through."""
    found = []
    closed = schema.get("additionalProperties") is False or where in OPEN
    if schema.get("type") == "object" and not closed:
        found.append(where)
    for key in ("properties", "$defs"):
        for name, inner in schema.get(key, {}).items():
            found += _closed(inner, f"{where}/{name}")
    lists = [schema["items"]] if "items" in schema else []
    for inner in [*lists, *schema.get("patternProperties", {}).values()]:
        found += _closed(inner, f"{where}/*")
    return found


OPEN = {
    "/global",  # a parent chart's
    # Kubernetes' own, deep; the API server checks them.
    *(f"/affinity/{kind}" for kind in ("nodeAffinity", "podAffinity", "podAntiAffinity")),
    "/selector/matchExpressions/*",
}


def test_every_object_of_the_schema_is_closed() -> None:
    assert _closed(SCHEMA, "") == []
    assert _closed({"type": "object"}, "") == [""]
    assert _closed({"type": "array", "items": {"type": "object"}}, "") == ["/*"]


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    return schema


def _unset(schema: dict[str, Any], values: dict[str, Any], where: str) -> list[str]:
    found = []
    for name, inner in _resolved(schema).get("properties", {}).items():
        if inner == {"type": "object"}:
            continue  # Kubernetes' own
        if name not in values:
            found.append(f"{where}/{name}")
        elif isinstance(values[name], dict):
            found += _unset(inner, values[name], f"{where}/{name}")
    return found


def test_every_value_of_the_schema_has_a_default() -> None:
    # Resources and profiles are the exception: what is left out there is left out of the pod.
    assert _unset(SCHEMA, DEFAULTS, "") == []


def test_every_value_is_explained_above_it() -> None:
    text = (CHART / "values.yaml").read_text()
    # The fields of a profile are explained once, in the list above all of them, and so are
    # requests and limits, above `resources`.
    profiles = re.compile(r"^    (?!#).*\n|^      - .*\n", re.MULTILINE)
    text = re.sub(r"(?m)^    (requests|limits): \{.*\n", "", text)
    before, start, rest = text.partition("\nprofiles:\n")
    inside, end, after = rest.partition("\n# What tenants")
    assert start
    assert end
    lines = (before + start + profiles.sub("", inside) + end + after).splitlines()
    bare = [
        line
        for above, line in zip(["", *lines], lines, strict=False)
        if re.match(r" *[A-Za-z]", line) and not above.lstrip().startswith("#")
    ]
    assert bare == []


def test_common_accelerators_have_profiles() -> None:
    assert set(DEFAULTS["profiles"]) == {
        *("cpu", "nvidia-l4", "nvidia-a10g", "nvidia-a100-80gb", "nvidia-h100", "nvidia-h200"),
        "amd-mi300x",
    }
    for name, profile in DEFAULTS["profiles"].items():
        if name != "cpu":
            assert profile["gpus"] == 1
            assert profile["nodeSelector"]
            assert profile["tolerations"][0]["key"] == profile["gpuResource"]
