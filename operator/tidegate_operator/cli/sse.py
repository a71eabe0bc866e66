"""What an OpenAI-compatible stream says, line by line. Pure: no socket, no clock."""

import json
from typing import Any, NamedTuple


class Tokens(NamedTuple):
    """What an answer was counted as."""

    prompt: int
    completion: int
    cached: int = 0


class Chunk(NamedTuple):
    """One event. `text`: what was answered; `thought`: reasoning; `error`: it broke, in words."""

    text: str = ""
    thought: str = ""
    tokens: Tokens | None = None
    error: str = ""
    done: bool = False


def chunk(line: str) -> Chunk | None:
    """What one line of the stream says; None for a heartbeat, an empty line and other fields."""
    if not line.startswith("data:"):
        return None
    data = line[5:].strip()
    if data == "[DONE]":
        return Chunk(done=True)
    try:
        body = json.loads(data)
    except ValueError:
        body = None
    if isinstance(body, dict):
        try:
            return read(body)
        except ValueError:
            pass
    return Chunk(error=f"not an event: {data[:100]!r}")


def read(body: dict[str, Any]) -> Chunk:
    """What an event, or an answer in one piece, says. Raises ValueError for what is none."""
    try:
        return _read(body)
    except (AttributeError, TypeError, OverflowError) as error:
        raise ValueError(f"not an answer: {error}") from None


def _read(body: dict[str, Any]) -> Chunk:
    if body.get("error"):
        return Chunk(error=words(body))
    texts, thoughts = [], []
    for choice in body.get("choices") or ():
        said = choice.get("delta") or choice.get("message") or choice
        texts.append(said.get("content") or said.get("text") or "")
        thoughts.append(said.get("reasoning_content") or said.get("reasoning") or "")
    return Chunk("".join(texts), "".join(thoughts), _tokens(body.get("usage")))


def words(body: object) -> str:
    """The message of an error body, with its code."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        message = str(error.get("message") or error)
        code = error.get("code")
        return f"{message} ({code})" if code else message
    return str(error)


def _tokens(usage: object) -> Tokens | None:
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return Tokens(int(prompt or 0), int(completion or 0), int(cached or 0))
