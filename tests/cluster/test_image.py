"""What the shipped image is, looked at in a part that runs: not what its Dockerfile says."""

import json
from typing import Any

import pytest
from harness.installed import SYSTEM, Platform

LOOK = """
import importlib.util, json, os, sys
from pathlib import Path
import tidegate_billing, tidegate_operator, tidegate_runtime
root = Path(importlib.util.find_spec("httptools").origin).parents[1]
sources = [p for p in root.rglob("*.py") if "__pycache__" not in p.parts]
bare = [str(p) for p in sources if not Path(importlib.util.cache_from_source(str(p))).exists()]
sbom = json.loads(Path("/opt/tidegate/sbom.json").read_text())
try:
    Path("/opt/tidegate/touched").write_text("")
    writable = True
except OSError:
    writable = False
print(json.dumps({
    "uid": os.getuid(),
    "first": Path("/proc/1/cmdline").read_bytes().decode().split("\\0"),
    "sources": len(sources), "bare": bare,
    "components": {one["purl"].partition("@")[0]: one["version"] for one in sbom["components"]
                   if "purl" in one},
    "python": os.path.realpath(sys.executable),
    "writable": writable,
}))
"""


@pytest.fixture(scope="module", params=["operator", "billing"])
def seen(tidegate: Platform, request: pytest.FixtureRequest) -> dict[str, Any]:
    """The image as one of the parts sees it."""
    words = ("-n", SYSTEM, "exec", f"deploy/tidegate-{request.param}", "--")
    python = "/opt/tidegate/bin/python"
    found: dict[str, Any] = json.loads(tidegate.kubectl(*words, python, "-c", LOOK))
    return found


def test_it_runs_as_nobody_and_without_a_shell(seen: dict[str, Any]) -> None:
    assert seen["uid"] == 65532
    program, *words = seen["first"]
    assert program == "/opt/tidegate/bin/python"
    assert words[0] == "-Im"
    assert words[1].startswith("tidegate_")
    assert not seen["writable"]


def test_everything_is_byte_compiled(seen: dict[str, Any]) -> None:
    assert seen["sources"] > 500
    assert seen["bare"] == []


def test_its_python_is_debians(seen: dict[str, Any]) -> None:
    """Which Debian builds with profile-guided optimization; a binary does not tell that of itself."""
    assert seen["python"].startswith("/usr/bin/python3")


def test_its_bill_of_materials_names_both_kinds_of_packages(seen: dict[str, Any]) -> None:
    components = seen["components"]
    assert {"pkg:pypi/httptools", "pkg:pypi/kopf", "pkg:pypi/sqlmodel"} <= components.keys()
    assert "pkg:deb/debian/python3" in components
    assert all(components.values())
