"""A virtual environment that looks like one with the stock `vllm`, for what asks only where it is."""

import sys
import venv
from pathlib import Path

from tidegate_runtime.engines.vllm.args import ENTRY


def environment(folder: Path, *, version: str = "0.32.0", entry: str = ENTRY) -> Path:
    """Its interpreter. The package fails when it is imported: nothing that only looks may do so."""
    venv.create(folder, with_pip=False, symlinks=True)
    version_of_python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version_of_python / "site-packages"
    package = packages / "vllm"
    module = package.joinpath(*entry.split(".")[1:]).with_suffix(".py")
    module.parent.mkdir(parents=True)
    module.write_text("")
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    metadata = packages / f"vllm-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    return folder / "bin" / "python"
