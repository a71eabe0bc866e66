"""Every object that the chart renders, for a table of values, held to what must be true of all.

Two things no offline check can see are left to the real cluster: that a Secret which is there is
kept (`lookup` finds nothing here), and that the API server admits what is rendered.
"""

import json
from base64 import b64decode
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tidegate_billing import settings
from tidegate_billing.keys import parse_peppers
from tidegate_runtime.app import FLUSH_SECONDS

Object = dict[str, Any]
OLDEST, NEWEST = "1.30", kubernetes_validate.latest_version()

# --- all objects ------------------------------------------------------------------------------


@cache
def validate(text: str, version: str) -> None:
    """Raises kubernetes_validate.ValidationError. Most objects are the same in many cases."""
    kubernetes_validate.validate(json.loads(text), version, strict=True)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_object_is_valid(objects: Any, version: str) -> None:
    for found in objects:
        if found["kind"] != "ModelDeployment":
            validate(json.dumps(found), version)


def test_the_validation_sees_a_typo(defaults: Any) -> None:
    found = yaml.safe_load(yaml.safe_dump(defaults.one("StatefulSet", "tidegate-router")))
    found["spec"]["template"]["spec"]["enableServiceLink"] = False
    with pytest.raises(kubernetes_validate.ValidationError, match="enableServiceLink"):
        kubernetes_validate.validate(found, NEWEST, strict=True)


def test_every_object_says_what_it_belongs_to(objects: Any) -> None:
    for found in objects:
        labels = found["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "tidegate", found["metadata"]["name"]
        assert labels["app.kubernetes.io/instance"] == "tidegate"
        assert labels["app.kubernetes.io/component"]
        if not found["kind"].startswith("ClusterRole"):
            assert found["metadata"]["namespace"] == "tidegate-system"


def test_names_are_the_ones_others_rely_on(defaults: Any) -> None:
    for kind, name in (
        ("StatefulSet", "tidegate-router"),
        ("Deployment", "tidegate-billing"),
        ("Deployment", "tidegate-operator"),
        ("Service", "tidegate-router-headless"),
        ("Secret", "tidegate-secrets"),
        ("Secret", "tidegate-admin"),
        ("ConfigMap", "tidegate-platform"),
    ):
        defaults.one(kind, name)
    for name, port in (("router", 8080), ("billing", 8081), ("operator", 9090)):
        service = defaults.one("Service", f"tidegate-{name}")
        assert [each["port"] for each in service["spec"]["ports"]] == [port]


def test_another_release_shares_no_name(defaults: Any, render: Any) -> None:
    def names(objects: Any) -> set[tuple[str, str]]:
        return {(found["kind"], found["metadata"]["name"]) for found in objects}

    assert not names(defaults) & names(render({}, release="second"))


def test_selectors_find_the_pods_they_mean(objects: Any) -> None:
    labels = [set(pod["metadata"]["labels"].items()) for pod in objects.pods().values()]
    for found in objects:
        selector = found.get("spec", {}).get("selector")
        if selector is not None:
            wanted = set(selector.get("matchLabels", selector).items())
            assert sum(wanted <= one_pod for one_pod in labels) == 1, found["metadata"]["name"]


# --- pods -------------------------------------------------------------------------------------


def unsafe(pod: Object) -> list[str]:
    """Where a pod's spec falls short of Pod Security `restricted` and of our own rules."""
    found, security = [], pod.get("securityContext", {})
    volumes = pod.get("volumes", [])
    checks = {
        "runs as root": security.get("runAsNonRoot") is True and security.get("runAsUser") == 65532,
        "group": security.get("fsGroup") == 65532,
        "seccomp": security.get("seccompProfile") == {"type": "RuntimeDefault"},
        "service links": pod.get("enableServiceLinks") is False,
        "token unsaid": isinstance(pod.get("automountServiceAccountToken"), bool),
        "host": not any(pod.get(field) for field in ("hostNetwork", "hostPID", "hostIPC")),
        "volume kind": all(
            {"emptyDir", "secret", "configMap", "persistentVolumeClaim"} & set(each)
            for each in volumes
        ),
        "secret's mode": all(
            each["secret"].get("defaultMode") == 0o440 for each in volumes if "secret" in each
        ),
    }
    found += [name for name, fine in checks.items() if not fine]
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        inside = container.get("securityContext", {})
        mounts = {each["mountPath"] for each in container.get("volumeMounts", [])}
        environment = {each["name"]: each.get("value") for each in container.get("env", [])}
        checks = {
            "escalation": inside.get("allowPrivilegeEscalation") is False,
            "writable root": inside.get("readOnlyRootFilesystem") is True,
            "capabilities": inside.get("capabilities") == {"drop": ["ALL"]},
            "privileged": not inside.get("privileged"),
            "requests": {"cpu", "memory"}
            <= set(container.get("resources", {}).get("requests", {})),
            "memory limit": "memory" in container.get("resources", {}).get("limits", {}),
            "temporary files": "/tmp" in mounts and environment.get("TMPDIR") == "/tmp",
            "host port": not any("hostPort" in each for each in container.get("ports", [])),
            "a shell": "command" not in container,
        }
        found += [name for name, fine in checks.items() if not fine]
    return found


def test_every_pod_is_restricted(objects: Any) -> None:
    found = objects.pods()
    assert {"StatefulSet/tidegate-router", "Deployment/tidegate-billing"} <= set(found)
    assert {name: wrong for name, pod in found.items() if (wrong := unsafe(pod["spec"]))} == {}


@pytest.mark.parametrize(
    ("where", "value", "seen"),
    [
        (("securityContext", "runAsNonRoot"), False, "runs as root"),
        (("securityContext", "fsGroup"), 0, "group"),
        (("securityContext", "seccompProfile"), {"type": "Unconfined"}, "seccomp"),
        (("enableServiceLinks",), True, "service links"),
        (("automountServiceAccountToken",), None, "token unsaid"),
        (("hostNetwork",), True, "host"),
        (("volumes", 0), {"name": "tmp", "hostPath": {"path": "/tmp"}}, "volume kind"),
        (("volumes", 1, "secret", "defaultMode"), 0o444, "secret's mode"),
        (("containers", 0, "securityContext", "allowPrivilegeEscalation"), True, "escalation"),
        (("containers", 0, "securityContext", "readOnlyRootFilesystem"), False, "writable root"),
        (("containers", 0, "securityContext", "capabilities"), {}, "capabilities"),
        (("containers", 0, "securityContext", "privileged"), True, "privileged"),
        (("containers", 0, "resources", "requests"), {}, "requests"),
        (("containers", 0, "resources", "limits"), {}, "memory limit"),
        (("containers", 0, "volumeMounts"), [], "temporary files"),
        (("containers", 0, "ports", 0, "hostPort"), 80, "host port"),
        (("containers", 0, "command"), ["sh"], "a shell"),
    ],
)
def test_the_checker_sees_each_fault(
    defaults: Any, where: tuple[str | int, ...], value: object, seen: str
) -> None:
    router = defaults.one("StatefulSet", "tidegate-router")["spec"]["template"]["spec"]
    pod: Any = yaml.safe_load(yaml.safe_dump(router))
    assert unsafe(pod) == []
    target = pod
    for step in where[:-1]:
        target = target[step]
    target[where[-1]] = value
    assert unsafe(pod) == [seen]


def test_only_who_asks_the_api_server_has_a_token(objects: Any) -> None:
    tokens = {
        name.removeprefix("tidegate-")
        for kind, name in (each.split("/") for each in objects.pods())
        if objects.pods()[f"{kind}/{name}"]["spec"]["automountServiceAccountToken"]
    }
    assert tokens - {"crds"} == {"router", "operator"}


def test_every_setting_is_one_the_processes_know(objects: Any) -> None:
    for name, pod in objects.pods().items():
        for container in pod["spec"]["containers"]:
            for each in container["env"]:
                setting = each["name"].removeprefix("TIDEGATE_")
                if setting == each["name"]:
                    assert setting == "TMPDIR"
                elif setting.endswith("_FILE"):
                    assert setting.removesuffix("_FILE") in settings.SECRETS, name
                    path = Path(each["value"])
                    mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
                    volume = next(
                        v for v in pod["spec"]["volumes"] if v["name"] == mounts[str(path.parent)]
                    )
                    assert path.name in {item["path"] for item in volume["secret"]["items"]}
                else:
                    assert setting in settings.KNOWN, name


def test_the_parts_are_probed_on_the_operations_port(objects: Any) -> None:
    found = objects.pods()
    for name in ("StatefulSet/tidegate-router", "Deployment/tidegate-billing",
                 "Deployment/tidegate-operator"):  # fmt: skip
        (container,) = found[name]["spec"]["containers"]
        assert {"name": "ops", "containerPort": 9090} in container["ports"]
        for probe, path in (("liveness", "/livez"), ("readiness", "/readyz")):
            assert container[f"{probe}Probe"]["httpGet"] == {"path": path, "port": "ops"}
    router = found["StatefulSet/tidegate-router"]["spec"]
    (container,) = router["containers"]
    environment = {one["name"]: one.get("value") for one in container["env"]}
    # Beside what requests may take: preStop and the journal's flush.
    left = router["terminationGracePeriodSeconds"] - int(environment["TIDEGATE_DRAIN_SECONDS"])
    assert left > container["lifecycle"]["preStop"]["sleep"]["seconds"] + FLUSH_SECONDS


def test_several_may_be_disrupted_one_at_a_time(cases: Any, render: Any) -> None:
    def budgets(values: Object) -> set[str]:
        return {
            found["metadata"]["name"]
            for found in render(values)
            if found["kind"] == "PodDisruptionBudget" and found["spec"]["maxUnavailable"] == 1
        }

    assert budgets({}) == set()
    assert budgets(cases["many"]) == {"tidegate-router", "tidegate-operator"}


# --- data that must outlive a release -----------------------------------------------------------


def test_what_cannot_be_made_again_is_kept(defaults: Any) -> None:
    for kind, name in (
        ("Secret", "tidegate-secrets"),
        ("Secret", "tidegate-admin"),
        ("PersistentVolumeClaim", "tidegate-billing"),
    ):
        kept = defaults.one(kind, name)["metadata"]["annotations"]
        assert kept["helm.sh/resource-policy"] == "keep"
    journal = defaults.one("StatefulSet", "tidegate-router")["spec"]
    assert journal["persistentVolumeClaimRetentionPolicy"] == {
        "whenDeleted": "Retain",
        "whenScaled": "Retain",
    }


def test_the_secrets_are_usable_and_new_each_time(defaults: Any, render: Any) -> None:
    def made(objects: Any) -> dict[str, str]:
        return {
            key: b64decode(value).decode()
            for name in ("tidegate-secrets", "tidegate-admin")
            for key, value in objects.one("Secret", name)["data"].items()
        }

    first, second = made(defaults), made(render({}))
    assert set(first) == {"internal-token", "key-pepper", "guard-key", "token"}
    assert list(parse_peppers(first["key-pepper"])) == [1]
    assert len(set(first.values()) | set(second.values())) == 8
    assert all(len(value) >= 48 for value in first.values())


def test_a_secret_of_others_replaces_ours(cases: Any, render: Any) -> None:
    found = render(cases["secrets of others"])
    assert not [each for each in found if each["kind"] == "Secret"]
    used = {
        volume["secret"]["secretName"]
        for pod in found.pods().values()
        for volume in pod["spec"]["volumes"]
        if "secret" in volume
    }
    assert used == {"our-admin", "our-secrets"}
    # Nothing is random any more: rendering again changes nothing.
    assert render(cases["secrets of others"]) == found


def test_changed_secrets_and_settings_replace_pods(defaults: Any, render: Any) -> None:
    def marks(objects: Any, name: str) -> Object:
        found: Object = objects.pods()[name]["metadata"]["annotations"]
        return found

    names = ("StatefulSet/tidegate-router", "Deployment/tidegate-billing",
             "Deployment/tidegate-operator")  # fmt: skip
    # One rendering, one value: the Secret and every mark of it agree.
    assert len({marks(defaults, name)["checksum/secrets"] for name in names}) == 1
    again = render({"policy": {"public": ["team-a"]}})
    for name in names:
        assert marks(defaults, name)["checksum/secrets"] != marks(again, name)["checksum/secrets"]
    assert "checksum/admin" in marks(defaults, names[1])
    platforms = [marks(each, names[2])["checksum/platform"] for each in (defaults, again)]
    assert platforms[0] != platforms[1]


def test_billing_has_exactly_one_database(cases: Any, defaults: Any, render: Any) -> None:
    def place(objects: Any) -> tuple[Object, set[str]]:
        spec = objects.pods()["Deployment/tidegate-billing"]["spec"]
        environment = {each["name"]: each.get("value") for each in spec["containers"][0]["env"]}
        return environment, {volume["name"] for volume in spec["volumes"]}

    environment, volumes = place(defaults)
    assert environment["TIDEGATE_DATA"] == "/var/lib/tidegate"
    assert "TIDEGATE_DATABASE_URL_FILE" not in environment
    assert "data" in volumes
    outside = render(cases["postgresql"])
    environment, volumes = place(outside)
    assert environment["TIDEGATE_DATABASE_URL_FILE"] == "/etc/tidegate/database/url"
    assert "TIDEGATE_DATA" not in environment
    assert "data" not in volumes
    assert not [each for each in outside if each["kind"] == "PersistentVolumeClaim"]


def test_an_outside_database_is_migrated_before_anything_uses_it(
    cases: Any, defaults: Any, render: Any
) -> None:
    name = "Job/tidegate-migrate"
    assert name not in defaults.pods()
    outside = render(cases["postgresql"])
    spec = outside.pods()[name]["spec"]
    (container,) = spec["containers"]
    assert container["args"] == ["billing", "migrate"]
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert environment["TIDEGATE_DATABASE_URL_FILE"] == "/etc/tidegate/database/url"
    assert spec["automountServiceAccountToken"] is False
    (job,) = [
        each
        for each in outside
        if each["metadata"]["name"] == "tidegate-migrate" and each["kind"] == "Job"
    ]
    notes = job["metadata"]["annotations"]
    assert notes["helm.sh/hook"] == "pre-install,pre-upgrade"
    (account,) = [
        each
        for each in outside
        if each["metadata"]["name"] == spec["serviceAccountName"]
        and each["kind"] == "ServiceAccount"
    ]
    before = account["metadata"]["annotations"]["helm.sh/hook-weight"]
    assert int(before) < int(notes["helm.sh/hook-weight"])
    assert job["spec"]["activeDeadlineSeconds"] == 3600
