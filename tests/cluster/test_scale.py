"""A short cut of `make test-scale`: its own control plane, out of sight of the session's cluster.

A network namespace of its own gives it the same addresses again, and a folder of its own the rest;
without containers and kubelets it is up in five seconds. What it costs is not judged here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import scale
from harness import crowd, tools
from harness.audit import Event, Reference, Status, User

COMMAND = Path(scale.__file__)
MODELS = 30


def test_thirty_models(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("a control plane of our own needs root")
    tools.build()  # with the network, which the namespace has not
    tools.kwok()
    words = f"--models {MODELS} --minutes 0.1 --rest 3 --seed 2 --limit 120 --json"
    script = f'ip link set lo up && exec "$0" "$1" {words}'
    done = subprocess.run(
        ["unshare", "--net", "bash", "-c", script, sys.executable, str(COMMAND)],
        env={**os.environ, "CLUSTER_STATE": str(tmp_path / "state"), "KEEP_CLUSTER": ""},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    print(done.stderr)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["wrong"] == []
    assert found["pods"] == sum(map(crowd.replicas, range(MODELS)))
    assert found["phases"].keys() == {"empty", "create", "steady", "quiet", "restart"}
    assert found["phases"]["create"]["writes"]["patch deployments/scale"] > 0
    assert found["phases"]["quiet"]["writes"] == found["phases"]["restart"]["writes"] == {}
    assert not (tmp_path / "state").exists(), "it takes away what it made"


def event(verb: str, resource: str, at: float, who: str = "op", **more: str) -> Event:
    resource, _, inner = resource.partition("/")
    about = Reference(
        resource=resource, subresource=inner, namespace="n", name=more.pop("name", "m")
    )
    stamp = f"2026-01-01T00:00:{at:09.6f}Z"
    return Event(
        verb, User(who), more.pop("stage", "ResponseComplete"), about, Status(200), "", stamp, stamp
    )


START = event("get", "pods", 0).at
LOG = [
    event("create", "modeldeployments", 1, "admin"),
    event("create", "modeldeployments", 1.5, "admin", name="never"),
    event("watch", "pods", 2, stage="ResponseStarted"),
    event("get", "leases", 2),
    event("update", "leases", 2),
    event("patch", "services", 3),
    event("patch", "modeldeployments/status", 4, "admin"),
    event("patch", "modeldeployments/status", 5),
    event("patch", "modeldeployments/status", 6),
    event("watch", "pods", 7),
    event("patch", "pods/status", 9),
]


def test_what_an_audit_log_says() -> None:
    asked = crowd.asked(LOG, "op", START + 2, START + 9)
    assert asked == {
        ("watch", "pods"): 1,
        ("get", "leases"): 1,
        ("update", "leases"): 1,
        ("patch", "services"): 1,
        ("patch", "modeldeployments/status"): 2,
    }
    assert crowd.writes(asked) == {
        ("patch", "services"): 1,
        ("patch", "modeldeployments/status"): 2,
    }
    assert crowd.first_words(LOG, "op") == {
        ("n", "m"): (pytest.approx(START + 1), pytest.approx(START + 5))
    }


def test_one_change_a_model_and_minute_from_one_seed() -> None:
    planned = crowd.changes(50, 3, 7)
    assert planned == crowd.changes(50, 3, 7) != crowd.changes(50, 3, 8)
    assert planned == sorted(planned)
    for number in range(50):
        mine = [one for one in planned if one.model == number]
        assert [int(one.at // crowd.MINUTE) for one in mine] == [0, 1, 2]
        assert all((one.kind == "note") == (crowd.replicas(number) == 0) for one in mine)
    assert {one.kind for one in planned} == {"note", "unready", "restart"}


def test_a_thousand_models_have_two_thousand_pods() -> None:
    assert sum(map(crowd.replicas, range(1000))) == 2000
    assert len({crowd.place(number) for number in range(1000)}) == 1000


def phase(**writes: int) -> scale.Phase:
    return scale.Phase(60.0, {"operator": scale.Cost(1.0, 2.0, 3.0)}, {"patch": 0.5}, writes)


@pytest.mark.parametrize(
    ("phases", "wrong"),
    [
        ({"create": phase(patch=5000), "steady": phase(patch=900)}, 0),
        ({"quiet": phase(patch=10), "restart": phase()}, 0),
        ({"quiet": phase(patch=10, create=1), "restart": phase(patch=11)}, 2),
    ],
)
def test_writes_where_nothing_changed_are_wrong(phases: dict[str, scale.Phase], wrong: int) -> None:
    report = scale.Report(models=1000, pods=2000, seed=1, phases=phases)
    report.judge()
    assert len(report.wrong) == wrong
    assert report.as_text().count("WRONG") == wrong
    assert json.loads(json.dumps(report.as_json()))["wrong"] == report.wrong
