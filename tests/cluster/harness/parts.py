"""The command line of every process of the cluster. Pure: folders and programs in, words out."""

import sys
from pathlib import Path

from .layout import API_PORT, DOMAIN, ETCD, GATEWAY, SERVICES, Node

Words = list[str | Path]


def etcd(program: Path, folder: Path) -> Words:
    certs = folder / "certs"
    peers = f"https://{GATEWAY}:2380"
    return [
        program,
        "--name=tidegate-test",
        f"--data-dir={folder}/etcd",
        f"--listen-client-urls={ETCD}",
        f"--advertise-client-urls={ETCD}",
        f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster=tidegate-test={peers}",
        "--client-cert-auth",
        "--peer-client-cert-auth",
        f"--trusted-ca-file={certs}/ca.crt",
        f"--peer-trusted-ca-file={certs}/ca.crt",
        f"--cert-file={certs}/etcd.crt",
        f"--key-file={certs}/etcd.key",
        f"--peer-cert-file={certs}/etcd.crt",
        f"--peer-key-file={certs}/etcd.key",
        "--unsafe-no-fsync",  # the data lives for one run
        "--log-level=warn",
    ]


def apiserver(program: Path, folder: Path) -> Words:
    certs = folder / "certs"
    return [
        program,
        f"--advertise-address={GATEWAY}",
        f"--bind-address={GATEWAY}",
        f"--secure-port={API_PORT}",
        f"--service-cluster-ip-range={SERVICES}",
        f"--etcd-servers={ETCD}",
        f"--etcd-cafile={certs}/ca.crt",
        f"--etcd-certfile={certs}/apiserver-etcd.crt",
        f"--etcd-keyfile={certs}/apiserver-etcd.key",
        f"--client-ca-file={certs}/ca.crt",
        f"--tls-cert-file={certs}/apiserver.crt",
        f"--tls-private-key-file={certs}/apiserver.key",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged",
        "--anonymous-auth=false",
        f"--service-account-issuer=https://kubernetes.default.svc.{DOMAIN}",
        f"--service-account-key-file={certs}/service-accounts.pub",
        f"--service-account-signing-key-file={certs}/service-accounts.key",
        f"--kubelet-certificate-authority={certs}/ca.crt",
        f"--kubelet-client-certificate={certs}/apiserver-kubelet.crt",
        f"--kubelet-client-key={certs}/apiserver-kubelet.key",
        # Else logs and exec look the node's name up in the machine's DNS.
        "--kubelet-preferred-address-types=InternalIP",
        f"--requestheader-client-ca-file={certs}/ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={certs}/front-proxy.crt",
        f"--proxy-client-key-file={certs}/front-proxy.key",
        f"--audit-policy-file={folder}/audit-policy.yaml",
        f"--audit-log-path={folder}/audit.log",
        "--audit-log-maxsize=100000",  # MB: one file, never turned over
        "--profiling=false",
    ]


def controller_manager(program: Path, folder: Path) -> Words:
    certs = folder / "certs"
    return [
        program,
        f"--kubeconfig={folder}/controller-manager.kubeconfig",
        "--use-service-account-credentials",
        f"--service-account-private-key-file={certs}/service-accounts.key",
        f"--root-ca-file={certs}/ca.crt",
        f"--cluster-signing-cert-file={certs}/ca.crt",
        f"--cluster-signing-key-file={certs}/ca.key",
        "--leader-elect=false",
        "--secure-port=0",
        "--node-monitor-period=1s",  # a lost node within seconds: see its grace in `bringup`
        "--terminated-pod-gc-threshold=0",
    ]


def scheduler(program: Path, folder: Path) -> Words:
    return [
        program,
        f"--kubeconfig={folder}/scheduler.kubeconfig",
        "--leader-elect=false",
        "--secure-port=0",
    ]


def kube_proxy(program: Path, folder: Path) -> Words:
    return [program, f"--config={folder}/kube-proxy.yaml"]


def coredns(program: Path, folder: Path) -> Words:
    return [program, "-conf", folder / "Corefile", "-dns.port", "53"]


def provisioner(folder: Path) -> Words:
    # The folder above `harness` is on its path by PYTHONPATH, which the record's spawn sets.
    return [sys.executable, "-m", "harness.provisioner", folder / "certs", folder / "volumes"]


def containerd(program: Path, node: Node) -> Words:
    return [program, "--config", node.root / "containerd.toml", "--log-level", "info"]


def kubelet(program: Path, node: Node) -> Words:
    return [
        program,
        f"--config={node.root}/kubelet.yaml",
        f"--kubeconfig={node.root}/kubeconfig",
        f"--root-dir={node.root}/kubelet",
        f"--hostname-override={node.name}",
        f"--node-ip={node.address}",
    ]
