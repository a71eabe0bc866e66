"""Where a tenant may have us send its messages: not into our own network.

A tenant writes the address, and we make the request: without rules it could reach what only we can
reach (a cloud's metadata, the database, a neighbour's pod). So a URL is https; its host is resolved
by us, every address it has must be public, and the connection goes to one of the very addresses
that were looked at, or the name could mean another one by then. Redirects are not followed.

An installation may allow private addresses (its tenants are its own teams), and on one machine http
to loopback. An address that carries another one inside (IPv4 in IPv6, NAT64, 6to4, Teredo) is
judged by that one, too.
"""

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
LONGEST: Final = 2000
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_LOCAL_NAT64: Final = ipaddress.IPv6Network("64:ff9b:1::/48")
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}


class DestinationError(ValueError):
    """A message can't be sent there; the message says what is allowed."""


class Policy(NamedTuple):
    """What an installation allows beyond public https."""

    private: bool = False
    loopback_http: bool = False


POLICIES: Final = {
    "public": Policy(),
    "private": Policy(private=True),
    "local": Policy(private=True, loopback_http=True),
}
"""What an installation may choose."""


class Destination(NamedTuple):
    """Where to connect; the URL stays as it was written."""

    url: str
    scheme: str
    host: str
    port: int


def parse(url: str, policy: Policy) -> Destination:
    """What a URL says, as far as it can be judged unresolved. Raises DestinationError."""
    if len(url) > LONGEST or not url.isascii() or any(c <= " " or c in "\x7f\\" for c in url):
        raise DestinationError(
            f"allowed: a URL of printable ASCII, of at most {LONGEST} characters"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise DestinationError(f"not a URL: {error}") from error
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise DestinationError("allowed: https://HOST/PATH")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise DestinationError("allowed: a URL without a user, a password and a fragment")
    if port == 0:
        raise DestinationError("allowed: a port from 1 to 65535")
    if parts.scheme == "http" and not (policy.loopback_http and _names_loopback(parts.hostname)):
        raise DestinationError("allowed: https (http to loopback only, where a setting allows it)")
    return Destination(url, parts.scheme, parts.hostname, port or _DEFAULT_PORTS[parts.scheme])


def _names_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_address(host: str) -> bool:
    """Whether a host is an address, so that there is nothing to resolve."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def check(destination: Destination, addresses: Iterable[str], policy: Policy) -> list[str]:
    """The addresses that a host was found to have, if all of them may be connected to.

    One bad address is enough to refuse: who mixes them is trying something. Raises DestinationError.
    """
    found = [_address(text) for text in addresses]
    if not found:
        raise DestinationError(f"{destination.host} has no address")
    for one in found:
        if destination.scheme == "http":
            allowed = one.is_loopback
        else:
            allowed = all(_public(inner) or _allowed(inner, policy) for inner in _all_of(one))
        if not allowed:
            raise DestinationError(
                f"{destination.host} is at {one}; allowed: public addresses"
                " (others only where a setting allows them)"
            )
    return [str(one) for one in found]


def _address(text: str) -> Address:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError as error:
        raise DestinationError(f"{text[:80]!r} is not an address") from error


def _allowed(address: Address, policy: Policy) -> bool:
    """Whether a setting allows what is not public. Nothing allows multicast, "this host",
    broadcast, or a link's own addresses, where clouds keep their secrets."""
    if address.is_loopback:
        return policy.private or policy.loopback_http
    never = (
        address.is_multicast
        or address.is_unspecified
        or address.is_link_local
        or address.is_reserved
    )
    return policy.private and address.is_private and not never


def _public(address: Address) -> bool:
    return address.is_global and not address.is_multicast and not address.is_reserved


def _all_of(address: Address) -> Iterator[Address]:
    """The addresses that a packet to this one may end up at. One inside another counts alone
    where the outer one is nothing but its wrapping."""
    if isinstance(address, ipaddress.IPv4Address):
        yield address
        return
    last = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    elif address in _NAT64:
        yield last
    elif address in _COMPATIBLE and int(address) > 1:
        yield last
        yield ipaddress.IPv4Address(0)  # long out of use: never
    elif address.sixtofour is not None:
        yield address.sixtofour
    elif address.teredo is not None or address in _LOCAL_NAT64:
        yield ipaddress.IPv4Address(0)  # a tunnel to who knows where: never
    else:
        yield address
