"""What the files say, what is wrong with them, and what is to be done: as values."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_operator.local import following
from tidegate_operator.local.following import accept, after, build, changes, news, resources, steps
from tidegate_runtime.contract import resource
from tidegate_runtime.contract.resource import ModelDeployment, Parsed, Problem

HEAD = "apiVersion: tidegate.dev/v1alpha1\nkind: ModelDeployment\n"


def text(name: str, spec: str = "") -> str:
    uri = "" if "model:" in spec else "  model: {uri: sim://m}\n"
    engine = "" if "engine:" in spec else "  engine: {type: sim}\n"
    return f"{HEAD}metadata: {{name: {name}}}\nspec:\n{uri}{engine}  {spec}\n---\n"


def one(name: str = "m", spec: str = "") -> ModelDeployment:
    parsed = resource.parse(text(name, spec), f"{name}.yaml")
    assert not parsed.problems
    return parsed.resources[0]


def file(source: str, *names: str) -> Parsed:
    return resource.parse("".join(text(name) for name in names), source)


BROKEN = resource.parse("kind: Tenant\n", "a.yaml")


def held(verdict: following.Verdict) -> dict[str, list[str]]:
    return {
        name: [one.metadata.name for one in ones] for name, ones in verdict.held.items() if ones
    }


def test_a_broken_file_keeps_what_it_had_and_the_others_go_on() -> None:
    first = accept({"a.yaml": file("a.yaml", "x", "v"), "b.yaml": file("b.yaml", "z")}, {})
    assert held(first) == {"a.yaml": ["x", "v"], "b.yaml": ["z"]}
    then = accept({"a.yaml": BROKEN, "b.yaml": file("b.yaml", "w")}, first.held)
    assert held(then) == {"a.yaml": ["x", "v"], "b.yaml": ["w"]}
    assert set(then.problems) == {"a.yaml"}


def test_one_bad_document_breaks_the_whole_file() -> None:
    mixed = resource.parse(text("x") + "kind: Deployment\n", "a.yaml")
    assert held(accept({"a.yaml": mixed}, {})) == {}


def test_another_kind_is_refused_by_name_with_its_line() -> None:
    mixed = resource.parse(text("x") + f"{HEAD}".replace("ModelDeployment", "Tenant"), "a.yaml")
    (problem,) = mixed.problems
    assert str(problem) == (
        "a.yaml:10: kind: must be ModelDeployment, got 'Tenant' (in a cluster only; here: `tidegate tenant`)"
    )


def test_who_has_a_deployment_keeps_it_until_it_lets_go() -> None:
    first = accept({"b.yaml": file("b.yaml", "x")}, {})
    both = {"a.yaml": file("a.yaml", "x", "v"), "b.yaml": file("b.yaml", "x")}
    then = accept(both, first.held)
    assert held(then) == {"b.yaml": ["x"]}
    (problem,) = then.problems["a.yaml"]
    assert problem.field == "metadata.name"
    assert problem.message == "default/x is given twice, first in b.yaml:3"
    last = accept({"a.yaml": both["a.yaml"]}, then.held)
    assert held(last) == {"a.yaml": ["x", "v"]}
    assert not last.problems


def test_a_model_that_moves_between_files_is_no_clash() -> None:
    first = accept({"a.yaml": file("a.yaml", "x"), "b.yaml": file("b.yaml", "v")}, {})
    then = accept({"a.yaml": file("a.yaml", "v"), "b.yaml": file("b.yaml", "x")}, first.held)
    assert held(then) == {"a.yaml": ["v"], "b.yaml": ["x"]}


def test_a_broken_file_keeps_its_deployment_from_others() -> None:
    first = accept({"a.yaml": file("a.yaml", "x")}, {})
    then = accept({"a.yaml": BROKEN, "b.yaml": file("b.yaml", "x")}, first.held)
    assert held(then) == {"a.yaml": ["x"]}
    assert set(then.problems) == {"a.yaml", "b.yaml"}


def test_problems_are_told_once_and_their_end_once() -> None:
    wrong, other = Problem("a", 1, "kind", "is wrong"), Problem("a", 2, "spec", "is wrong")
    assert news({}, {"a": (wrong,)}, {"a"}) == ([wrong], [])
    assert news({"a": (wrong,)}, {"a": (wrong,)}, {"a"}) == ([], [])
    assert news({"a": (wrong,)}, {"a": (wrong, other)}, {"a"}) == ([other], [])
    assert news({"a": (wrong,)}, {}, {"a"}) == ([], ["a"])
    assert news({"a": (wrong,)}, {}, set()) == ([], [])


TAKEN = [
    "scaling: {maxReplicas: 2}",
    "coldStart: {holdSeconds: 9}",
    "access: {visibility: Public}",
    'pricing: {inputPerMillion: "1", outputPerMillion: "2"}',
    "suspend: true",
    "drain: {timeoutSeconds: 9}",
    "rollout: {maxSurge: 0, maxUnavailable: 1}",
    "routing: {strategy: LeastLoad}",
]
ROLLED = [
    "model: {uri: sim://other}",
    "model: {uri: sim://m, revision: v2}",
    "model: {uri: sim://m, name: other}",
    "model: {uri: sim://m, aliases: [other]}",
    "engine: {type: sim, args: [--ttft-ms, '9']}",
    "engine: {type: sim, env: [{name: LANG, value: C}]}",
    "engine: {type: sim, version: '2'}",
    "resources: {profile: gpu}",
    "adapters: [{name: a, uri: 'sim://a'}]",
]


@pytest.mark.parametrize("spec", TAKEN)
def test_what_is_taken_in_place(spec: str) -> None:
    (step,) = steps(*({"default/m": x} for x in (one(), one(spec=spec))))
    assert (step.kind, step.changed) == ("take", (spec.partition(":")[0],))


@pytest.mark.parametrize("spec", ROLLED)
def test_what_needs_new_replicas(spec: str) -> None:
    (step,) = steps(*({"default/m": x} for x in (one(), one(spec=spec))))
    assert (step.kind, step.changed) == ("roll", (spec.partition(":")[0],))


def test_where_it_is_written_and_its_labels_make_no_other_process() -> None:
    moved = msgspec.structs.replace(one(), source_file="elsewhere.yaml", source_line=9)
    assert steps({"default/m": one()}, {"default/m": moved}) == []
    labelled = msgspec.structs.replace(
        one(), metadata=msgspec.structs.replace(one().metadata, labels={"a": "b"})
    )
    assert changes(one(), labelled) == ("metadata",)
    assert build(one()) == build(labelled)


def test_a_rename_removes_first() -> None:
    done = steps({"default/m": one()}, {"default/new": one("new")})
    assert [(step.kind, step.resource.deployment) for step in done] == [
        ("remove", "default/m"),
        ("add", "default/new"),
    ]


some = st.dictionaries(
    st.sampled_from("abcd"), st.sampled_from(["", *TAKEN, *ROLLED]), max_size=4
).map(lambda specs: {f"default/{name}": one(name, spec) for name, spec in specs.items()})


@given(some, some)
def test_the_steps_lead_to_what_the_files_say(
    running: dict[str, ModelDeployment], wanted: dict[str, ModelDeployment]
) -> None:
    done = steps(running, wanted)
    assert after(running, done) == wanted
    assert steps(after(running, done), wanted) == []
    touched = [step.resource.deployment for step in done]
    assert len(set(touched)) == len(touched)


names = st.lists(st.sampled_from("uvw"), unique=True)
trees = st.dictionaries(st.sampled_from(["a", "b", "c"]), names | st.none())


@given(st.lists(trees, max_size=5))
def test_no_deployment_is_ever_of_two_files(history: list[dict[str, list[str] | None]]) -> None:
    force: following.Held = {}
    for tree in history:
        before = force
        parsed = {k: BROKEN if v is None else file(k, *v) for k, v in tree.items()}
        force, problems = accept(parsed, force)
        given_twice = [one.deployment for ones in force.values() for one in ones]
        assert len(given_twice) == len(set(given_twice)) == len(resources(force))
        for name, read in parsed.items():
            kept = before.get(name, ()) if name in problems else tuple(read.resources)
            assert force[name] == kept
