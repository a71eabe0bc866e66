"""The scanner gives the same bytes and counts however the network cuts the stream."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_runtime.stream import MalformedAnswer, Scanner, usage_of

HEAD = b'{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":['


def usage(prompt: int, completion: int, details: str = "") -> bytes:
    return b'"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d%b}' % (
        prompt,
        prompt + completion,
        completion,
        details.encode(),
    )


def event(content: str, completion: int, index: int = 0) -> tuple[bytes, bytes]:
    """(as an engine sends it, as a client that asked for nothing shall see it)"""
    choice = b'{"index":%d,"delta":{"content":%b},"finish_reason":null}' % (
        index,
        json.dumps(content).encode(),
    )
    plain = b"data: " + HEAD + choice + b"]}\n\n"
    return plain[:-3] + b"," + usage(7, completion) + b"}\n\n", plain


DETAILS = ',"prompt_tokens_details":{"cached_tokens":3}'
FINAL = b"data: " + HEAD + b"]," + usage(7, 3, DETAILS) + b"}\n\n"
DONE = b"data: [DONE]\n\n"
TRAPS = [
    "a",
    ',"usage":{"completion_tokens":99}',
    '"usage":',
    "\n\ndata: [DONE]",
    '{"usage":null}',
    "é}{",
]
EVENTS = [event(text, n) for n, text in enumerate(TRAPS, 1)]
STREAM = b": comment\n\n" + b"".join(e for e, _ in EVENTS) + FINAL + DONE
QUIET = b": comment\n\n" + b"".join(p for _, p in EVENTS) + DONE


def run(scanner: Scanner, pieces: list[bytes]) -> bytes:
    return b"".join(scanner.feed(p) for p in pieces)


@pytest.mark.parametrize("cut", range(len(STREAM) + 1))
def test_every_split_in_two(cut: int) -> None:
    scanner = Scanner(want_usage=False, want_continuous=False)
    assert run(scanner, [STREAM[:cut], STREAM[cut:]]) == QUIET
    assert (scanner.prompt, scanner.completion, scanner.final, scanner.done) == (7, 3, True, True)
    assert scanner.counts is not None
    assert scanner.counts.cached == 3


@given(st.lists(st.integers(1, 60)))
def test_any_split(sizes: list[int]) -> None:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(STREAM[at : at + size])
        at += size
    pieces.append(STREAM[at:])
    assert run(Scanner(False, False), pieces) == QUIET
    assert run(Scanner(True, True), pieces) == STREAM
    assert run(Scanner(True, False), pieces) == QUIET[: -len(DONE)] + FINAL + DONE


def test_byte_by_byte_counts_never_run_behind_what_was_given() -> None:
    scanner = Scanner(False, False)
    given_out = b""
    for i in range(len(STREAM)):
        given_out += scanner.feed(STREAM[i : i + 1])
        assert given_out.count(b'"finish_reason"') <= max(
            scanner.completion, len(TRAPS) * scanner.final
        )


def test_usage_as_first_member_and_null() -> None:
    scanner = Scanner(False, False)
    out = scanner.feed(b'data: {"usage":null,"choices":[{"index":0}]}\n\n')
    assert out == b'data: {"choices":[{"index":0}]}\n\n'


def test_choices_are_summed() -> None:
    scanner = Scanner(False, False, choices=3)
    for index, completion in [(0, 1), (1, 1), (2, 1), (0, 2), (2, 2), (0, 3)]:
        scanner.feed(event("x", completion, index)[0])
    assert scanner.completion == 3 + 1 + 2


def test_several_prompts_are_summed_once_each() -> None:
    scanner = Scanner(False, False, choices=2, prompts=2)
    for index, prompt, completion in [(0, 3, 1), (1, 3, 1), (2, 5, 1), (3, 5, 2), (0, 3, 4)]:
        whole, _ = event("x", completion, index)
        scanner.feed(whole.replace(b'"prompt_tokens":7', b'"prompt_tokens":%d' % prompt))
    assert (scanner.prompt, scanner.completion) == (3 + 5, 4 + 1 + 1 + 2)


def test_an_event_without_end_is_kept_and_bounded() -> None:
    scanner = Scanner(False, False)
    assert scanner.feed(b"data: {") == b""
    assert scanner.rest() == b"data: {"
    with pytest.raises(MalformedAnswer):
        scanner.feed(b"x" * (5 * 1024 * 1024))


def test_done_and_errors_count_only_as_lines_of_their_own() -> None:
    scanner = Scanner(False, False)
    for text in ("say data: [DONE] now", '\ndata: {"error": 1}'):
        scanner.feed(event(text, 1)[0])
    assert not scanner.done
    assert not scanner.error
    scanner.feed(b'data: {"error": {"code": 500}}\n\ndata: [DONE]\n\n')
    assert scanner.done
    assert scanner.error


@pytest.mark.parametrize("wrong", [b"-5", b"1e99", b"99999999999999999999999", b'"7"', b"1.5"])
def test_what_is_no_count_is_not_counted(wrong: bytes) -> None:
    scanner = Scanner(False, False)
    scanner.feed(event("x", 3)[0])
    scanner.feed(
        event("x", 4)[0].replace(b'"completion_tokens":4', b'"completion_tokens":' + wrong)
    )
    assert scanner.completion == 3
    with pytest.raises(MalformedAnswer):
        usage_of(b'{"usage":{"completion_tokens":%b}}' % wrong)


def test_plain_answer() -> None:
    counts = usage_of(b'{"choices":[],"usage":{"prompt_tokens":2,"completion_tokens":null}}')
    assert counts is not None
    assert (counts.prompt_tokens, counts.completion_tokens, counts.cached) == (2, None, None)
    assert usage_of(b"{}") is None
    with pytest.raises(MalformedAnswer):
        usage_of(b'{"usage":')
