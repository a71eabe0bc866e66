"""Least RBAC, by what the API server has written down of the whole run: nothing missing, nothing idle.

Last (see conftest): it judges what all the other tests have made the parts do. A right that no test
needs is either too much, or lacks a test, or stands below with its reason.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from harness import audit
from harness.audit import Event
from harness.command import run
from harness.installed import CHART, RELEASE, SYSTEM, Platform
from harness.kubectl import environment
from harness.layout import Cluster

ACCOUNT = f"system:serviceaccount:{SYSTEM}:"
BINDING_GRACE = 1.0
"""Seconds until the API server's authorizer acts on a binding that was made."""

BOOT_GRACE = 2.0
"""Seconds around a refusal of Kubernetes' own parts: an API server that boots knows no role yet."""
FORBIDDEN = '"authorization.k8s.io/decision":"forbid"'

DEFINITION = "apiextensions.k8s.io", "customresourcedefinitions"

UNSEEN: dict[tuple[str, str, str, str], str] = {
    (f"{RELEASE}-operator", "update", "tidegate.dev", "modeldeployments/finalizers"): (
        "asked within another request, by the admission plugin OwnerReferencesPermissionEnforcement"
    ),
    (f"{RELEASE}-crds", "create", *DEFINITION): (
        "Helm has installed the definition from crds/; the Job makes it under --skip-crds"
    ),
    (f"{RELEASE}-crds", "get", *DEFINITION): (
        "asked again only while the API server does not serve the definition yet"
    ),
}
"""Rights that this suite cannot see used, each with its reason."""


class Used(NamedTuple):
    """A right as an account has used it."""

    account: str
    verb: str
    group: str
    resource: str


@pytest.fixture(scope="module")
def log(request: pytest.FixtureRequest, own_cluster: Cluster) -> Path:
    """The audit log, where this session ran everything. A part of the suite proves nothing."""
    here = Path(__file__).parent
    ran = {item.path for item in request.session.items}
    missing = sorted(p.name for p in here.glob("test_*.py") if p not in ran)
    if missing or request.config.option.keyword:
        pytest.skip(f"judges a run of the whole suite; not in this one: {', '.join(missing)}")
    assert own_cluster.audit_log is not None
    return own_cluster.audit_log


def rendered(cluster: Cluster) -> list[dict[str, Any]]:
    """The chart's objects, hooks among them: those of the Job are gone from the cluster by now."""
    words = ("template", RELEASE, CHART, "-n", SYSTEM)
    text = run(cluster.helm, *words, env=environment(cluster))
    return [found for found in yaml.safe_load_all(text) if found]


def granted(objects: list[dict[str, Any]]) -> set[Used]:
    """Every right of every account."""
    roles = {
        (found["kind"], found["metadata"]["name"]): found["rules"]
        for found in objects
        if found["kind"] in {"Role", "ClusterRole"}
    }
    bindings = [found for found in objects if found["kind"].endswith("RoleBinding")]
    return {
        Used(subject["name"], verb, group, resource)
        for binding in bindings
        for subject in binding["subjects"]
        for rule in roles[binding["roleRef"]["kind"], binding["roleRef"]["name"]]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def used(log: Path) -> Iterator[Used]:
    """Every use of a right by our accounts; an apply that made its object used `create` too."""
    for event in audit.events(log, f'"{ACCOUNT}'):
        verb, group, resource = event.right
        account = event.user.username.removeprefix(ACCOUNT)
        if event.response_status.code < 400 and resource:
            yield Used(account, verb, group, resource)
            if verb == "patch" and event.response_status.code == 201:
                yield Used(account, "create", group, resource)


UNLOADED = re.compile(r'"system:[^"]+" not found')
"""What a server says that has not loaded its own built-in roles yet: it is booting."""


def booting(log: Path) -> list[float]:
    """When the API server refused what it never refuses but while it boots."""
    core = ("system:kube-", "system:node:")
    return [e.at for e in audit.events(log, FORBIDDEN) if e.user.username.startswith(core)]


def refused(log: Path) -> Iterator[Event]:
    """Requests of our accounts that RBAC refused while they were bound to their roles.

    `helm uninstall` takes the bindings away before the pods, whose last requests are then refused.
    """
    bound: dict[str, float] = {}
    boots = booting(log)
    for event in audit.events(log, FORBIDDEN, "rolebindings"):
        kind, name = event.about.resource, event.about.name
        if kind in {"rolebindings", "clusterrolebindings"} and name:
            part = name.rpartition("-")[2]
            if event.verb == "delete":
                bound[part] = float("inf")
            elif event.verb in {"create", "patch", "update"}:
                bound[part] = event.at + BINDING_GRACE
        elif event.unauthorized and event.user.username.startswith(ACCOUNT):
            part = event.user.username.rpartition("-")[2]
            boot = any(abs(event.at - at) < BOOT_GRACE for at in boots)
            boot = boot or bool(UNLOADED.search(event.response_status.message))
            if event.at > bound.get(part, 0.0) and not boot:
                yield event


def test_nothing_was_refused(log: Path) -> None:
    told = [
        f"{event.user.username} {' '.join(event.right)}: {event.response_status.message}"
        for event in refused(log)
    ]
    assert not told, "\n".join(sorted(set(told)))


def test_every_right_was_used(log: Path, tidegate: Platform) -> None:
    rights, seen = granted(rendered(tidegate.cluster)), set(used(log))
    assert {right.account for right in rights} == {
        f"{RELEASE}-{part}" for part in ("router", "operator", "crds")
    }
    idle = rights - seen - {Used(*key) for key in UNSEEN}
    assert not idle, "\n".join(" ".join(right) for right in sorted(idle))
    stale = {Used(*key) for key in UNSEEN} & seen
    assert not stale, f"no longer unseen: {stale}"
    assert {Used(*key) for key in UNSEEN} <= rights


def test_routers_read_no_secret_and_billing_asks_nothing(log: Path) -> None:
    asked: dict[str, set[str]] = {}
    for event in audit.events(log, f'"{ACCOUNT}'):
        account = event.user.username.removeprefix(f"{ACCOUNT}{RELEASE}-")
        asked.setdefault(account, set()).add(event.about.resource)
    assert asked["router"] <= {"modeldeployments", "pods", "namespaces", ""}
    assert "billing" not in asked


# --- that the judge sees -------------------------------------------------------------------------


def line(account: str, verb: str, resource: str, second: int, **more: Any) -> str:
    """A line of an audit log; `more`: code, name, forbidden."""
    ours = account in {"operator", "router"}
    user = f"{ACCOUNT}{RELEASE}-{account}" if ours else account
    about = {"resource": resource, "apiGroup": "g", "name": more.get("name", "")}
    event = {
        "verb": verb,
        "user": {"username": user},
        "objectRef": about,
        "responseStatus": {"code": more.get("code", 200), "message": more.get("message", "")},
        "stageTimestamp": f"2026-01-01T00:00:{second:02}.000000Z",
        "annotations": {
            "authorization.k8s.io/decision": "forbid" if more.get("forbidden") else "allow"
        },
    }
    return json.dumps(event, separators=(",", ":")) + "\n"


UNREADY = 'RBAC: [clusterrole.rbac.authorization.k8s.io "system:discovery" not found, ...]'


def test_a_refusal_counts_while_the_account_is_bound(tmp_path: Path) -> None:
    name, log = f"{RELEASE}-operator", tmp_path / "audit.log"
    lines = [
        line("operator", "get", "early", 1, code=403, forbidden=True),
        line("operator", "patch", "ending-namespace", 2, code=403),
        line("admin", "delete", "rolebindings", 3, name=name),
        line("operator", "get", "leases", 4, code=403, forbidden=True),
        line("router", "list", "other-account", 5, code=403, forbidden=True),
        line("admin", "create", "rolebindings", 6, name=name),
        line("operator", "get", "too-soon", 6, code=403, forbidden=True),
        line("operator", "get", "late", 9, code=403, forbidden=True),
        line("system:kube-scheduler", "list", "nodes", 20, code=403, forbidden=True),
        line("router", "watch", "at-boot", 21, code=403, forbidden=True),
        line("router", "watch", "x", 40, code=403, forbidden=True, message=UNREADY),
    ]
    log.write_text("".join(lines) + "{half a li", "utf-8")
    assert [event.about.resource for event in refused(log)] == ["early", "other-account", "late"]


def test_an_apply_that_made_its_object_used_create(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    lines = [
        line("operator", "patch", "a", 1, code=201),
        line("operator", "patch", "b", 2),
        line("operator", "delete", "c", 3, code=404),
    ]
    log.write_text("".join(lines), "utf-8")
    account = f"{RELEASE}-operator"
    assert set(used(log)) == {
        Used(account, "patch", "g", "a"),
        Used(account, "create", "g", "a"),
        Used(account, "patch", "g", "b"),
    }
