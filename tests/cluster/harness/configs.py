"""The text of every configuration file of the cluster. Pure: values in, text out.

JSON where the reader takes YAML, because JSON is YAML and needs no library. Each setting that is
not self-evident was found by its failure on a machine of this kind, or serves a test; both said.
"""

import base64
import json
from pathlib import Path

from .layout import (
    API,
    DNS_SERVICE,
    DOMAIN,
    GATEWAY,
    NETWORK,
    PAUSE_IMAGE,
    PROVISIONER,
    SIZED_CLASS,
    STORAGE_CLASS,
    Node,
)


def kubeconfig(certs: Path, client: str) -> str:
    """A kubeconfig with everything inside, so that the file alone is enough."""

    def inline(name: str) -> str:
        return base64.b64encode((certs / name).read_bytes()).decode()

    cluster = {"server": API, "certificate-authority-data": inline("ca.crt")}
    user = {
        "client-certificate-data": inline(f"{client}.crt"),
        "client-key-data": inline(f"{client}.key"),
    }
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tidegate-test", "cluster": cluster}],
            "users": [{"name": client, "user": user}],
            "contexts": [
                {"name": "tidegate-test", "context": {"cluster": "tidegate-test", "user": client}}
            ],
            "current-context": "tidegate-test",
        },
        indent=1,
    )


def audit_policy() -> str:
    """Who asked for what, of every request: what the test of least RBAC reads."""
    return json.dumps(
        {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [{"level": "Metadata"}],
        }
    )


def kubelet(node: Node, certs: Path) -> str:
    """KubeletConfiguration of one node."""
    return json.dumps(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": node.address,
            "healthzBindAddress": node.address,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(certs / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(certs / f"{node.name}-serving.crt"),
            "tlsPrivateKeyFile": str(certs / f"{node.name}-serving.key"),
            "containerRuntimeEndpoint": f"unix://{node.socket}",
            "clusterDNS": [DNS_SERVICE],
            "clusterDomain": DOMAIN,
            "resolvConf": str(node.root / "resolv.conf"),  # empty: no name of the machine's
            "podLogsDir": str(node.root / "pod-logs"),
            "volumePluginDir": str(node.root / "volume-plugins"),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{node.cgroup}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,  # nothing in the machine's iptables
            "maxPods": 220,
            # Nothing is evicted or collected because the machine's disk is full.
            "evictionHard": {
                "memory.available": "20Mi",
                "nodefs.available": "0%",
                "nodefs.inodesFree": "0%",
                "imagefs.available": "0%",
            },
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            # A lost node is noticed within seconds: the controller's grace is 10 s.
            "nodeLeaseDurationSeconds": 8,
            "nodeStatusUpdateFrequency": "4s",
            "serializeImagePulls": False,
            "registryPullQPS": 0,
            "logging": {"verbosity": 1},
        },
        indent=1,
    )


def containerd(node: Node) -> str:
    """config.toml of one node's containerd."""
    return f"""\
version = 2
root = "{node.root}/containerd"
state = "{node.root}/containerd-state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{node.socket}"

[plugins."io.containerd.internal.v1.opt"]
path = "{node.root}/opt"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
stream_server_address = "127.0.0.1"
stream_server_port = "0"
restrict_oom_score_adj = true  # without CAP_SYS_RESOURCE every sandbox fails otherwise
netns_mounts_under_state_dir = true  # so that all our mounts are below one folder

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{node.root}/cni"

[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{node.root}/registries"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"""


def registry() -> str:
    """hosts.toml of every registry: a port that refuses, so that no pull leaves the machine."""
    return f'server = "http://{GATEWAY}:1"\n'


def cni(node: Node) -> str:
    """Pod network of one node: a routed pair per pod.

    Not a bridge: between two pods on one bridge the answer of a Service's endpoint would pass the
    address translation by, unless the kernel filters bridged frames.
    """
    return json.dumps(
        {
            "cniVersion": "0.4.0",
            "name": node.cgroup,
            "plugins": [
                {
                    "type": "ptp",
                    "ipMasq": False,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": node.pods}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                        "dataDir": str(node.root / "cni-addresses"),
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        },
        indent=1,
    )


def kube_proxy(folder: Path, node: Node) -> str:
    """KubeProxyConfiguration: one serves both nodes, they share the machine's packet filter."""
    return json.dumps(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "hostnameOverride": node.name,
            "clientConnection": {"kubeconfig": str(folder / "kube-proxy.kubeconfig")},
            "clusterCIDR": NETWORK,
            "healthzBindAddress": f"{GATEWAY}:10256",
            "metricsBindAddress": f"{GATEWAY}:10249",
            "nodePortAddresses": ["10.77.0.0/24"],
            "conntrack": {"maxPerCore": 0, "min": 0},  # leave the machine's settings alone
            "nftables": {"minSyncPeriod": "100ms", "syncPeriod": "30s"},
        },
        indent=1,
    )


def corefile(folder: Path) -> str:
    """CoreDNS answers the cluster's names, and that no other name exists."""
    return f"""\
{DOMAIN} 10.in-addr.arpa {{
  bind {GATEWAY}
  errors
  ready {GATEWAY}:8181
  kubernetes {DOMAIN} 10.in-addr.arpa {{
    kubeconfig {folder}/coredns.kubeconfig
    ttl 2
  }}
}}
. {{
  bind {GATEWAY}
  template ANY ANY . {{
    rcode NXDOMAIN
  }}
}}
"""


def packet_rules() -> str:
    """A table of ours: no packet of a pod leaves the machine."""
    return f"""\
table inet tidegate_test {{
  chain forward {{
    type filter hook forward priority filter; policy accept;
    ip saddr {NETWORK} ip daddr != {NETWORK} reject
  }}
}}
"""


def addons() -> tuple[tuple[str, dict[str, object]], ...]:
    """Objects of the cluster itself, each with the path of its collection."""
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    read = ["get", "list", "watch"]
    rules = [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": read},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
    ]
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "coredns"}
    user = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:coredns"}
    named = {"namespace": "kube-system", "name": "kube-dns"}
    return (
        (f"{rbac}/clusterroles", {"metadata": {"name": "coredns"}, "rules": rules}),
        (
            f"{rbac}/clusterrolebindings",
            {"metadata": {"name": "coredns"}, "roleRef": role, "subjects": [user]},
        ),
        (
            "/api/v1/namespaces/kube-system/services",
            {"metadata": named, "spec": {"clusterIP": DNS_SERVICE, "ports": ports}},
        ),
        (
            "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices",
            {
                "metadata": {**named, "labels": {"kubernetes.io/service-name": "kube-dns"}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": [GATEWAY], "conditions": {"ready": True}}],
                "ports": ports,
            },
        ),
        _storage_class(STORAGE_CLASS, {"storageclass.kubernetes.io/is-default-class": "true"}),
        _storage_class(SIZED_CLASS, {}),
    )


def _storage_class(name: str, annotations: dict[str, str]) -> tuple[str, dict[str, object]]:
    return (
        "/apis/storage.k8s.io/v1/storageclasses",
        {
            "metadata": {"name": name, "annotations": annotations},
            "provisioner": PROVISIONER,
            "reclaimPolicy": "Delete",
            "volumeBindingMode": "Immediate",
        },
    )
