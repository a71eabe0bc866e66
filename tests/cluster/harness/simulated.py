"""Nodes and pods that only the API server knows, played by kwok: for many of them on one machine.

The control plane is the real one, so Deployments, the scheduler and the Services' controllers do
their work; in place of kubelets kwok writes what those would write. Its stages here are the two
steps of an engine's pod: its containers run, and it is Ready when its readiness gate is.

Pods have addresses of a range that is set aside for benchmarks (RFC 2544), and nothing listens
there: who would ask them must be told not to.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from . import certs, cluster, configs, tools
from .api import Api, Refused
from .bringup import bring_up_bare, ready_nodes
from .kubectl import wait_for
from .layout import Cluster
from .record import Book

SHARE: Final = 4
"""Each node has so many /24 of the pods' range."""
LEASE_SECONDS: Final = 40

_ALIVE: Final = {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"}


def _condition(kind: str) -> str:
    return f'.status.conditions.[] | select( .type == "{kind}" ) | .status'


_NODE: Final = """\
{{ $now := Now }}
conditions:
{{ range NodeConditions }}
- type: {{ .type | Quote }}
  status: {{ .status | Quote }}
  reason: {{ .reason | Quote }}
  message: {{ .message | Quote }}
  lastHeartbeatTime: {{ $now | Quote }}
  lastTransitionTime: {{ $now | Quote }}
{{ end }}
"""
_RUNNING: Final = """\
{{ $now := Now }}
conditions:
- {type: Initialized, status: "True", lastTransitionTime: {{ $now | Quote }}}
- {type: ContainersReady, status: "True", lastTransitionTime: {{ $now | Quote }}}
- type: Ready
  status: {{ if .spec.readinessGates }}"False"{{ else }}"True"{{ end }}
  lastTransitionTime: {{ $now | Quote }}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: true
  started: true
  restartCount: 0
  state: {running: {startedAt: {{ $now | Quote }}}}
{{ end }}
{{ with PodIPsWith .spec.nodeName false ( or .metadata.uid "" ) ( or .metadata.name "" ) ( or .metadata.namespace "" ) }}
podIP: {{ index . 0 | Quote }}
podIPs:
- ip: {{ index . 0 | Quote }}
{{ end }}
phase: Running
startTime: {{ $now | Quote }}
"""
_READY: Final = """\
{{ $now := Now }}
conditions:
- {type: ContainersReady, status: "True", lastTransitionTime: {{ $now | Quote }}}
- {type: Ready, status: "True", lastTransitionTime: {{ $now | Quote }}}
"""


def _stage(name: str, kind: str, step: dict[str, Any], *selected: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": list(selected)},
            "next": step,
        },
    }


def stages(gate: str) -> list[dict[str, Any]]:
    """kwok's configuration: `gate` is the condition that pods wait for to be Ready."""
    phase = {"key": ".status.phase", "operator": "In"}
    unready = {"key": _condition("Ready"), "operator": "NotIn", "values": ["True"]}
    answered = {"key": _condition(gate), "operator": "In", "values": ["True"]}
    ended = {"key": ".metadata.deletionTimestamp", "operator": "Exists"}
    return [
        _stage("node-ready", "Node", {"statusTemplate": _NODE}, unready),
        _stage(
            *("pod-running", "Pod", {"statusTemplate": _RUNNING}),
            *(_ALIVE, {**phase, "values": ["Pending"]}),
        ),
        _stage(
            *("pod-ready", "Pod", {"statusTemplate": _READY}),
            *(_ALIVE, {**phase, "values": ["Running"]}, unready, answered),
        ),
        _stage("pod-deleted", "Pod", {"delete": True}, ended),
    ]


def node(number: int, pods: int) -> dict[str, Any]:
    """A node with room for so many pods, and with nothing else scarce."""
    room = {"cpu": "100k", "memory": "100Ti", "ephemeral-storage": "100Ti", "pods": str(pods)}
    name = f"kwok-{number}"
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {"podCIDR": f"198.18.{number * SHARE}.0/22"},
        "status": {"capacity": room, "allocatable": room},
    }


@contextmanager
def held(gate: str, nodes: int, pods: int) -> Iterator[Cluster]:
    """A control plane and simulated nodes that no other run can end; taken down after.

    `gate`: see `stages`. `pods`: room of each node. Raises ValueError for more nodes than there
    are addresses, NotUp."""
    if not 0 < nodes <= 256 // SHARE or not 0 < pods < 256 * SHARE:
        raise ValueError(f"{nodes} nodes of {pods} pods do not fit: 64 of 1023 are the most")
    program = tools.kwok()
    with cluster.held(bring_up_bare) as made:
        assert made.folder is not None
        book = Book.of(made.folder)
        api = Api(made.folder / "certs")
        for number in range(nodes):
            api.call("POST", "/api/v1/nodes", node(number, pods))
        book.spawn("kwok", [program, *_flags(made.folder, gate)])
        wait_for(lambda: len(_ready(api)) == nodes, "simulated nodes Ready", 15)
        yield made


def _flags(folder: Path, gate: str) -> list[str]:
    config = folder / "kwok.yaml"
    config.write_text("\n---\n".join(json.dumps(stage) for stage in stages(gate)))
    certs.client(folder / "certs", "kwok", "/O=system:masters/CN=kwok")
    kubeconfig = folder / "kwok.kubeconfig"
    kubeconfig.touch(0o600)
    kubeconfig.write_text(configs.kubeconfig(folder / "certs", "kwok"))
    return [
        f"--kubeconfig={kubeconfig}",
        f"--config={config}",
        "--manage-all-nodes=true",
        f"--node-lease-duration-seconds={LEASE_SECONDS}",
    ]


def _ready(api: Api) -> set[str]:
    try:
        return ready_nodes(api)
    except (OSError, Refused):
        return set()
