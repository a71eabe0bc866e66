"""How far a starting vLLM is, read from what it prints.

Only lines that vLLM 0.32 writes itself count, on CPU and on GPU, and each is recognised by its
place in the line, so that nothing a model's name or a prompt holds can look like one. A start only
goes forward: vLLM repeats itself (one line per process), and a repeated line changes nothing.

Phases tell people where the time goes. Whether a replica can answer is decided by asking it.
"""

import re
from typing import Final, Literal

Phase = Literal["importing", "loading", "warming", "ready"]

ORDER: Final[tuple[Phase, ...]] = ("importing", "loading", "warming", "ready")

# `(Worker pid=8985) INFO 11-24 05:36:46 [default_loader.py:501] ` before a message of vLLM's own.
_HEAD = r"(?:\([^()]*pid=\d+\) )?(?:INFO|WARNING) \d\d-\d\d [\d:]{8} \[[\w./]+:\d+\] "

_SIGNS: Final[tuple[tuple[Phase, re.Pattern[str]], ...]] = (
    ("loading", re.compile(_HEAD + r"Starting to load model ")),
    ("loading", re.compile(r"(?:\([^()]*pid=\d+\) )?Loading \w+ checkpoint shards: ")),
    ("warming", re.compile(_HEAD + r"Loading weights took [\d.]+ seconds")),
    ("warming", re.compile(_HEAD + r"Model loading took [\d.]+ GiB")),
    ("warming", re.compile(_HEAD + r"[GC]PU KV cache size: ")),
    ("warming", re.compile(_HEAD + r"init engine \(profile, ")),
    ("warming", re.compile(_HEAD + r"Starting vLLM server on ")),
    ("ready", re.compile(r"(?:\([^()]*pid=\d+\) )?INFO: +Application startup complete\.$")),
)

_COLOUR: Final = re.compile(r"\x1b\[[\d;]*m")


def phase_of(line: str) -> Phase | None:
    """The phase this line announces; None if it announces none."""
    plain = _COLOUR.sub("", line).strip()
    return next((phase for phase, sign in _SIGNS if sign.match(plain)), None)


def advance(current: Phase, line: str) -> Phase:
    """The phase after this line: the one it announces, or the current one if that is later."""
    found = phase_of(line)
    return max(current, found, key=ORDER.index) if found else current
