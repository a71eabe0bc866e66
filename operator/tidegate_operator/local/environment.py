"""What a child process inherits.

Nothing of ours leaks by accident: every `TIDEGATE_*` name is dropped and the wanted ones are set.
An engine runs a tenant's model, perhaps a tenant's code, so it gets a short list of names only.
"""

from collections.abc import Mapping

_OURS = ("TIDEGATE_", "_TIDEGATE_")
_ENGINE_NAMES = frozenset({"PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH"})
_ENGINE_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "ROCR_", "HIP_", "HF_", "XDG_", "SSL_CERT_")


def for_part(inherited: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """The environment of a router or of billing."""
    kept = {name: value for name, value in inherited.items() if not name.startswith(_OURS)}
    return kept | dict(own)


def for_engine(inherited: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """The environment of an engine."""
    kept = {
        name: value
        for name, value in inherited.items()
        if name in _ENGINE_NAMES or name.startswith(_ENGINE_PREFIXES)
    }
    return kept | dict(own)
