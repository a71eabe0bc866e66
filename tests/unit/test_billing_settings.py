"""Settings and keys: what stops a process, and what its error says."""

import subprocess
import sys
from pathlib import Path

import pytest

from tidegate_billing import keys, settings
from tidegate_billing.settings import SettingError


@pytest.mark.parametrize(
    ("flags", "environ", "expected"),
    [
        ({}, {}, {}),
        ({}, {"PATH": "/bin", "TIDEGATE_PORT": "1"}, {"PORT": "1"}),
        ({"port": "2"}, {"TIDEGATE_PORT": "1"}, {"PORT": "2"}),
        ({"ops-port": "2", "host": None}, {"TIDEGATE_HOST": "h"}, {"OPS_PORT": "2", "HOST": "h"}),
        ({}, {"TIDEGATE_HOST": ""}, {}),
    ],
)
def test_read(flags: dict[str, str | None], environ: dict[str, str], expected: object) -> None:
    assert settings.read(flags, environ) == expected


@pytest.mark.parametrize("name", ["TIDEGATE_BILLING_PORT", "TIDEGATE_", "TIDEGATE_PORT_FILE"])
def test_an_unknown_name_stops_the_process(name: str) -> None:
    with pytest.raises(SettingError, match=f"^{name} is not a setting"):
        settings.read({}, {name: "tcp://10.0.0.1:80"})


def test_secrets_from_files(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    read = settings.read({}, {"TIDEGATE_ADMIN_TOKEN_FILE": str(file)})
    assert read == {"ADMIN_TOKEN": "s3cret"}
    with pytest.raises(SettingError, match="both set"):
        settings.read({}, {"TIDEGATE_ADMIN_TOKEN_FILE": str(file), "TIDEGATE_ADMIN_TOKEN": "other"})
    with pytest.raises(SettingError, match=r"TIDEGATE_KEY_PEPPER_FILE.*can't be read"):
        settings.read({}, {"TIDEGATE_KEY_PEPPER_FILE": str(tmp_path / "none")})
    file.write_text("\n")
    with pytest.raises(SettingError, match="is empty"):
        settings.read({}, {"TIDEGATE_ADMIN_TOKEN_FILE": str(file)})


@pytest.mark.parametrize("value", ["-1", "65536", "x", "1e3", "٣", "", " 1", "9" * 30])
def test_a_port_out_of_range_is_named(value: str) -> None:
    with pytest.raises(SettingError, match=r"TIDEGATE_PORT=.*allowed: a whole number from 0"):
        settings.port({"PORT": value}, "PORT", 1)


def test_getters() -> None:
    assert settings.port({}, "PORT", 7) == 7
    assert settings.integer({"PORT": "-3"}, "PORT", 0, -5, 5) == -3
    assert settings.choice({}, "DURABILITY", "strict", ["strict", "relaxed"]) == "strict"
    with pytest.raises(SettingError, match=r"TIDEGATE_DURABILITY='no'.*strict \| relaxed"):
        settings.choice({"DURABILITY": "no"}, "DURABILITY", "strict", ["strict", "relaxed"])
    with pytest.raises(SettingError, match="TIDEGATE_ADMIN_TOKEN_FILE"):
        settings.required({}, "ADMIN_TOKEN")


def test_no_error_shows_a_secret() -> None:
    with pytest.raises(SettingError) as caught:
        settings.choice({"API_KEY": "hush"}, "API_KEY", "", ["a"])
    assert "hush" not in str(caught.value)


def test_peppers() -> None:
    assert keys.parse_peppers("abc:def") == {1: b"abc:def"}
    peppers = keys.parse_peppers("1:old,2:new:er")
    assert peppers == {1: b"old", 2: b"new:er"}
    assert keys.current(peppers) == 2


@pytest.mark.parametrize("value", ["", "1:", "1:a,1:b", "1:hush,hush", "0:hush", "1:a,"])
def test_bad_peppers_are_refused_and_not_shown(value: str) -> None:
    with pytest.raises(ValueError, match="pepper") as caught:
        keys.parse_peppers(value)
    assert "hush" not in str(caught.value)


def test_a_key_is_known_again_only_under_its_pepper() -> None:
    key = keys.new_key()
    assert key.startswith("sk-tg-")
    assert len(key) == 38
    assert keys.prefix(key) == key[:12]
    assert keys.digest(b"a", key.encode()) == keys.digest(b"a", key.encode())
    assert keys.digest(b"a", key.encode()) != keys.digest(b"b", key.encode())
    # RFC 4231, test case 2
    assert (
        keys.digest(b"Jefe", b"what do ya want for nothing?").hex().startswith("5bdcc146bf60754e")
    )


def test_the_cores_import_without_a_database() -> None:
    cores = "keys, links, money, price, reconcile, settings, snapshot, usage, entry, receipt"
    cores += ", line_items, tenant_page, tenant_query"
    code = (
        f"from tidegate_billing import {cores}\n"
        "from tidegate_billing.rates import book, contract, lines, pipeline, select\n"
        "import sys; print('sqlalchemy' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-Ic", code], capture_output=True, check=True, text=True)
    assert ran.stdout == "False\n"
