"""Who may ask the API server what, and who may connect to whom."""

from typing import Any

import pytest

Object = dict[str, Any]
READS = {"get", "list", "watch"}
PART = "app.kubernetes.io/component"


def granted(objects: Any, part: str) -> set[tuple[str, str, str]]:
    """(verb, group/resource, kind of role) of everything that a part's service account may do."""
    account = f"tidegate-{part}"
    made = set()
    for binding in objects:
        if binding["kind"] not in {"RoleBinding", "ClusterRoleBinding"}:
            continue
        if account not in {subject["name"] for subject in binding["subjects"]}:
            continue
        reference = binding["roleRef"]
        (role,) = [
            found
            for found in objects
            if (found["kind"], found["metadata"]["name"]) == (reference["kind"], reference["name"])
        ]
        for rule in role["rules"]:
            made |= {
                (verb, f"{group}/{resource}", role["kind"])
                for verb in rule["verbs"]
                for group in rule["apiGroups"]
                for resource in rule["resources"]
            }
    return made


def test_the_router_only_looks(defaults: Any) -> None:
    found = granted(defaults, "router")
    assert {verb for verb, _, _ in found} <= READS
    assert {resource for _, resource, _ in found} == {
        "tidegate.dev/modeldeployments",
        "/pods",
        "/namespaces",
    }


def test_billing_may_ask_nothing(defaults: Any) -> None:
    assert granted(defaults, "billing") == set()


def test_the_operator_has_no_wildcard_and_writes_no_spec(defaults: Any) -> None:
    found = granted(defaults, "operator")
    assert not [each for each in found if "*" in "".join(each)]
    verbs = {verb for verb, resource, _ in found if resource == "tidegate.dev/modeldeployments"}
    assert verbs <= READS
    written = {resource for verb, resource, _ in found if verb not in READS}
    assert written == {
        *("tidegate.dev/modeldeployments/status", "tidegate.dev/modeldeployments/finalizers"),
        *("apps/deployments", "apps/deployments/scale", "/services", "/configmaps", "/secrets"),
        *("/serviceaccounts", "/persistentvolumeclaims", "policy/poddisruptionbudgets"),
        *("networking.k8s.io/networkpolicies", "/pods", "/pods/status", "/events"),
        *("tidegate.dev/tenants/status", "tidegate.dev/pricebooks/status"),
        "coordination.k8s.io/leases",
    }
    assert not [each for each in found if each[1].startswith("rbac") or each[0] == "escalate"]


def test_leases_and_slices_are_its_own_namespaces(defaults: Any) -> None:
    for _, resource, kind in granted(defaults, "operator"):
        if resource in {"coordination.k8s.io/leases", "discovery.k8s.io/endpointslices"}:
            assert kind == "Role"


def _meets(labels: Object, selector: Object) -> bool:
    wanted = selector.get("matchLabels", {})
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    return all(one["key"] in labels for one in selector.get("matchExpressions", []))


def admitted(objects: Any, source: Object, target: str, port: int) -> bool:
    """Whether the policies let a pod (`namespace`, `labels`) reach a part's port."""
    inside = source["namespace"] == "tidegate-system"
    labels = {
        "app.kubernetes.io/name": "tidegate",
        "app.kubernetes.io/instance": "tidegate",
        PART: target,
    }
    policies = [
        found
        for found in objects
        if found["kind"] == "NetworkPolicy" and _meets(labels, found["spec"]["podSelector"])
    ]
    assert policies, f"nothing guards {target}"
    for rule in (rule for found in policies for rule in found["spec"]["ingress"]):
        if port not in {each["port"] for each in rule["ports"]}:
            continue
        peers = rule.get("from")
        if peers is None:
            return True
        for peer in peers:
            here = "namespaceSelector" in peer or inside
            if here and _meets(source["labels"], peer.get("podSelector", {})):
                return True
    return False


def part(name: str) -> Object:
    labels = {"app.kubernetes.io/name": "tidegate", "app.kubernetes.io/instance": "tidegate"}
    return {"namespace": "tidegate-system", "labels": {**labels, PART: name}}


TENANT = {"namespace": "team-a", "labels": {"app": "mine"}}
# A tenant may label its pods as it likes; it does not get into the platform's namespace by that.
IMPOSTOR = {"namespace": "team-a", "labels": part("operator")["labels"]}
STRANGER = {"namespace": "tidegate-system", "labels": {"app": "other"}}
MANAGER = {"namespace": "tidegate-system", "labels": {"tidegate.dev/management": "true"}}


@pytest.mark.parametrize(
    ("source", "target", "port", "may"),
    [
        (TENANT, "router", 8080, True),
        (TENANT, "router", 9090, False),
        (TENANT, "billing", 8081, False),
        (TENANT, "billing", 9090, False),
        (TENANT, "operator", 9090, False),
        (IMPOSTOR, "router", 9090, False),
        (IMPOSTOR, "billing", 8081, False),
        (STRANGER, "billing", 8081, False),
        (STRANGER, "router", 9090, False),
        (MANAGER, "billing", 8081, True),
        (MANAGER, "router", 9090, False),
        (part("router"), "billing", 8081, True),
        (part("operator"), "billing", 8081, True),
        (part("operator"), "router", 9090, True),
        (part("billing"), "operator", 9090, True),
        (part("router"), "operator", 9090, False),
    ],
)
def test_who_may_connect_to_whom(
    defaults: Any, source: Object, target: str, port: int, may: bool
) -> None:
    assert admitted(defaults, source, target, port) is may


def test_the_test_pod_may_manage(defaults: Any) -> None:
    (pod,) = [found for found in defaults if found["kind"] == "Pod"]
    source = {"namespace": "tidegate-system", "labels": pod["metadata"]["labels"]}
    assert admitted(defaults, source, "billing", 8081)


def test_scrapers_and_callers_can_be_named(render: Any) -> None:
    monitoring = {"matchLabels": {"name": "monitoring"}}
    found = render(
        {
            "networkPolicy": {
                "metricsFrom": [{"namespaceSelector": monitoring}],
                "gatewayFrom": [{"namespaceSelector": {}, "podSelector": monitoring}],
            }
        }
    )
    for target in ("router", "billing", "operator"):
        assert admitted(found, TENANT, target, 9090)
    assert not admitted(found, TENANT, "router", 8080)
    assert not admitted(found, TENANT, "billing", 8081)


def test_each_part_reaches_what_it_works_with(defaults: Any) -> None:
    reach = {
        found["metadata"]["name"].removeprefix("tidegate-"): {
            port["port"] for rule in found["spec"]["egress"] for port in rule["ports"]
        }
        for found in defaults
        if found["kind"] == "NetworkPolicy"
    }
    assert reach == {
        "router": {53, 443, 6443, 8000, 8081},
        "operator": {53, 443, 6443, 8000, 8081, 9090},
        "billing": {53, 443, 9090},
    }
