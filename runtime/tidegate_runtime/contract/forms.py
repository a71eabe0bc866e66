"""The patterns of our schemas in words, with an example: few people read a regular expression."""

from collections.abc import Mapping
from typing import Final

_TEXT: Final = "letters, digits and"

FORMS: Final[Mapping[str, str]] = {
    r"^(hf|s3|pvc|oci|file|pkg|sim)://[^\s\v]+$": (
        "a source starts with hf:// s3:// pvc:// oci:// file:// pkg:// or sim://"
    ),
    r"^(0|[1-9][0-9]{0,8})(\.[0-9]{1,12})?$": "a plain decimal such as '0.10'",
    r"^[1-9][0-9]*(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$": "a size such as 10Gi",
    r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$": "a quantity such as 500m or 2Gi",
    r"^[A-Z]{3}$": "a currency such as USD",
    r"^[-._a-zA-Z0-9]+$": f"{_TEXT} - . _",
    r"^[A-Za-z0-9]([A-Za-z0-9._:/@-]*[A-Za-z0-9])?$": (
        f"{_TEXT} . _ : / @ - between them, such as team/model-1"
    ),
    r"^[A-Za-z0-9][A-Za-z0-9._-]*$": f"{_TEXT} . _ - after the first, such as team-a",
    r"^[A-Za-z_][A-Za-z0-9_]*$": "a variable's name such as OMP_NUM_THREADS",
    r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[1-9][0-9]?)?$": "a profile, or one with a count: a10:2",
    r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$": (
        "small letters, digits, - and . between them, such as my-model"
    ),
    r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$": "small letters, digits and - between them, such as team-a",
}
"""What a text of each pattern is."""


def meaning(pattern: str) -> str:
    """What a text must be to match, in parentheses; empty where nobody has said."""
    words = FORMS.get(pattern)
    return f" ({words})" if words else ""
