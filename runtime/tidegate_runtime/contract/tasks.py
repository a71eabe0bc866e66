"""Tasks: what a model does, and which of them an engine can be started for.

Which routes accept a task is the router's: `openai.TASKS`, and `docs/tasks.md` for people.
"""

from typing import Final, Literal, get_args

EngineTask = Literal["generate", "embed", "rerank", "classify", "score"]
SERVED: Final[tuple[EngineTask, ...]] = get_args(EngineTask)
ALLOWED: Final = f"allowed are {', '.join(SERVED[:-1])} and {SERVED[-1]}"


def engine_task(task: str) -> EngineTask | None:
    """The task an engine is started for; None where the resource may say it and no engine does it."""
    return next((one for one in SERVED if one == task), None)
