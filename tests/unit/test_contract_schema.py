"""The schema itself: what Kubernetes would refuse in a CRD must fail here first."""

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
import yaml

from tidegate_runtime.contract import cel
from tidegate_runtime.contract.forms import FORMS
from tidegate_runtime.contract.resource import _NAME, _NAMESPACE
from tidegate_runtime.contract.schema import crd, schema, spec_schema
from tidegate_runtime.contract.validate import _CHECKS, check, compiled, defaulted, did_you_mean


def parts(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, inner in node.get("properties", {}).items():
        yield from parts(inner, f"{path}.{name}")
    for word in ("items", "additionalProperties"):
        if word in node:
            yield from parts(node[word], f"{path}[]")


PARTS = list(parts(schema()))
SPEC_PARTS = list(parts(spec_schema(), "spec"))


def test_every_part_has_a_type_and_only_known_words() -> None:
    for path, node in PARTS:
        assert node["type"] in {"object", "array", "string", "integer", "number", "boolean"}, path
        assert set(node) <= set(_CHECKS), path


def test_every_field_of_the_spec_is_described() -> None:
    undescribed = [
        path
        for path, node in SPEC_PARTS
        if "description" not in node and not path.endswith("[]") and "PerMillion" not in path
    ]
    assert undescribed == []


def test_what_rules_may_meet_is_bounded() -> None:
    for path, node in SPEC_PARTS:
        if node["type"] == "string" and "enum" not in node:
            assert "maxLength" in node, path
        if node["type"] == "array":
            assert "maxItems" in node, path
        if node["type"] in {"integer", "number"}:
            assert {"minimum", "maximum"} <= set(node), path


def test_patterns_are_anchored_and_mean_the_same_to_go() -> None:
    for path, node in SPEC_PARTS:
        if "pattern" in node:
            assert node["pattern"].startswith("^"), path
            assert node["pattern"].endswith("$"), path
            assert not re.search(r"\(\?[^:]|\\[dwbZ]", node["pattern"]), path
    assert compiled("^a$").search("a")
    assert not compiled("^a$").search("a\n")


def test_defaults_are_valid_and_settle_at_once() -> None:
    for path, node in SPEC_PARTS:
        if "default" in node:
            # As it is written: the API server does not fill a default in before it judges it.
            assert list(check(node["default"], node)) == [], path
            assert list(cel.broken_rules(node["default"], node)) == [], path
            assert defaulted(node["default"], node) == node["default"]


def test_every_rule_has_a_message_and_compiles() -> None:
    rules = [rule for _, node in PARTS for rule in node.get("x-kubernetes-validations", ())]
    assert len(rules) >= 10
    for rule in rules:
        assert set(rule) == {"rule", "message"}
        assert cel._program(rule["rule"])
        assert not re.search(r"\b(quantity|url|isURL|ip|cidr|format|sets?)\.", rule["rule"])


def test_numbers_are_typed_by_the_schema() -> None:
    node = {
        "type": "object",
        "properties": {"a": {"type": "number"}, "b": {"type": "integer"}},
        "x-kubernetes-validations": [{"rule": "self.a <= 3.0 && self.b < 9", "message": "no"}],
    }
    assert list(cel.broken_rules({"a": 3, "b": 2.0}, node)) == []
    assert [fault.message for fault in cel.broken_rules({"a": 4, "b": 2}, node)] == ["no"]


def test_the_definition() -> None:
    made = crd()
    version = made["spec"]["versions"][0]
    assert made["metadata"]["name"] == "modeldeployments.tidegate.dev"
    assert made["spec"]["names"]["shortNames"] == ["mdep"]
    assert version["name"] == "v1alpha1"
    assert version["subresources"]["status"] == {}
    assert version["subresources"]["scale"]["specReplicasPath"] == ".spec.scaling.minReplicas"
    assert version["schema"]["openAPIV3Schema"] == schema()
    columns = [column["name"] for column in version["additionalPrinterColumns"]]
    assert columns[:3] == ["Model", "Phase", "Ready"]


def test_the_definition_reads_back_from_yaml() -> None:
    assert yaml.safe_load(yaml.safe_dump(crd(), sort_keys=False)) == crd()


@pytest.mark.parametrize(
    ("value", "expected"),
    [("maxreplicas", "(did you mean maxReplicas?)"), ("zzz", "(known: minReplicas, maxReplicas)")],
)
def test_suggestions(value: str, expected: str) -> None:
    assert did_you_mean(value, ["minReplicas", "maxReplicas"]).strip() == expected


def test_the_cel_library_waits_for_the_first_rule() -> None:
    code = (
        "import sys; from tidegate_runtime.contract import resource, names\n"
        "assert 'celpy' not in sys.modules, 'celpy was imported'"
    )
    subprocess.run([sys.executable, "-Ic", code], check=True)


@pytest.mark.parametrize("file", ["modeldeployment", "tenant", "pricebook"])
def test_every_pattern_has_words_for_people(file: str) -> None:
    text = (files("tidegate_runtime.contract") / f"{file}.schema.yaml").read_text("utf-8")
    patterns = set(re.findall(r"pattern: '([^']+)'", text))
    assert patterns
    assert patterns <= set(FORMS)
    assert {_NAME["pattern"], _NAMESPACE["pattern"]} <= set(FORMS)
    [fault] = check("5GB", {"type": "string", "pattern": r"^[A-Z]{3}$"})
    assert fault.message == "must match ^[A-Z]{3}$, got '5GB' (a currency such as USD)"
