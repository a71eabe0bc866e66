"""Tidegate's parts as plain processes beside a control plane, to measure them one by one.

Each has a client certificate of its own, so that the API server's audit log tells who asked. They
are cluster administrators: rights have tests of their own. What the chart would make for them is
taken from the chart where they read it (the definition, platform.yaml); the routers' Service has an
EndpointSlice written by hand, which names the one router there is.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import httpx
import yaml

from . import certs, configs
from .kubectl import apply, helm, kubectl, wait_for
from .layout import GATEWAY, Cluster
from .record import Book, Process, alive, end, read

ROOT: Final = Path(__file__).resolve().parents[3]
CHART: Final = ROOT / "charts" / "tidegate"
SYSTEM: Final = "tidegate-system"
ROUTERS: Final = "tidegate-router-headless"
BILLING: Final = 8081
OPS: Final = {
    "billing": "http://127.0.0.1:9091",
    "router": f"http://{GATEWAY}:9090",  # where the operator expects every router's
    "operator": "http://127.0.0.1:9092",
}
MODULES: Final = {
    "billing": "tidegate_billing",
    "router": "tidegate_runtime",
    "operator": "tidegate_operator.kube",
}
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """What a process has used: CPU seconds since its start, memory now and at most, in MiB."""

    cpu: float
    rss: float
    peak: float


def usage(process: Process) -> Usage:
    """Of a process that runs. Raises FileNotFoundError."""
    stat = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    said = {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
    rss, peak = (int(said[key][0]) / 1024 for key in ("VmRSS", "VmHWM"))
    return Usage((int(stat[11]) + int(stat[12])) / _TICKS, rss, peak)


def user(part: str) -> str:
    """Who a part is to the API server."""
    return f"tidegate-{part}"


class Plain:
    """The parts of one installation, on a cluster of our own."""

    def __init__(self, cluster: Cluster) -> None:
        assert cluster.folder is not None
        self.cluster, self._root = cluster, cluster.folder
        self._folder = cluster.folder / "tidegate"
        self._folder.mkdir(mode=0o700)

    def prepare(self) -> None:
        """What the chart would make in the cluster. Raises CommandFailed."""
        cluster = self.cluster
        kubectl(cluster, "apply", "-f", CHART / "crds")
        crd = "crd/modeldeployments.tidegate.dev"
        kubectl(cluster, "wait", "--for=condition=Established", crd, "--timeout=30s")
        where = {"name": ROUTERS, "namespace": SYSTEM}
        ports = [{"name": "ops", "port": 9090}]
        apply(
            cluster,
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}},
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": where,
                "spec": {"clusterIP": "None", "ports": ports},
            },
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {**where, "labels": {"kubernetes.io/service-name": ROUTERS}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": [GATEWAY], "conditions": {"ready": True}}],
                "ports": ports,
            },
        )
        words = ("template", "tidegate", CHART, "--show-only", "templates/platform.yaml")
        made = yaml.safe_load(helm(cluster, *words))
        (self._folder / "platform.yaml").write_text(made["data"]["platform.yaml"])

    def start(self, part: str) -> Process:
        """Start a part and wait until it is ready. Raises TimeoutError."""
        name = user(part)
        kubeconfig = self._root / f"{name}.kubeconfig"
        if not kubeconfig.exists():
            certs.client(self._root / "certs", name, f"/O=system:masters/CN={name}")
            kubeconfig.touch(0o600)
            kubeconfig.write_text(configs.kubeconfig(self._root / "certs", name))
        argv = [sys.executable, "-Im", MODULES[part]]
        process = Book.of(self._root).spawn(part, argv, self._environment(part, kubeconfig))
        wait_for(lambda: self._ready(part), f"{part} ready", 60)
        return process

    def stop(self, part: str) -> None:
        """Tell a part to end, and wait until it has."""
        end([Book.of(self._root).part(part)], grace=20)

    def usage(self) -> dict[str, Usage]:
        """What every process of the cluster and of ours that runs has used."""
        record = read(self._root)
        assert record is not None
        return {one.name: usage(one) for one in record.processes if alive(one)}

    def metrics(self, part: str) -> dict[str, float]:
        """A part's metrics, summed over their labels."""
        found: dict[str, float] = {}
        for line in httpx.get(
            f"{OPS[part]}/metrics", timeout=60, trust_env=False
        ).text.splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                name = name.partition("{")[0]
                found[name] = found.get(name, 0.0) + float(value)
        return found

    @staticmethod
    def _ready(part: str) -> bool:
        try:
            return httpx.get(f"{OPS[part]}/readyz", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def _environment(self, part: str, kubeconfig: Path) -> Mapping[str, str]:
        host, port = OPS[part].removeprefix("http://").split(":")
        billing = f"http://127.0.0.1:{BILLING}"
        common = {
            "TIDEGATE_HOST": host,
            "TIDEGATE_OPS_PORT": port,
            "TIDEGATE_INTERNAL_TOKEN": "internal",
        }
        data = self._folder / part
        pepper = {"TIDEGATE_KEY_PEPPER": "1:" + "p" * 32}
        reads = {
            "KUBECONFIG": str(kubeconfig),
            "TIDEGATE_NAME": part,
            "TIDEGATE_BILLING_URL": billing,
            "TIDEGATE_GUARD_KEY": "guard",
        }
        own = {
            "billing": {
                **pepper,
                "TIDEGATE_DATA": str(data),
                "TIDEGATE_ADMIN_PORT": str(BILLING),
                "TIDEGATE_ADMIN_TOKEN": "admin",
            },
            "router": {
                **pepper,
                **reads,
                "TIDEGATE_DATA": str(data),
                "TIDEGATE_WORLD_URL": "kubernetes:",
                "TIDEGATE_PROBE": "false",
            },
            "operator": {
                **reads,
                "TIDEGATE_NAMESPACE": SYSTEM,
                "TIDEGATE_ROUTER_SERVICE": ROUTERS,
                "TIDEGATE_PLATFORM": str(self._folder / "platform.yaml"),
            },
        }[part]
        data.mkdir(mode=0o700, exist_ok=True)
        return {**common, **own}
