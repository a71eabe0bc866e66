"""What becomes of a resource: its objects kept as planned, rolled, refused, held back, removed."""

import base64
import json
import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from harness.installed import SYSTEM, Platform, model
from harness.kubectl import apply, condition, get, items, port_forward, wait_for
from harness.spaces import KINDS, change, children, fresh, patch

from tidegate_runtime.contract import cluster as contract

SECONDS = 15.0
"""Within which an edit by somebody else must be undone, and an edit of a spec take effect."""


@pytest.fixture(scope="module")
def space(tidegate: Platform) -> Iterator[str]:
    """A namespace of the tenant builder, which may have images and variables of its own."""
    with fresh(tidegate, "res", "builder") as name:
        yield name


def put(tidegate: Platform, name: str, space: str, **spec: Any) -> None:
    apply(tidegate.cluster, model(name, space, **spec))


def child(tidegate: Platform, space: str, kind: str, name: str) -> dict[str, Any]:
    return get(tidegate.cluster, kind, contract.child_name(name), space) or {}


def running(tidegate: Platform, space: str, name: str) -> dict[str, Any]:
    """Wait for one pod that answers and is staying, and no other; the pod."""

    def look() -> dict[str, Any] | None:
        found = items(
            tidegate.cluster, "pods", space, f"tidegate.dev/model={contract.label_value(name)}"
        )
        alone = len(found) == 1 and "deletionTimestamp" not in found[0]["metadata"]
        return found[0] if alone and contract.answered(found[0]) else None

    return wait_for(look, f"one pod of {space}/{name} that answers", 60)


# Children


@pytest.fixture(scope="module")
def kept(tidegate: Platform, space: str) -> str:
    """An idle model, whose objects are broken one after the other."""
    put(tidegate, "kept", space)
    tidegate.phase("kept", space, "Idle")
    return "kept"


OTHER_IMAGE = {"name": "engine", "image": "example.invalid/other:1"}
OTHER_USER = {"name": "engine", "env": [{"name": "USER", "value": "root"}]}
EDITS: list[tuple[str, str, dict[str, Any]]] = [
    ("deployment", "strategic", {"spec": {"template": {"spec": {"containers": [OTHER_IMAGE]}}}}),
    ("deployment", "strategic", {"spec": {"template": {"spec": {"containers": [OTHER_USER]}}}}),
    ("service", "merge", {"spec": {"selector": {"tidegate.dev/model": "other"}}}),
    ("poddisruptionbudget", "merge", {"spec": {"maxUnavailable": 0}}),
    ("secret", "merge", {"data": {"guard": base64.b64encode(b"known").decode()}}),
    ("configmap", "merge", {"data": {"argv.json": "[]"}}),
    ("networkpolicy", "merge", {"spec": {"ingress": [{}]}}),
    ("serviceaccount", "merge", {"automountServiceAccountToken": True}),
    ("service", "merge", {"metadata": {"ownerReferences": None}}),
    ("service", "merge", {"metadata": {"labels": {"tidegate.dev/model": None}}}),
]


def content(thing: Mapping[str, Any]) -> dict[str, Any]:
    """An object without what the server and its controllers say of it."""
    mine = {key: value for key, value in thing.items() if key not in {"metadata", "status"}}
    metadata = thing["metadata"]
    return mine | {key: metadata.get(key) for key in ("labels", "ownerReferences")}


def test_an_edited_child_is_put_right(tidegate: Platform, space: str, kept: str) -> None:
    slowest = 0.0
    for kind, how, edit in EDITS:
        before = content(child(tidegate, space, kind, kept))
        began = time.monotonic()
        assert content(patch(tidegate, space, kind, f"mdep-{kept}", edit, how)) != before
        wait_for(
            lambda kind=kind, before=before: content(child(tidegate, space, kind, kept)) == before,
            f"{kind} as planned, after {edit}",
            SECONDS,
        )
        slowest = max(slowest, time.monotonic() - began)
    print(f"slowest repair of an edit, kubectl included: {slowest:.2f} s")


def test_a_deleted_child_comes_back(tidegate: Platform, space: str, kept: str) -> None:
    before = children(tidegate, space, kept)
    assert set(before) == set(KINDS)
    began = time.monotonic()
    for kind in KINDS:
        tidegate.kubectl("-n", space, "delete", kind, f"mdep-{kept}", "--wait=false")

    def look() -> dict[str, Any] | None:
        after = children(tidegate, space, kept)
        new = [k for k in after if after[k]["metadata"]["uid"] != before[k]["metadata"]["uid"]]
        return after if set(new) == set(KINDS) else None

    after = wait_for(look, "every child again", SECONDS)
    print(f"all children deleted and back: {time.monotonic() - began:.2f} s")
    for kind in ("secret", "configmap", "networkpolicy", "poddisruptionbudget"):
        assert content(after[kind]) == content(before[kind])
    assert tidegate.ask("builder", kept).status_code == 200


def test_replicas_set_by_hand_do_not_stay(tidegate: Platform, space: str) -> None:
    put(tidegate, "by-hand", space)
    tidegate.phase("by-hand", space, "Idle")

    def replicas() -> int:
        return int(child(tidegate, space, "deployment", "by-hand")["spec"]["replicas"])

    began = time.monotonic()
    tidegate.kubectl("-n", space, "scale", "deployment", "mdep-by-hand", "--replicas=3")
    wait_for(lambda: replicas() == 0, "no replicas again", 30)
    print(f"three replicas too many, taken back: {time.monotonic() - began:.2f} s")
    tidegate.gone("by-hand", space, seconds=40)
    change(tidegate, space, "by-hand", scaling={"minReplicas": 1})
    running(tidegate, space, "by-hand")
    tidegate.kubectl("-n", space, "scale", "deployment", "mdep-by-hand", "--replicas=0")
    wait_for(lambda: replicas() == 1, "the replica again", SECONDS)
    running(tidegate, space, "by-hand")
    tidegate.kubectl("-n", space, "delete", "mdep", "by-hand")


def test_what_is_no_longer_planned_is_pruned(tidegate: Platform, space: str, kept: str) -> None:
    owner = child(tidegate, space, "service", kept)["metadata"]["ownerReferences"]
    labels = {"tidegate.dev/model": kept}
    stranger = {"metadata": {"name": "stranger", "namespace": space, "labels": labels}}
    orphan = {
        "metadata": {
            "name": "orphan", "namespace": space, "labels": labels, "ownerReferences": owner,
        }
    }  # fmt: skip
    kind = {"apiVersion": "v1", "kind": "ConfigMap"}
    apply(tidegate.cluster, kind | stranger, kind | orphan)
    wait_for(lambda: not get(tidegate.cluster, "configmap", "orphan", space), "pruned", SECONDS)
    assert get(tidegate.cluster, "configmap", "stranger", space)
    tidegate.kubectl("-n", space, "delete", "configmap", "stranger")


# Writes


def calls(port: int) -> int:
    """How many calls of the API server the operator has made."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    found = re.search(r"^tidegate_operator_api_calls_total (\d+)$", text, re.MULTILINE)
    assert found
    return int(found[1])


def lease(tidegate: Platform) -> dict[str, Any]:
    found = get(tidegate.cluster, "lease", "tidegate-operator", SYSTEM)
    return dict((found or {})["spec"])


def renewed(tidegate: Platform) -> str:
    return str(lease(tidegate)["renewTime"])


def leader(tidegate: Platform) -> str:
    """The pod of the operator that acts."""
    return wait_for(lambda: str(lease(tidegate)["holderIdentity"]), "a leader")


def versions(tidegate: Platform, space: str) -> dict[str, str]:
    """The resourceVersion of everything in a namespace that we write."""
    found = items(tidegate.cluster, ",".join((*KINDS, "modeldeployment", "event")), space)
    return {f"{o['kind']} {o['metadata']['name']}": o["metadata"]["resourceVersion"] for o in found}


def quiet(tidegate: Platform, space: str, port: int) -> bool:
    """Whether nothing is asked of the API server but the lease, for several of its renewals.

    A renewal is a read and a write, a second apart, and so is the operator's tick.
    """
    before, began, seen = versions(tidegate, space), calls(port), {renewed(tidegate)}

    def look() -> bool:
        seen.add(renewed(tidegate))
        return len(seen) > RENEWALS

    wait_for(look, "renewals of the lease")
    return calls(port) - began <= 2 * (RENEWALS + 2) and versions(tidegate, space) == before


RENEWALS = 4
GOOD = 50
LONG = "l" + "o" * 197 + "ng"


def poisons(quota: str, space: str) -> list[dict[str, Any]]:
    """Resources that cannot serve, each in its own way."""
    invalid = model("p-refused", space, access={"visibility": "Public"})
    unread = model("p-unread", space, args=["--host", "0.0.0.0"])
    image = model("p-image", space, engine={"image": "example.invalid/none:1"})
    image["spec"]["scaling"]["minReplicas"] = 1
    source = model("p-profile", space, resources={"profile": "nonesuch"})
    return [invalid, unread, image, source, model("p-quota", quota), model(LONG, space)]


def mends(tidegate: Platform, space: str, name: str) -> None:
    """What the API server says of a refused child is told, and gone with its cause."""

    def scaled(status: str) -> str:
        found = tidegate.condition(name, space, "Scaled")
        return str(found["message"]) if found.get("status") == status else ""

    assert "exceeded quota" in wait_for(lambda: scaled("False"), "the refusal", SECONDS)
    tidegate.kubectl("-n", space, "delete", "resourcequota", "none")
    # It is tried again by itself, later each time; a look at the resource comes sooner.
    tidegate.kubectl("-n", space, "label", "mdep", name, "touched=1")
    wait_for(lambda: scaled("True"), "its objects complete", SECONDS)
    assert child(tidegate, space, "service", name)


def test_poisoned_resources_delay_no_other(tidegate: Platform) -> None:
    """The bad ones come first, so that whoever waits for them waits before the good ones."""
    with fresh(tidegate, "poison", "builder") as space, fresh(tidegate, "quota") as quota:
        limits = {
            "apiVersion": "v1", "kind": "ResourceQuota",
            "metadata": {"name": "none", "namespace": quota},
            "spec": {"hard": {"services": "0"}},
        }  # fmt: skip
        apply(tidegate.cluster, limits)
        wait_for(
            lambda: (get(tidegate.cluster, "resourcequota", "none", quota) or {}).get("status"),
            "the quota in force",
        )
        bad = poisons(quota, space)
        good = [model(f"good-{number:02}", space) for number in range(GOOD)]
        began = time.monotonic()
        apply(tidegate.cluster, *bad, *good)
        applied = time.monotonic()

        def idle() -> bool:
            found = items(tidegate.cluster, "modeldeployment", space)
            phases = [
                one.get("status", {}).get("phase")
                for one in found
                if one["metadata"]["name"].startswith("good-")
            ]
            return phases == ["Idle"] * GOOD

        wait_for(idle, f"{GOOD} good ones idle", 30)
        ended = time.monotonic()
        print(f"{GOOD} good ones: applied in {applied - began:.1f} s, idle {ended - applied:.1f} s")
        assert tidegate.ask("builder", "good-49").status_code == 200
        assert tidegate.ask("builder", LONG).status_code == 200
        told = {
            name: condition(tidegate.mdep(name, where), "Valid") or {}
            for name, where in (
                ("p-refused", space), ("p-unread", space), ("p-profile", space), ("p-quota", quota),
            )
        }  # fmt: skip
        assert told["p-refused"]["reason"] == "PolicyRefused"
        assert told["p-unread"]["reason"] == "InvalidSpec"
        assert told["p-profile"]["reason"] == "PolicyRefused"
        assert told["p-quota"]["status"] == "True"
        mends(tidegate, quota, "p-quota")
        failed = tidegate.phase("p-image", space, "Starting", "Failed")
        assert (condition(failed, "EngineHealthy") or {})["reason"] == "ImagePullBackOff"
        tidegate.kubectl("-n", space, "delete", "mdep", "p-image", "good-49", LONG)
        tidegate.kubectl("-n", quota, "delete", "mdep", "p-quota")
        with port_forward(tidegate.cluster, f"pod/{leader(tidegate)}", 9090, SYSTEM) as port:
            wait_for(lambda: quiet(tidegate, space, port), "no calls where nothing changes", 60)


# What rolls the pods


def test_what_an_engine_has_read_rolls_its_pods(tidegate: Platform, space: str) -> None:
    """Arguments, variables, and a Secret of the tenant's; not prices, nor bounds of scaling."""
    token = {
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "token", "namespace": space},
        "stringData": {"value": "one"},
    }  # fmt: skip
    reference = {"secretKeyRef": {"name": "token", "key": "value"}}
    env: list[dict[str, Any]] = [{"name": "VLLM_TEST", "valueFrom": reference}]
    apply(tidegate.cluster, token)
    put(tidegate, "rolls", space, scaling={"minReplicas": 1}, engine={"env": env})
    pod = running(tidegate, space, "rolls")
    marks = [pod["metadata"]["annotations"][contract.CONFIG_HASH]]

    def rolled(what: str) -> dict[str, Any]:
        began = time.monotonic()
        wait_for(
            lambda: running(tidegate, space, "rolls")["metadata"]["uid"] != pod["metadata"]["uid"],
            f"another pod after {what}",
            90,
        )
        print(f"rolled after {what}: {time.monotonic() - began:.1f} s")
        new = running(tidegate, space, "rolls")
        assert new["metadata"]["annotations"][contract.CONFIG_HASH] not in marks
        marks.append(new["metadata"]["annotations"][contract.CONFIG_HASH])
        assert tidegate.ask("builder", "rolls").status_code == 200
        return new

    change(
        tidegate, space, "rolls", pricing={"inputPerMillion": "0.20"}, scaling={"maxReplicas": 2}
    )
    generation = tidegate.mdep("rolls", space)["metadata"]["generation"]
    wait_for(
        lambda: tidegate.condition("rolls", space, "Valid").get("observedGeneration") == generation,
        "the new generation seen",
    )
    assert running(tidegate, space, "rolls")["metadata"]["uid"] == pod["metadata"]["uid"]
    change(tidegate, space, "rolls", engine={"args": ["--start-seconds", "0.2"]})
    pod = rolled("other arguments")
    change(tidegate, space, "rolls", engine={"env": [*env, {"name": "TZ", "value": "UTC"}]})
    pod = rolled("another variable")
    patch(tidegate, space, "secret", "token", {"stringData": {"value": "two"}})
    pod = rolled("another secret")
    tidegate.kubectl("-n", space, "delete", "mdep", "rolls")


def test_a_pod_is_as_restricted_as_can_be(tidegate: Platform, space: str) -> None:
    """It was admitted by the real Pod Security `restricted`; and beyond that:"""
    put(tidegate, "strict", space, drain={"timeoutSeconds": 20})
    assert tidegate.ask("builder", "strict").status_code == 200
    pod = running(tidegate, space, "strict")
    spec, engine = pod["spec"], pod["spec"]["containers"][0]
    labels = (get(tidegate.cluster, "namespace", space) or {})["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert len(spec["containers"]) == 1
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 65532
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert engine["securityContext"] == {
        "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }  # fmt: skip
    assert spec["automountServiceAccountToken"] is False
    assert spec["serviceAccountName"] == "mdep-strict"
    assert not any("projected" in volume for volume in spec["volumes"])
    assert spec["enableServiceLinks"] is False
    shared = next(volume for volume in spec["volumes"] if volume["name"] == "dshm")
    assert shared["emptyDir"]["medium"] == "Memory"
    assert {"name": "dshm", "mountPath": "/dev/shm"} in engine["volumeMounts"]
    assert spec["terminationGracePeriodSeconds"] == 35
    assert engine["lifecycle"]["preStop"]["exec"]["command"][-3:] == ["8000", "5", "20"]
    assert engine["args"][engine["args"].index("--shutdown-timeout") + 1] == "20"
    assert spec["readinessGates"] == [{"conditionType": "tidegate.dev/answered"}]
    guard = next(one for one in engine["env"] if one["name"] == "ENGINE_GUARD_SECRET")
    assert guard["valueFrom"]["secretKeyRef"] == {"name": "mdep-strict", "key": "guard"}
    everything = json.dumps([items(tidegate.cluster, k, space) for k in ("pods", "configmap")])
    assert tidegate.guard("strict", space) not in everything
    tidegate.kubectl("-n", space, "delete", "mdep", "strict")


# Names


@pytest.mark.parametrize("name", ["dots.in.it-1.5", "n" + "a" * 150 + ".x" * 24 + "e"])
def test_any_name_kubernetes_allows_serves(tidegate: Platform, space: str, name: str) -> None:
    put(tidegate, name, space)
    tidegate.phase(name, space, "Idle")
    answer = tidegate.ask("builder", name)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == name
    tidegate.phase(name, space, "Ready")
    running(tidegate, space, name)
    label = contract.label_value(name)
    assert set(children(tidegate, space, label)) == set(KINDS)
    tidegate.kubectl("-n", space, "delete", "mdep", name)
    wait_for(lambda: not children(tidegate, space, label), "nothing left", 30)


# What a person asks for


def test_suspended_now_and_back_again(tidegate: Platform, space: str) -> None:
    put(tidegate, "sleeper", space, scaling={"minReplicas": 1})
    running(tidegate, space, "sleeper")
    change(tidegate, space, "sleeper", suspend=True)
    tidegate.phase("sleeper", space, "Suspended")
    answer = tidegate.ask("builder", "sleeper")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "model_suspended"
    assert "suspended" in answer.json()["error"]["message"]
    tidegate.gone("sleeper", space, seconds=40)
    change(tidegate, space, "sleeper", suspend=False)
    running(tidegate, space, "sleeper")
    assert tidegate.ask("builder", "sleeper").status_code == 200
    tidegate.kubectl("-n", space, "delete", "mdep", "sleeper")


def test_an_override_holds_until_its_end(tidegate: Platform, space: str) -> None:
    put(tidegate, "forced", space, idle=1, maximum=2)
    tidegate.phase("forced", space, "Idle")
    end = (datetime.now(UTC) + timedelta(seconds=12)).replace(microsecond=0)  # as it is written
    tidegate.kubectl(
        "-n", space, "annotate", "mdep", "forced", "tidegate.dev/replicas=2",
        f"tidegate.dev/replicas-until={end.strftime('%Y-%m-%dT%H:%M:%SZ')}",
    )  # fmt: skip

    def ready() -> bool:
        status = tidegate.mdep("forced", space)["status"]
        return bool(status["replicas"]["ready"] == 2)

    wait_for(ready, "two replicas that nobody asked for", 30)
    assert tidegate.condition("forced", space, "Scaled")["reason"] == "Override"
    assert datetime.now(UTC) < end
    tidegate.phase("forced", space, "Idle", seconds=60)
    assert datetime.now(UTC) >= end
    tidegate.gone("forced", space)
    tidegate.kubectl("-n", space, "delete", "mdep", "forced")


def test_kubectl_scale_sets_the_least_count(tidegate: Platform, space: str) -> None:
    put(tidegate, "scaled", space, idle=1, maximum=2)
    tidegate.phase("scaled", space, "Idle")
    tidegate.kubectl("-n", space, "scale", "mdep", "scaled", "--replicas=1")
    running(tidegate, space, "scaled")
    found = tidegate.mdep("scaled", space)
    assert found["spec"]["scaling"]["minReplicas"] == 1
    tidegate.kubectl("-n", space, "scale", "mdep", "scaled", "--replicas=0")
    tidegate.phase("scaled", space, "Idle", seconds=60)
    tidegate.gone("scaled", space)
    tidegate.kubectl("-n", space, "delete", "mdep", "scaled")


# The end


def test_a_deletion_sees_its_requests_out_and_leaves_nothing(
    tidegate: Platform, space: str
) -> None:
    slow = ["--start-seconds", "0.1", "--ttft-ms", "5", "--tokens-per-second", "10"]
    put(tidegate, "ends", space, args=slow)
    assert tidegate.ask("builder", "ends", 1).status_code == 200
    tidegate.phase("ends", space, "Ready")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(tidegate.ask, "builder", "ends", 60)
        wait_for(lambda: _in_flight(tidegate, "ends", space), "it to be served")
        tidegate.kubectl("-n", space, "delete", "mdep", "ends")
        answer = asked.result()
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 60
    request = answer.headers["x-request-id"]
    billed = wait_for(lambda: tidegate.events(request_id=request), "its bill")
    assert [event["billed"] for event in billed] == [True]
    tidegate.gone("ends", space, seconds=40)
    assert not children(tidegate, space, "ends")
    assert tidegate.ask("builder", "ends").status_code == 404
    tidegate.closes()


def _in_flight(tidegate: Platform, name: str, space: str) -> bool:
    """Whether its engine is answering somebody now, by the engine's own word."""
    headers = {"authorization": f"Bearer {tidegate.guard(name, space)}"}
    with port_forward(tidegate.cluster, f"svc/mdep-{name}", 8000, space) as port:
        url = f"http://127.0.0.1:{port}/metrics"
        text = httpx.get(url, headers=headers, trust_env=False).text
    return re.search(r"^vllm:num_requests_running\S* [1-9]", text, re.MULTILINE) is not None
