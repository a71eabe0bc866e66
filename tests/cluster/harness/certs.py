"""The cluster's certificates: one authority, a certificate for each part, by the openssl command.

Elliptic keys, because twenty RSA keys take seconds. Valid for ten years: they live for one run.
"""

from pathlib import Path

from .command import run
from .layout import API_SERVICE, DOMAIN, GATEWAY, Node

DAYS = "3650"
KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")

# Each client: who it is to the API server.
CLIENTS = {
    "admin": "/O=system:masters/CN=admin",
    "controller-manager": "/CN=system:kube-controller-manager",
    "scheduler": "/CN=system:kube-scheduler",
    "kube-proxy": "/CN=system:kube-proxy",
    "coredns": "/CN=system:coredns",
    "apiserver-kubelet": "/O=system:masters/CN=kube-apiserver-kubelet-client",
    "apiserver-etcd": "/CN=kube-apiserver-etcd-client",
    "front-proxy": "/CN=front-proxy-client",
}


def _signed(folder: Path, name: str, subject: str, usage: str, *extensions: str) -> None:
    run(
        *("openssl", "req", "-x509", *KEY, "-days", DAYS, "-subj", subject),
        *("-CA", folder / "ca.crt", "-CAkey", folder / "ca.key"),
        *("-addext", "basicConstraints=critical,CA:FALSE"),
        *("-addext", "keyUsage=critical,digitalSignature"),
        *("-addext", f"extendedKeyUsage={usage}"),
        *(word for extension in extensions for word in ("-addext", extension)),
        *("-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt"),
    )


def client(folder: Path, name: str, subject: str) -> None:
    """One more client's key and certificate, in the folder that `make` has made."""
    _signed(folder, name, subject, "clientAuth")


def make(folder: Path, nodes: tuple[Node, ...]) -> None:
    """Write every key and certificate into a folder that only root can read."""
    folder.mkdir(mode=0o700, parents=True)
    run(
        *("openssl", "req", "-x509", *KEY, "-days", DAYS, "-subj", "/CN=tidegate-test"),
        *("-addext", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature"),
        *("-keyout", folder / "ca.key", "-out", folder / "ca.crt"),
    )
    names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc")
    api = [*names, f"kubernetes.default.svc.{DOMAIN}", "localhost"]
    _signed(
        *(folder, "apiserver", "/CN=kube-apiserver", "serverAuth"),
        "subjectAltName="
        + ",".join([*(f"DNS:{name}" for name in api), f"IP:{GATEWAY}", f"IP:{API_SERVICE}"]),
    )
    _signed(folder, "etcd", "/CN=etcd", "serverAuth,clientAuth", f"subjectAltName=IP:{GATEWAY}")
    for name, subject in CLIENTS.items():
        client(folder, name, subject)
    for node in nodes:
        who = f"/O=system:nodes/CN=system:node:{node.name}"
        _signed(folder, node.name, who, "clientAuth")
        _signed(
            *(folder, f"{node.name}-serving", f"/CN={node.name}", "serverAuth"),
            f"subjectAltName=DNS:{node.name},IP:{node.address}",
        )
    accounts = folder / "service-accounts.key"
    run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", accounts)
    run("openssl", "pkey", "-in", accounts, "-pubout", "-out", folder / "service-accounts.pub")
