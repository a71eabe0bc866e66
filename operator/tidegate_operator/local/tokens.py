"""What stands in for a Secret on one machine: a variable of `up`'s own environment, or a file.

`spec.model.secretRef: {name: team-a}` is read from HF_TOKEN_TEAM_A, from the file that
HF_TOKEN_TEAM_A_FILE names, or, where neither is set, from HF_TOKEN or the file of HF_TOKEN_FILE.
Without a `secretRef` no token is shown to anybody, as in a cluster.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from tidegate_runtime.contract.spec import SecretRef
from tidegate_runtime.engines.vllm.progress import SourceError

GENERAL = "HF_TOKEN"


def of(secret: SecretRef | None, environ: Mapping[str, str]) -> str:
    """The token of a source's Secret; '' where it names none. Raises SourceError where the Secret
    is named and nothing holds it. No message repeats a token."""
    if secret is None:
        return ""
    for name in _variables(secret.name):
        if value := environ.get(name, "").strip():
            return value
        if path := environ.get(f"{name}_FILE", ""):
            return _read(f"{name}_FILE", path)
    own, *_ = _variables(secret.name)
    raise SourceError(
        f"spec.model.secretRef names {secret.name}: give its token to `tidegate up` as {own} or "
        f"{GENERAL}, or as {own}_FILE or {GENERAL}_FILE, the path of a file that holds it"
    )


def _variables(name: str) -> Iterator[str]:
    """The variables that may hold a Secret, first come first. `hf-token` is HF_TOKEN itself."""
    plain = re.sub(r"[^A-Z0-9]", "_", name.upper())
    if plain != GENERAL:
        yield f"{GENERAL}_{plain}"
    yield GENERAL


def _read(variable: str, path: str) -> str:
    try:
        token = Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise SourceError(f"{variable}={path} cannot be read: {why}") from error
    if not token or len(token.split()) != 1:
        raise SourceError(f"{variable}={path} holds no token: it must be one word")
    return token
