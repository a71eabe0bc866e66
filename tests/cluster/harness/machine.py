"""What the cluster needs of the kernel: links, addresses, packet rules, control groups, mounts.

Every change is entered in the book before it is made; `undo` in takedown reads it there.
"""

import ipaddress
import json
import socket
from collections.abc import Iterable
from pathlib import Path

from .command import CommandFailed, run
from .configs import packet_rules
from .layout import GATEWAY, LINK, NETWORK, SERVICES, Node
from .record import Book

CGROUPS = Path("/sys/fs/cgroup")
FORWARD = "/proc/sys/net/ipv4/ip_forward"
# kube-proxy's own tables; `tidegate_test` is ours.
TABLES = ("inet tidegate_test", "ip kube-proxy", "ip6 kube-proxy")


class Occupied(RuntimeError):
    """The machine already has what the cluster would make, and it isn't a record of ours."""


def hierarchies() -> list[Path]:
    """Where control groups are mounted: one in version 2, one per controller in version 1."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    found = [Path(m[1]) for m in mounts if m[2] in ("cgroup", "cgroup2")]
    return [path for path in found if path.is_relative_to(CGROUPS)]


def mounts_below(folder: Path) -> list[str]:
    """Mount points below a folder, the latest first."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    points = [line.split()[1].encode().decode("unicode_escape") for line in lines]
    return [point for point in reversed(points) if Path(point).is_relative_to(folder)]


def has_link(name: str) -> bool:
    return name in (link for _, link in socket.if_nameindex())


def tables() -> set[str]:
    """nftables tables of the machine, as `family name`."""
    lines = run("nft", "list", "tables").splitlines()
    return {line.removeprefix("table ").strip() for line in lines}


def network(book: Book, nodes: tuple[Node, ...]) -> None:
    """The link with its addresses, the Services' route, and the rule that no pod's packet leaves.

    Raises Occupied where another cluster is on the machine.
    """
    if has_link(LINK):
        raise Occupied(f"link {LINK} exists and no record of ours says so: `ip link del {LINK}`")
    if taken := tables() & set(TABLES):
        raise Occupied(f"nftables tables {sorted(taken)} exist: is another cluster running here?")
    book.enter("links", LINK)
    run("ip", "link", "add", LINK, "type", "bridge")
    for address in (GATEWAY, *(node.address for node in nodes)):
        run("ip", "address", "add", f"{address}/24", "dev", LINK)
    run("ip", "link", "set", LINK, "up")
    # An address that no pod has (any more) is of this network still: it must not take the default
    # route, which leaves the machine.
    run("ip", "route", "replace", NETWORK, "dev", LINK)
    # Without this, packets to Services take the default route's source address, if there is one.
    run("ip", "route", "replace", SERVICES, "dev", LINK, "src", GATEWAY)
    before = Path(FORWARD).read_text().strip()
    if before != "1":
        book.enter("settings", (FORWARD, before))
        Path(FORWARD).write_text("1\n")
    for table in TABLES:
        book.enter("tables", table)
    run("nft", "-f", "-", stdin=packet_rules())


def control_groups(book: Book, name: str) -> None:
    """A group of this name in every hierarchy; in version 1 a cpuset starts empty, so fill it."""
    book.enter("cgroups", name)
    for top in hierarchies():
        group = top / name
        group.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if top.name != "unified" and (group / setting).exists():
                (group / setting).write_text((top / setting).read_text())


def load_image(archive: Path, node: Node) -> None:
    """Import an image archive (docker or OCI) into a node, for its kubelet. Raises CommandFailed."""
    run("ctr", "-a", node.socket, "-n", "k8s.io", "images", "import", archive)


def remove_link(name: str) -> None:
    if has_link(name):
        run("ip", "link", "del", name)


def remove_pod_links(nodes: Iterable[Node]) -> None:
    """The host's ends of pods' links. They outlive a killed pod for as long as one of its sockets
    retries, and so would the route to its address, which the next pod of that address then misses
    when it goes."""
    gateways = {str(next(ipaddress.ip_network(node.pods).hosts())) for node in nodes}
    for link in json.loads(run("ip", "-json", "-4", "address")):
        if gateways & {one.get("local") for one in link["addr_info"]}:
            try:
                remove_link(link["ifname"])
            except CommandFailed as fault:  # it went by itself in between
                if has_link(link["ifname"]):
                    raise Occupied(f"link {link['ifname']} stays") from fault


def remove_table(table: str) -> None:
    try:
        run("nft", "delete", "table", *table.split())
    except CommandFailed as fault:
        if "No such file" not in fault.stderr:
            raise
