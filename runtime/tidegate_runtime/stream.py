"""The usage scanner: bytes of an SSE answer in, bytes for the client out, counts on the side.

Every stream is asked for `continuous_usage_stats`, so each event carries the counts so far; the
scanner keeps the last ones (so that an abort can be billed) and cuts out what the client did not
ask for. It works on whole events only: a partial one waits for its end, so a cut never depends on
how the network split the bytes. An unescaped `"usage":` cannot occur inside a JSON string (there
it reads `\\"usage\\":`), which is why a byte search is exact.
"""

from typing import Annotated, Final

import msgspec

MAX_EVENT: Final = 4 * 1024 * 1024
_KEY: Final = b'"usage":'
_END: Final = b"\n\n"


Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""What may be a number of tokens: anything else is not a count."""


class _PromptDetails(msgspec.Struct):
    cached_tokens: Count | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: Count | None = None


class Counts(msgspec.Struct):
    """OpenAI's usage object: what the engine counted."""

    prompt_tokens: Count = 0
    completion_tokens: Count | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None

    @property
    def cached(self) -> int | None:
        """Prompt tokens served from cache; None where the engine does not say."""
        return (
            None if self.prompt_tokens_details is None else self.prompt_tokens_details.cached_tokens
        )

    @property
    def reasoning(self) -> int:
        """Completion tokens spent on reasoning (0 where the engine does not say)."""
        details = self.completion_tokens_details
        return 0 if details is None else details.reasoning_tokens or 0


class _Answer(msgspec.Struct):
    usage: Counts | None = None


_COUNTS: Final = msgspec.json.Decoder(Counts)
_ANSWER: Final = msgspec.json.Decoder(_Answer)


class MalformedAnswer(ValueError):
    """The engine's answer is not what its protocol says."""


def usage_of(body: bytes) -> Counts | None:
    """The counts of a plain JSON answer, None where it has none. Raises MalformedAnswer."""
    try:
        return _ANSWER.decode(body).usage
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise MalformedAnswer(f"the engine's answer is not valid JSON: {exc}") from exc


class Scanner:
    """One answer's state. Counts come per choice: with several `choices` (`n`) or `prompts` they are
    summed. Choice `i` answers prompt `i // n`, whose tokens count once however many answers it has.
    """

    __slots__ = (
        "_choices", "_keep_all", "_keep_final", "_partial", "_per_choice", "_per_prompt", "_single",
        "completion", "counts", "done", "error", "final", "prompt",
    )  # fmt: skip

    def __init__(
        self, want_usage: bool, want_continuous: bool, choices: int = 1, prompts: int = 1
    ) -> None:
        self._keep_final = want_usage
        self._keep_all = want_continuous
        self._choices = choices
        self._single = choices == prompts == 1
        self._per_choice: dict[int, int] = {}
        self._per_prompt: dict[int, int] = {}
        self._partial = b""
        self.prompt = 0
        self.completion = 0
        self.counts: Counts | None = None
        self.final = False
        self.done = False
        self.error = False

    def feed(self, data: bytes) -> bytes:
        """Take bytes, give the whole events among them as the client shall see them.

        Raises MalformedAnswer where an event passes MAX_EVENT."""
        if self._partial:
            data = self._partial + data
        end = data.rfind(_END) + 2
        if end == 1:
            self._partial = data
            if len(data) > MAX_EVENT:
                raise MalformedAnswer(f"the engine sent an event of over {MAX_EVENT} bytes")
            return b""
        self._partial = data[end:]
        if self._partial:
            data = data[:end]
        # At a line's start only: inside a JSON string a line break is never raw.
        if b"\ndata: [DONE]" in data or data.startswith(b"data: [DONE]"):
            self.done = True
        if b'\ndata: {"error"' in data or data.startswith(b'data: {"error"'):
            self.error = True
        return self._cut(data)

    def seen(self) -> Counts | None:
        """The last counts the engine told; None where it told none."""
        if self.counts is None and (self.prompt or self.completion):
            return Counts(self.prompt, self.completion)
        return self.counts

    def rest(self) -> bytes:
        """Bytes of an event that never ended."""
        return self._partial

    def _cut(self, data: bytes) -> bytes:
        parts: list[bytes] = []
        pos = 0
        at = data.find(_KEY)
        while at >= 0:
            stop = self._value_end(data, at + len(_KEY))
            start = data.rfind(_END, pos, at) + 2
            if start == 1:
                start = pos
            event_end = data.find(_END, stop) + 2
            if self._note(data[at + len(_KEY) : stop], data[start:at]):
                if not self._keep_final:
                    parts.append(data[pos:start])
                    pos = event_end
            elif not self._keep_all:
                left, right = _with_comma(data, at, stop)
                parts.append(data[pos:left])
                pos = right
            at = data.find(_KEY, max(stop, pos))
        if not pos:
            return data
        parts.append(data[pos:])
        return b"".join(parts)

    def _note(self, value: bytes, before: bytes) -> bool:
        """Keep what a usage value says; True where its event is the final one (no choices)."""
        final = b'"choices":[]' in before
        if value == b"null":
            return False
        try:
            counts = _COUNTS.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        said = counts.completion_tokens or 0
        if final:
            self.final, self.counts = True, counts
        elif not self._single:
            index = _index(before)
            self._per_choice[index] = said
            self._per_prompt[index // self._choices] = counts.prompt_tokens
            self.prompt = sum(self._per_prompt.values())
            self.completion = sum(self._per_choice.values())
            return False
        self.prompt, self.completion = counts.prompt_tokens, said
        return final

    @staticmethod
    def _value_end(data: bytes, at: int) -> int:
        """The end of the JSON value at `at`: `null` or an object without braces in its strings."""
        depth = 0
        if data[at : at + 1] != b"{":
            return min(i for i in (data.find(b",", at), data.find(b"}", at), len(data)) if i >= 0)
        while True:
            close = data.find(b"}", at)
            if close < 0:
                return len(data)
            depth += data.count(b"{", at, close) - 1
            at = close + 1
            if depth == 0:
                return at


def _with_comma(data: bytes, at: int, stop: int) -> tuple[int, int]:
    """The member at `at`..`stop` together with one comma beside it."""
    if data[at - 1 : at] == b",":
        return at - 1, stop
    return (at, stop + 1) if data[stop : stop + 1] == b"," else (at, stop)


def _index(before: bytes) -> int:
    """The choice an event speaks of: the first `"index":` after `"choices":[`."""
    at = before.find(b'"index":', before.find(b'"choices":['))
    digits = before[at + 8 : at + 14].lstrip()
    number = digits.split(b",")[0].split(b"}")[0]
    return int(number) if at >= 0 and number.isdigit() else 0
