"""`tidegate demo`: the main job, end to end, with its own proof.

A platform is started with its models at zero. A stock OpenAI client asks; the request is held
while the engine starts; tokens stream; the bill is read; the model goes back to zero and is woken
again. Then both sides of the ledger are read and must agree to the token, or the demo fails.
"""

import signal
import sys
from collections.abc import Mapping
from typing import Any

from tidegate_operator.cli import interrupts
from tidegate_operator.cli.demo.play import Play, blank
from tidegate_operator.cli.demo.story import Story, Told
from tidegate_operator.cli.failure import CommandError
from tidegate_operator.cli.tables import print_json


def run(engine: str, wakes: int, *, as_json: bool, cache: str | None) -> int:
    """Play the demo and show its result. 0 only where the numbers close."""
    # A `kill` ends the demo the way Ctrl-C does: with everything it started.
    interrupts.hear(signal.SIGINT, signal.SIGTERM)
    story = Story() if as_json else Told()
    result: Mapping[str, Any]
    status = 1
    try:
        result = Play(engine, wakes, cache, story).run()
        status = 0 if result["ok"] else 1
    except CommandError as error:
        result = blank(engine) | {"error": str(error)}
    except KeyboardInterrupt:
        result = blank(engine) | {"error": "interrupted"}
        status = 130
    if as_json:
        print_json(result)
    elif result["requests"]:
        story.result(result)
    story.done()
    if result["error"]:
        print(f"error: {result['error']}", file=sys.stderr)
    return status
