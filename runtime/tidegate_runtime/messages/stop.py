"""Why an answer ended, and what it used, in Anthropic's words: pure."""

from typing import Any, Final

from tidegate_runtime.stream import Counts, MalformedAnswer

UNSIGNED: Final = "unsigned"
"""Thoughts of our engines carry no signature, but clients want a text there."""


def ended(
    finish: str | None, matched: int | str | None, *, called: bool, whole: bool
) -> tuple[str, str | None]:
    """`stop_reason` and `stop_sequence` of an answer that the engine ended with `finish`, on the stop
    text `matched` where that is a text. `called`: it calls tools; `whole`: the last call is complete.

    Raises MalformedAnswer for an answer that did not end."""
    if finish == "length":
        return "max_tokens", None
    if finish == "content_filter":
        return "refusal", None
    if finish not in {"stop", "tool_calls", "function_call"}:
        raise MalformedAnswer(f"the engine ended its answer with {finish!r}")
    if called and (whole or not isinstance(matched, str)):
        return "tool_use", None
    if isinstance(matched, str):
        return "stop_sequence", matched
    return "end_turn", None


def usage(counts: Counts | None) -> dict[str, Any]:
    """An engine's counts. Anthropic counts prompt tokens out of the cache apart from the others."""
    if counts is None:
        counts = Counts()
    cached = counts.cached or 0
    told: dict[str, Any] = {
        "input_tokens": max(0, counts.prompt_tokens - cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": counts.completion_tokens or 0,
    }
    if counts.reasoning:
        told["output_tokens_details"] = {"thinking_tokens": counts.reasoning}
    return told


def message_id(chat_id: str) -> str:
    """A message's id by its chat's."""
    return "msg_" + chat_id.removeprefix("chatcmpl-")
