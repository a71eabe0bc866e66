"""The local reader of resources: the corpus, lines, YAML's corners, several files."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.cases import Bad, bad, good
from tidegate_runtime.contract import document, resource
from tidegate_runtime.contract.resource import Problem
from tidegate_runtime.contract.schema import spec_schema
from tidegate_runtime.contract.spec import ModelSpec, Spec
from tidegate_runtime.contract.validate import defaulted

HEAD = "apiVersion: tidegate.dev/v1alpha1\nkind: ModelDeployment\n"
SPEC = "spec: {model: {uri: sim://m}, engine: {type: sim}}\n"
EXAMPLES = Path(__file__).parents[2] / "examples"


def text(name: str = "m", namespace: str = "") -> str:
    inside = f"{{name: {name}, namespace: {namespace}}}" if namespace else f"{{name: {name}}}"
    return f"{HEAD}metadata: {inside}\n{SPEC}"


def said(source: str) -> list[str]:
    return [str(problem) for problem in resource.parse(source, "x.yaml").problems]


@pytest.mark.parametrize("path", good(), ids=lambda path: path.stem)
def test_good_resources_are_taken(path: Path) -> None:
    parsed = resource.read([path])
    assert parsed.problems == []
    assert [one.deployment for one in parsed.resources] == [f"team-a/{path.stem}"]


@pytest.mark.parametrize("case", bad(), ids=lambda case: case.path.stem)
def test_bad_resources_are_refused_by_field(case: Bad) -> None:
    parsed = resource.read([case.path])
    assert parsed.resources == []
    [problem] = parsed.problems
    assert problem.field == case.field
    assert case.says in problem.message
    assert case.by in {"schema", "rule", "platform"}
    assert problem.line > 3


def test_examples_are_good() -> None:
    others = {"tenant.yaml", "price-book.yaml"}  # of a cluster alone; see docs/gitops.md
    found = sorted(path for path in EXAMPLES.glob("*.yaml") if path.name not in others)
    parsed = resource.read(found)
    assert parsed.problems == []
    assert {one.served_name for one in parsed.resources} >= {"smollm2-135m-instruct", "sim"}


def test_every_problem_of_a_file_is_told_with_its_line() -> None:
    source = (
        f"{HEAD}metadata: {{name: m}}\nspec:\n  model: {{uri: sim://m}}\n  engine: {{type: sim}}\n"
        "  scaling:\n    maxReplicas: -3\n    idleSecond: 5\n  routing:\n    strategy: Any\n"
        f"---\n{text('good')}---\nkind: Pod\n"
    )
    parsed = resource.parse(source, "x.yaml")
    assert [one.metadata.name for one in parsed.resources] == ["good"]
    assert [str(problem) for problem in parsed.problems] == [
        "x.yaml:8: spec.scaling.maxReplicas: must be at least 1, got -3 (allowed: 1 to 1000)",
        "x.yaml:9: spec.scaling.idleSecond: is not a known field (did you mean idleSeconds?)",
        "x.yaml:11: spec.routing.strategy: must be one of PrefixHash, LeastLoad, got 'Any'",
        "x.yaml:18: apiVersion: is required (allowed: tidegate.dev/v1alpha1)",
        "x.yaml:18: kind: must be ModelDeployment, got 'Pod'",
    ]


def test_a_rule_speaks_although_another_part_is_wrong() -> None:
    source = text().replace(
        "type: sim}", "type: sim}, scaling: {minReplicas: 9}, drain: {timeoutSeconds: -1}"
    )
    fields = {problem.field for problem in resource.parse(source, "x").problems}
    assert fields == {"spec.scaling", "spec.drain.timeoutSeconds"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a: [1", "x.yaml:2: not YAML: while parsing a flow sequence: did not find expected"),
        ("a: 1\nb: 2\na: 3\n", "x.yaml:3: a: given twice, first on line 1"),
        ("- 1\n", "x.yaml:1: must be a ModelDeployment, got a list"),
        ("just text\n", "x.yaml:1: must be a ModelDeployment, got 'just text'"),
        (f"{HEAD}spec: {{model: {{uri: sim://m}}, engine: {{type: sim}}}}\n", "metadata.name: is"),
        (f"{HEAD}metadata: {{name: m}}\n", "x.yaml:1: spec: is required"),
        (f"{HEAD}metadata: {{name: m}}\nspec: 3\n", "spec: must be an object, got 3"),
        (text().replace("v1alpha1", "v2"), "apiVersion: must be tidegate.dev/v1alpha1, got"),
        (text("M"), "metadata.name: must match"),
        (text() + "specs: {}\n", "specs: is not a known field (did you mean spec?)"),
        ("a: &x [*x]\n", "nested too deeply"),
        ("a: &x\n  <<: *x\n", "nested too deeply"),
        (
            "[" * 100_000,
            "x.yaml:1: nested too deeply",
        ),  # built by recursion it would end the process
        (
            "a:\n" + "".join(f"{' ' * n}a:\n" for n in range(1, 1300)),
            "x.yaml:66: nested too deeply",
        ),
        ("a: .inf\n", "is not a number that JSON can hold"),
        ("a: \x00", "x.yaml:1: not YAML:"),
        ("? [a]\n: 1\n", "a key must be a string"),
        ("a: *nowhere\n", "x.yaml:1: not YAML: found undefined alias"),
        (
            text().replace("ModelDeployment", "Tenant"),
            "got 'Tenant' (in a cluster only; here: `tid",
        ),
        (text().replace("ModelDeployment", "[a]"), "kind: must be ModelDeployment, got a list"),
    ],
)
def test_what_is_wrong_is_named(source: str, expected: str) -> None:
    assert any(expected in line for line in said(source)), said(source)
    assert resource.parse(source, "x.yaml").resources == []


@pytest.mark.parametrize("scalar", ["0x_", "0o_", "-0b_", "9" * 5000, "1e999", "0o7" + "7" * 9000])
def test_what_only_looks_like_a_number_is_text(scalar: str) -> None:
    """To Go, too: it strips the underscores and takes what then is no number, or none of its size."""
    (value,) = document.load(f"a: {scalar}\n")[0]
    assert value.value == {"a": scalar} or isinstance(value.value["a"], int)
    assert resource.parse(text() + f"a: {scalar}\n", "x").problems


def test_empty_documents_are_skipped() -> None:
    parsed = resource.parse(f"---\n---\n# nothing\n---\n{text()}---\nnull\n", "x.yaml")
    assert parsed.problems == []
    assert len(parsed.resources) == 1
    assert resource.parse("", "x.yaml") == resource.Parsed()


def test_scalars_read_as_kubectl_reads_them() -> None:
    source = text().replace(
        "uri: sim://m}", "uri: sim://m, revision: 2024-06-01, name: 12:30}, suspend: yes"
    )
    [one] = resource.parse(source.replace("type: sim}", "type: sim, version: '1'}"), "x").resources
    assert one.spec.model.revision == "2024-06-01"
    assert one.spec.model.name == "12:30"
    assert one.spec.suspend is True
    assert one.spec.engine.version == "1"
    assert "got 1000.0" in said(text().replace("uri: sim://m", "uri: sim://m, name: 1e3"))[0]
    [merged] = resource.parse(
        text().replace(
            "model: {", "scaling: {<<: {maxReplicas: 2, minReplicas: 1}, minReplicas: 2}, model: {"
        ),
        "x",
    ).resources
    assert (merged.spec.scaling.min_replicas, merged.spec.scaling.max_replicas) == (2, 2)


def test_a_resource_fetched_from_a_cluster_can_be_read() -> None:
    source = text().replace(
        "{name: m}", "{name: m, uid: abc, generation: 2, managedFields: [{manager: kubectl}]}"
    )
    assert said(source + "status: {phase: Idle}\n") == []


def test_secrets_are_not_shown() -> None:
    source = text().replace("type: sim}", "type: sim, env: [{name: A, value: 271828}]}")
    assert said(source) == [
        "x.yaml:4: spec.engine.env[0].value: must be a string, got something else (put it in quotes)"
    ]
    source = text().replace("type: sim}", 'args: ["--api-key=sk-secret"]}').replace("sim:", "hf:")
    assert "sk-secret" not in "".join(said(source))
    assert "--api-key" in "".join(said(source))


def test_files_and_directories(tmp_path: Path) -> None:
    (tmp_path / "b.yml").write_text(text("b"))
    (tmp_path / "a.yaml").write_text(f"{text('a')}---\n{text('b')}")
    (tmp_path / "notes.txt").write_text("not read")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "c.yaml").write_text(text("c"))
    (tmp_path / "empty").mkdir()
    parsed = resource.read([tmp_path, tmp_path / "a.yaml", tmp_path / "no", tmp_path / "empty"])
    assert [one.deployment for one in parsed.resources] == ["default/a", "default/b"]
    assert [str(problem).removeprefix(f"{tmp_path}/") for problem in parsed.problems] == [
        "no: does not exist",
        "empty: has no *.yaml or *.yml file",
        f"b.yml:3: metadata.name: default/b is given twice, first in {tmp_path}/a.yaml:8",
    ]
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: \xe4\n")
    assert resource.read([tmp_path / "latin.yaml"]).problems == [
        Problem(str(tmp_path / "latin.yaml"), 2, "", "not UTF-8")
    ]


def test_the_view_carries_what_a_router_needs() -> None:
    [one] = resource.parse(text(namespace="team-a"), "x").resources
    seen = resource.view(one, 12.0)
    assert (seen.deployment, seen.owner, seen.name, seen.created) == ("team-a/m", "team-a", "m", 12)
    assert (seen.target_concurrency, seen.max_concurrency) == (16, 32)
    source = text().replace("type: sim}", "type: sim}, scaling: {targetConcurrency: 5}")
    assert resource.view(resource.parse(source, "x").resources[0], 0).max_concurrency == 10


def test_defaults_of_values_and_of_the_schema_are_the_same() -> None:
    bare = {"model": {"uri": "hf://a/b"}}
    assert msgspec.convert(defaulted(bare, spec_schema()), Spec) == Spec(
        model=ModelSpec(uri="hf://a/b")
    )
    assert bare == {"model": {"uri": "hf://a/b"}}


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200) | st.text(alphabet="{}[]:,-&*!|>'\"%@ \n\tab1~", max_size=60))
def test_no_text_breaks_the_reader(source: str) -> None:
    parsed = resource.parse(source, "x")
    assert parsed.resources == []


def test_deep_nesting_is_refused_and_not_a_crash() -> None:
    assert said("[" * 5000)
    assert said("a: " + "[" * 900 + "]" * 900)
