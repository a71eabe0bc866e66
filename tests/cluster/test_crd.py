"""One schema, two judges: a real API server and our own reader give the same verdicts.

Everything but the last part is a dry run, so that hundreds of resources leave no trace and the
operator sees none of them. The API server reads the files as they are written, YAML and all.
"""

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from harness import installed, rest
from harness.command import CommandFailed
from harness.installed import Platform
from harness.kubectl import apply, kubectl, wait_for

from corpus.cases import Bad, bad, good
from tidegate_runtime.contract import cel, definitions, document
from tidegate_runtime.contract import resource as resources
from tidegate_runtime.contract.schema import spec_schema
from tidegate_runtime.contract.validate import Schema, check, defaulted

SPACE = "corpus"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
MODELS = f"/apis/tidegate.dev/v1alpha1/namespaces/{SPACE}/modeldeployments"
STRICT = {"dryRun": "All", "fieldValidation": "Strict"}
YAML = {"content-type": "application/yaml"}


@pytest.fixture(scope="module")
def api(tidegate: Platform) -> Iterator[httpx.Client]:
    """The API server; a namespace for what is really made, removed at the end."""
    installed.namespace(tidegate.cluster, SPACE)
    with rest.client(tidegate.cluster) as made:
        yield made
    kubectl(tidegate.cluster, "delete", "namespace", SPACE, "--wait=false")


def moved(path: Path) -> str:
    """A file of the corpus, in the namespace of these tests."""
    return path.read_text("utf-8").replace("namespace: team-a", f"namespace: {SPACE}")


def local_spec(path: Path) -> Any:
    """What local mode makes of a file's spec: its reader, its defaults."""
    documents, faults = document.load(moved(path))
    assert not faults
    assert isinstance(documents[0].value, dict)
    return defaulted(documents[0].value["spec"], spec_schema())


def create(api: httpx.Client, body: str, **params: str) -> httpx.Response:
    """A dry run of creating a resource; strict about unknown fields unless told otherwise."""
    return api.post(MODELS, content=body.encode(), headers=YAML, params={**STRICT, **params})


# --- the definition ---------------------------------------------------------------------------


@pytest.mark.parametrize("made", definitions.crds(), ids=lambda made: made["spec"]["names"]["kind"])
def test_a_definition_is_created_without_a_warning(api: httpx.Client, made: dict[str, Any]) -> None:
    # Under another group, so that nothing of it is excused as having been there before.
    made["metadata"]["name"] = made["metadata"]["name"].replace("tidegate.dev", "fresh.test")
    made["spec"]["group"] = "fresh.test"
    answer = api.post(DEFINITIONS, json=made, params=STRICT)
    assert answer.status_code == 201, answer.text
    assert "warning" not in answer.headers


def test_the_definition_is_established_as_shipped(api: httpx.Client) -> None:
    found = api.get(f"{DEFINITIONS}/modeldeployments.tidegate.dev").json()
    state = {c["type"]: c["status"] for c in found["status"]["conditions"]}
    assert state["Established"] == state["NamesAccepted"] == "True"
    assert state.get("NonStructuralSchema", "False") == "False"
    stored = found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert stored["properties"]["spec"] == spec_schema()


# --- the corpus -------------------------------------------------------------------------------


def test_good_ones_are_stored_as_local_mode_reads_them(api: httpx.Client) -> None:
    assert good()
    for path in good():
        answer = create(api, moved(path))
        assert answer.status_code == 201, f"{path.name}: {answer.text}"
        assert "warning" not in answer.headers, path.name
        assert answer.json()["spec"] == local_spec(path), path.name


def fields(status: dict[str, Any]) -> set[str]:
    """The fields that a refusal names; an entry of a keyed list stands for its key."""
    causes = status.get("details", {}).get("causes", [])
    named = {cause["field"] for cause in causes if cause.get("field")}
    named |= set(re.findall(r'unknown field "([^"]+)"', status["message"]))
    return named | {f"{field}.name" for field in named if field.endswith("]")}


REFUSED = [case for case in bad() if case.by != "platform"]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.path.stem)
def test_bad_ones_are_refused_at_the_same_field(api: httpx.Client, case: Bad) -> None:
    answer = create(api, moved(case.path))
    assert answer.status_code in {400, 422}, answer.text
    assert case.field in fields(answer.json()), answer.json()["message"]
    if case.by == "rule":
        assert case.says in answer.json()["message"]


def test_the_operator_tells_what_the_api_server_cannot_see(
    tidegate: Platform, api: httpx.Client
) -> None:
    cases = {case.path.stem: case for case in bad() if case.by == "platform"}
    assert cases
    for case in cases.values():
        made = api.post(MODELS, content=moved(case.path).encode(), headers=YAML)
        assert made.status_code == 201, made.text

    def judged() -> dict[str, dict[str, Any]]:
        found = {}
        for one in api.get(MODELS).json()["items"]:
            conditions = {c["type"]: c for c in one.get("status", {}).get("conditions", [])}
            if one["metadata"]["name"] in cases and "Valid" in conditions:
                found[one["metadata"]["name"]] = conditions["Valid"]
        return found

    wait_for(lambda: judged().keys() == cases.keys(), "a verdict on each", 30)
    for name, condition in judged().items():
        assert condition["status"] == "False", name
        assert condition["reason"] in {"InvalidSpec", "PolicyRefused"}, name
        assert cases[name].field in condition["message"], condition["message"]
    assert not api.get(f"/api/v1/namespaces/{SPACE}/pods").json()["items"]


# --- the schema's own corners -----------------------------------------------------------------


class Change(NamedTuple):
    """A value put at a place of a good resource."""

    path: tuple[str | int, ...]
    value: Any

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.path))}={str(self.value)[:40]!r}"


def changes(node: Schema, path: tuple[str | int, ...]) -> Iterator[Change]:
    """Values at and beyond every bound of a schema, and of the wrong kind."""
    for value in (None, "x", 1, 2.0, 2.5, True, [], {}, [None], {"nobody": 1}):
        yield Change(path, value)
    for word, beyond in (("minimum", -1), ("maximum", 1)):
        if word in node:
            yield from (Change(path, node[word]), Change(path, node[word] + beyond))
            yield Change(path, float(node[word]))
    if node["type"] == "string":
        length = node.get("maxLength", 8)
        for text in ("", "a" * length, "a" * (length + 1), "\u00e9" * length, "a\n", "a b",
                     "\u0663", "sim://a\vb", "sim://\u00a0", "sim://a\n", "A1", "1e3", "0.5", "-",
                     "50Gi", "USD"):  # fmt: skip
            yield Change(path, text)
        yield from (Change(path, text) for text in node.get("enum", ()))
    if node["type"] == "array":
        items = node["items"]
        one = example(items)
        yield from (Change(path, [one]), Change(path, [one, one]))
        yield Change(path, [numbered(one, n) for n in range(node["maxItems"])])
        yield Change(path, [numbered(one, n) for n in range(node["maxItems"] + 1)])
        yield from (Change((*path, *c.path), c.value) for c in changes(items, (0,)))
    for name, inner in node.get("properties", {}).items():
        yield from changes(inner, (*path, name))


def example(node: Schema) -> Any:
    """A value of an entry, good enough to be changed."""
    if node["type"] == "object":
        known = node["properties"]
        made = {name: example(known[name]) for name in node.get("required", ())}
        return made | ({"value": "x"} if "valueFrom" in known else {})
    return "sim://a" if "://" in node.get("pattern", "") else "a"


def numbered(value: Any, number: int) -> Any:
    """Another entry like `value`."""
    return value | {"name": f"{value['name']}{number}"} if isinstance(value, dict) else f"a{number}"


def put(spec: Any, change: Change) -> Any:
    """A copy of `spec` with the change in it; what lies on the way is made."""
    made = deepcopy(spec)
    at, schema = made, spec_schema()
    for step in change.path[:-1]:
        schema = schema["items"] if isinstance(step, int) else schema["properties"][step]
        if isinstance(at, dict) and step not in at:
            at[step] = [example(schema["items"])] if schema["type"] == "array" else example(schema)
        at = at[step]
    if isinstance(at, list):
        at[:] = [change.value]
    else:
        at[change.path[-1]] = change.value
    return made


def wrong(spec: Any) -> list[str]:
    """What local mode says of a spec, the deny list apart."""
    filled = defaulted(spec, spec_schema())
    faults = list(check(filled, spec_schema(), ("spec",)))
    seen = frozenset(fault.path for fault in faults)
    faults += cel.broken_rules(filled, spec_schema(), ("spec",), seen)
    return [f"{'.'.join(map(str, fault.path))}: {fault.message}" for fault in faults]


BASE: dict[str, Any] = {"model": {"uri": "sim://a"}, "engine": {"type": "sim"}}


def resource(spec: Any = BASE, **metadata: Any) -> dict[str, Any]:
    """A resource of these tests."""
    return {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "corner", "namespace": SPACE, **metadata},
        "spec": spec,
    }


def test_both_judges_agree_at_every_bound(api: httpx.Client) -> None:
    table = [change for change in changes(spec_schema(), ()) if change.path]
    assert len(table) > 800
    apart: list[str] = []
    for change in table:
        # JSON in YAML's name, as kubectl reads a file: what is 4.0 there is the integer 4.
        text = json.dumps(resource(put(BASE, change)))
        answer, spec = create(api, text), document.load(text)[0][0].value["spec"]
        ours, theirs = wrong(spec), answer.json()
        if (answer.status_code == 201) != (not ours):
            apart.append(f"{change}: ours {ours}, the API server's {theirs.get('message')}")
        elif not ours and theirs["spec"] != defaulted(spec, spec_schema()):
            apart.append(f"{change}: stored as {theirs['spec']}")
    assert not apart, f"{len(apart)} of {len(table)}:\n" + "\n".join(apart)


NAMES = [
    "a",
    "a.b",
    "a-b",
    "1",
    "a..b",
    "a.-b",
    "a-.b",
    "-a",
    "a-",
    "A",
    "a_b",
    "a" * 253,
    "a" * 254,
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:8])
def test_both_judges_agree_on_names(api: httpx.Client, name: str) -> None:
    text = json.dumps(resource(name=name))
    taken = not resources.parse(text, "x").problems
    assert (create(api, text).status_code == 201) == taken


@pytest.mark.parametrize(
    ("where", "field"),
    [
        (("spec", "scaling"), "spec.scaling.nobody"),
        (("spec",), "spec.nobody"),
        ((), "nobody"),
        (("metadata",), "metadata.nobody"),
    ],
)
def test_a_field_nobody_knows(api: httpx.Client, where: tuple[str, ...], field: str) -> None:
    made = deepcopy(resource(BASE | {"scaling": {}}))
    place = made
    for step in where:
        place = place[step]
    place["nobody"] = 1
    text = json.dumps(made)
    assert field in fields(create(api, text).json())
    assert [problem.field for problem in resources.parse(text, "x").problems] == [field]
    lax = create(api, text, fieldValidation="Ignore")
    assert lax.status_code == 201
    assert "nobody" not in lax.text.partition('"spec"')[2]


# --- what kubectl makes of it -----------------------------------------------------------------


@pytest.fixture
def off(tidegate: Platform, api: httpx.Client) -> Iterator[Any]:
    """kubectl in the namespace, where the model `off` is: suspended, so that no pod comes."""
    made = resource(BASE | {"suspend": True}, name="off")
    apply(tidegate.cluster, made)
    tidegate.phase("off", SPACE, "Suspended")
    yield lambda *words: kubectl(tidegate.cluster, "-n", SPACE, *words)
    tidegate.delete("off", SPACE)


def test_columns_names_and_words(off: Any) -> None:
    brief, row = off("get", "mdep", "off").splitlines()
    assert brief.split() == ["NAME", "PHASE", "READY", "DESIRED", "PROFILE", "AGE"]
    assert row.split()[:5] == ["off", "Suspended", "0", "0", "cpu"]
    assert "off" in off("get", "tidegate", "-o", "name")
    wide = off("get", "mdep", "off", "-o", "wide").splitlines()[0]
    assert wide.split() == [
        "NAME", "MODEL", "PHASE", "READY", "DESIRED", "PROFILE", "LAST", "REQUEST", "AGE",
    ]  # fmt: skip
    told = off("explain", "mdep.spec.scaling")
    for name, node in spec_schema()["properties"]["scaling"]["properties"].items():
        assert re.search(rf"^\s+{name}\s+<{node['type']}>", told, re.MULTILINE), told
        assert node["description"].split(";")[0].split()[0] in told


def test_the_scale_subresource_is_the_minimum(tidegate: Platform, off: Any) -> None:
    off("scale", "mdep/off", "--replicas=1")
    assert tidegate.mdep("off", SPACE)["spec"]["scaling"]["minReplicas"] == 1
    with pytest.raises(CommandFailed, match="maxReplicas must not be below minReplicas"):
        off("scale", "mdep/off", "--replicas=5")


def test_the_status_path_changes_the_status_only(
    tidegate: Platform, api: httpx.Client, off: Any
) -> None:
    path, params = f"{MODELS}/off", {"dryRun": "All"}
    change = {"spec": {"suspend": False}, "status": {"url": "http://x"}}
    merge = {"content-type": "application/merge-patch+json"}
    by_status = api.patch(f"{path}/status", json=change, headers=merge, params=params).json()
    assert (by_status["spec"]["suspend"], by_status["status"]["url"]) == (True, "http://x")
    by_spec = api.patch(path, json=change, headers=merge, params=params).json()
    assert (by_spec["spec"]["suspend"], by_spec["status"]["url"] != "http://x") == (False, True)
    refused = api.patch(
        f"{path}/status", json={"status": {"phase": "Fine"}}, headers=merge, params=params
    )
    assert "status.phase" in fields(refused.json())
