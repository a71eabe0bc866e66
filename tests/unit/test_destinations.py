"""Destinations: a tenant cannot send us into our own network."""

import ipaddress

import pytest

from tidegate_billing import destinations
from tidegate_billing.destinations import DestinationError, Policy

PUBLIC = Policy()
TEAMS = Policy(private=True)
LAPTOP = Policy(loopback_http=True)
URL = "https://hooks.example.com/in?x=1"


def test_a_url_is_taken_apart() -> None:
    assert destinations.parse(URL, PUBLIC) == (URL, "https", "hooks.example.com", 443)
    assert destinations.parse("https://[2606:4700::1]:8443/", PUBLIC)[2:] == ("2606:4700::1", 8443)


@pytest.mark.parametrize(
    "url",
    [
        "", "hooks.example.com", "//hooks.example.com/", "https://", "https:///path",
        "http://hooks.example.com/", "ftp://hooks.example.com/", "file:///etc/passwd",
        "https://user@hooks.example.com/", "https://user:pw@hooks.example.com/",
        "https://@hooks.example.com/", "https://hooks.example.com/#x",
        "https://hooks.example.com:0/", "https://hooks.example.com:99999/",
        "https://hooks.example.com:x/", "https://[::1/", "https://hooks.example.com/a b",
        "https://hooks.example.com/\r\nx: y", "https://hooks.example.com\\@evil.example/",
        "https://hööks.example.com/", "https://hooks.example.com/" + "x" * 2000,
        "http://localhost/",
    ],
)  # fmt: skip
def test_what_is_no_public_https_is_refused(url: str) -> None:
    with pytest.raises(DestinationError):
        destinations.parse(url, PUBLIC)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_http_is_for_loopback_where_it_is_allowed(host: str) -> None:
    found = destinations.parse(f"http://{host}:9000/x", LAPTOP)
    assert found.port == 9000
    assert destinations.check(found, ["127.0.0.1", "::1"], LAPTOP) == ["127.0.0.1", "::1"]
    for elsewhere in ("10.0.0.1", "8.8.8.8"):
        with pytest.raises(DestinationError):
            destinations.check(found, [elsewhere], LAPTOP)
    with pytest.raises(DestinationError):
        destinations.parse("http://hooks.example.com/", LAPTOP)


GOOD = ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
PRIVATE = [
    *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fd00::1"),
    *("::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::1"),
]
LOOPBACK = ["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"]
NEVER = [
    *("169.254.169.254", "fe80::1", "fe80::1%eth0", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"),
    *("0.0.0.0", "::", "::ffff:0.0.0.0", "224.0.0.1", "ff02::1", "::a00:1", "::8.8.8.8"),
    *("2002:a9fe:a9fe::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "64:ff9b:1::1"),
]
RESERVED = ["240.0.0.1", "255.255.255.255"]
SHARED = ["100.64.0.1", "192.0.0.1", "198.18.0.1", "2001:db8::1"]


@pytest.mark.parametrize("address", GOOD)
def test_public_addresses_may_be_connected_to(address: str) -> None:
    found = destinations.parse(URL, PUBLIC)
    assert destinations.check(found, [address], PUBLIC) == [str(ipaddress.ip_address(address))]


@pytest.mark.parametrize("address", [*PRIVATE, *LOOPBACK, *NEVER, *RESERVED, *SHARED])
def test_others_may_not_and_one_is_enough(address: str) -> None:
    found = destinations.parse(URL, PUBLIC)
    for addresses in ([address], ["8.8.8.8", address], [address, "8.8.8.8"]):
        with pytest.raises(DestinationError, match="allowed"):
            destinations.check(found, addresses, PUBLIC)


@pytest.mark.parametrize("address", [*PRIVATE, *LOOPBACK])
def test_private_addresses_where_a_setting_allows_them(address: str) -> None:
    assert destinations.check(destinations.parse(URL, TEAMS), [address], TEAMS)


@pytest.mark.parametrize("address", [*NEVER, *RESERVED])
def test_no_setting_allows_metadata_or_multicast(address: str) -> None:
    for policy in (TEAMS, LAPTOP, Policy(private=True, loopback_http=True)):
        with pytest.raises(DestinationError, match="allowed"):
            destinations.check(destinations.parse(URL, policy), [address], policy)


def test_a_host_has_an_address() -> None:
    found = destinations.parse(URL, PUBLIC)
    for addresses in ([], ["hooks.example.com"], [""]):
        with pytest.raises(DestinationError):
            destinations.check(found, addresses, PUBLIC)
