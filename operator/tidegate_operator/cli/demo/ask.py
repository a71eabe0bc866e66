"""One question to a model, as any client of OpenAI's would ask it: the stock SDK, no retries."""

import time
from collections.abc import Callable
from typing import NamedTuple

import httpx2  # openai's own, whose errors reach its callers while a stream is read
import openai

from tidegate_operator.cli.failure import CommandError

WAIT_SECONDS = 900.0
"""A first real start may install the engine and convert the model before it answers."""
MAX_TOKENS = {"sim": 16, "vllm": 48}


class Answer(NamedTuple):
    """What came back. `first` and `took` are seconds from the request on."""

    text: str
    first: float
    took: float


class Asker:
    """A client of the gateway with one key."""

    def __init__(self, base_url: str, key: str, engine: str) -> None:
        self._limit = MAX_TOKENS[engine]
        # No proxy of the environment: the gateway is on this machine.
        http = openai.DefaultHttpxClient(trust_env=False)
        url = base_url.rstrip("/")
        self._openai = openai.OpenAI(
            api_key=key,
            base_url=url if url.endswith("/v1") else f"{url}/v1",
            max_retries=0,
            timeout=httpx2.Timeout(WAIT_SECONDS, connect=10),
            http_client=http,
        )

    def close(self) -> None:
        """Give back the connections."""
        self._openai.close()

    def stream(self, model: str, question: str, token: Callable[[str], None]) -> Answer:
        """Ask with `stream=True`; each piece goes to `token` as it comes. Raises CommandError."""
        began = time.monotonic()
        first = 0.0
        parts: list[str] = []
        try:
            with self._openai.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": question}],
                max_tokens=self._limit,
                temperature=0,
                stream=True,
            ) as chunks:
                for chunk in chunks:
                    piece = chunk.choices[0].delta.content if chunk.choices else None
                    if piece:
                        first = first or time.monotonic() - began
                        parts.append(piece)
                        token(piece)
        except (openai.OpenAIError, httpx2.HTTPError) as error:
            raise CommandError(f"{model} did not answer: {error}") from None
        if not parts:
            raise CommandError(f"{model} answered without a word")
        return Answer("".join(parts), first, time.monotonic() - began)

    def whole(self, model: str, question: str) -> Answer:
        """Ask for the answer in one piece. Raises CommandError."""
        began = time.monotonic()
        try:
            answer = self._openai.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": question}],
                max_tokens=self._limit,
                temperature=0,
            )
        except openai.OpenAIError as error:
            raise CommandError(f"{model} did not answer: {error}") from None
        took = time.monotonic() - began
        return Answer(answer.choices[0].message.content or "", took, took)
