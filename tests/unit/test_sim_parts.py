"""The sim engine's pure parts: flags, faults, request bodies, event bytes, generation over time."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_runtime.engines.sim import Options, fault, main, options, truth
from tidegate_runtime.engines.sim.answer import BROKEN, COMPLETED, RUNNING, Answer
from tidegate_runtime.engines.sim.embed import encoded, vector
from tidegate_runtime.engines.sim.fault import Fault
from tidegate_runtime.engines.sim.prefix import PrefixCache
from tidegate_runtime.engines.sim.render import Script
from tidegate_runtime.engines.sim.request import Ask, RefusedError, Task, read
from tidegate_runtime.engines.sim.settings import guard_secret

ALL_FLAGS = (
    "--host 127.0.0.1 --port 9 --model a/b --alias c --alias d/e --start-seconds 1.5 --ttft-ms 3 --tokens-per-second 0 "
    "--fail crash@5 --fail slow --seed 7 --truth /x --shutdown-timeout 4"
)


def test_all_flags() -> None:
    assert options(ALL_FLAGS.split()) == Options(
        host="127.0.0.1",
        port=9,
        model="a/b",
        aliases=("c", "d/e"),
        start_seconds=1.5,
        ttft_ms=3,
        tokens_per_second=0,
        fail=(Fault("crash", 5), Fault("slow")),
        seed=7,
        truth="/x",
        shutdown_timeout=4,
    )
    assert options([]) == Options()


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ("--port 70000", "--port"),
        ("--port x", "--port"),
        ("--port", "--port"),
        ("--ttft-ms -1", "--ttft-ms"),
        ("--ttft-ms nan", "--ttft-ms"),
        ("--tokens-per-second inf", "--tokens-per-second"),
        ("--start-seconds soon", "--start-seconds"),
        ("--shutdown-timeout -2", "--shutdown-timeout"),
        ("--seed 1.5", "--seed"),
        ("--fail explode", "--fail"),
        ("--fail crash@x", "--fail"),
        ("--fail http500@0", "--fail"),
        ("--fail die-at-start@1", "--fail"),
        ("--model=", "--model"),
        ("--alias=", "--alias"),
        ("--mod x", "--mod"),
        ("--gpu-memory 1", "--gpu-memory"),
        ("-h", "-h"),
        ("stray", "stray"),
    ],
)
def test_bad_flags_are_named(args: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        options(args.split())


def test_bad_use_exits_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ENGINE_GUARD_SECRET", raising=False)
    assert main(["--port", "-1", "--no-guard"]) == 2
    assert "--port" in capsys.readouterr().err
    assert main(["--host", "0.0.0.0"]) == 2
    assert "ENGINE_GUARD_SECRET" in capsys.readouterr().err
    assert main(["--help"]) == 0
    assert "--tokens-per-second" in capsys.readouterr().out


@pytest.mark.parametrize("no_guard", [False, True])
def test_without_a_secret_it_serves_loopback_only(no_guard: bool) -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        assert guard_secret(Options(host=host, no_guard=no_guard), "") == b""
    for host in ("127.0.0.1", "0.0.0.0"):
        assert guard_secret(Options(host=host, no_guard=no_guard), "s") == b"s"
    for host in ("0.0.0.0", "::", "10.0.0.1", "some.name"):
        with pytest.raises(ValueError, match=r"ENGINE_GUARD_SECRET.*loopback"):
            guard_secret(Options(host=host, no_guard=no_guard), "")


def test_faults_by_request_and_by_token() -> None:
    faults = tuple(map(fault.parse, ["http500@2", "slow", "crash@9", "hang@4"]))
    assert fault.struck(faults, 1) == {"slow"}
    assert fault.struck(faults, 2) == {"slow", "http500"}
    assert fault.breaking(faults) == Fault("hang", 4)
    assert fault.breaking([Fault("malformed"), Fault("crash", 0)]) == Fault("malformed")
    assert fault.breaking([Fault("slow")]) is None
    assert [str(item) for item in faults] == ["http500@2", "slow", "crash@9", "hang@4"]


def ask(task: Task, **body: Any) -> Ask:
    return read(task, json.dumps(body).encode(), ("m", "alias"))


def test_prompt_tokens_are_words() -> None:
    parts = [{"type": "text", "text": "c d"}, {"type": "image_url", "image_url": {"url": "x"}}]
    messages = [
        {"role": "system", "content": " a\tb "},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None},
    ]
    found = ask("chat", model="m", messages=messages, temperature=0.1, tools=[])
    assert (found.prompt_tokens, found.choices, found.max_tokens) == (4, 1, 16)
    both = ask("chat", messages=messages, max_tokens=3, max_completion_tokens=5, n=2)
    assert (both.max_tokens, both.choices) == (5, 2)


@pytest.mark.parametrize(
    ("prompt", "words", "choices"),
    [("a b", 2, 1), (["a b", "c"], 3, 2), ([1, 2, 3], 3, 1), ([[1, 2], [3]], 3, 2), ("", 0, 1)],
)
def test_prompts_of_all_forms(prompt: object, words: int, choices: int) -> None:
    found = ask("completion", model="m", prompt=prompt)
    assert (found.prompt_tokens, found.choices) == (words, choices)
    embedding = ask("embedding", model="m", input=prompt)
    assert (embedding.prompt_tokens, len(embedding.prompts)) == (words, choices)


@pytest.mark.parametrize(
    ("task", "body"),
    [
        ("chat", {"messages": [{"role": "user"}]}),
        ("completion", {"prompt": ""}),
        ("embedding", {"input": ""}),
        ("rerank", {"query": "a", "documents": "b"}),
        ("score", {"text_1": "a", "text_2": "b"}),
        ("classify", {"input": "a"}),
    ],
)
def test_an_answer_carries_the_name_it_was_asked_by(task: Task, body: dict[str, Any]) -> None:
    assert [ask(task, model=name, **body).model for name in ("m", "alias")] == ["m", "alias"]
    assert ask(task, **body).model == "m"
    with pytest.raises(RefusedError) as caught:
        ask(task, model="alia", **body)
    assert (caught.value.status, caught.value.param) == (404, "model")


@pytest.mark.parametrize(
    ("task", "body", "words"),
    [
        ("rerank", {"query": "a b", "documents": ["c", "d e f"]}, 6),
        ("rerank", {"query": "a b", "documents": "c"}, 3),
        ("score", {"text_1": "a b", "text_2": ["c", "d"]}, 4),
        ("score", {"queries": ["a b", "c"], "documents": ["d", "e f"]}, 6),
        ("score", {"queries": "a", "items": "b"}, 2),
        ("score", {"data_1": "a", "data_2": ["b"]}, 2),
        ("classify", {"input": ["a b", "c"]}, 3),
        ("classify", {"input": [[1, 2], [3]]}, 3),
    ],
)
def test_a_query_counts_once_however_many_documents(
    task: Task, body: dict[str, Any], words: int
) -> None:
    found = ask(task, **body)
    assert (found.prompt_tokens, found.max_tokens, found.generates) == (words, 0, False)
    counts, scales = {True: 1, False: 0}, (1, 2)
    for scale in scales:
        for told, times in counts.items():
            script = Script(found, "n", "m", 1, 0, told, scale)
            usage = json.loads(script.whole(0)).get("usage", {})
            assert usage.get("prompt_tokens", 0) == times * scale * words


def test_scores_are_the_cosines_of_the_sims_own_embeddings() -> None:
    texts = ["a", "b c", "a"]
    one, *others = (vector(tuple(text.split()), 5) for text in texts)
    cosines = [sum(map(float.__mul__, one, other)) for other in others]
    scored = json.loads(
        Script(ask("score", text_1="a", text_2=texts[1:]), "n", "m", 1, 0, True, 1).whole(5)
    )
    assert [row["score"] for row in scored["data"]] == pytest.approx(cosines, abs=1e-6)
    ranked = json.loads(
        Script(ask("rerank", query="a", documents=texts[1:]), "n", "m", 1, 0, True, 1).whole(5)
    )
    assert [row["index"] for row in ranked["results"]] == [1, 0]
    assert ranked["results"][0]["document"]["text"] == "a"
    best = ask("rerank", query="a", documents=texts[1:], top_n=1)
    assert len(json.loads(Script(best, "n", "m", 1, 0, True, 1).whole(5))["results"]) == 1


def test_classes_are_shares_with_the_label_of_the_greatest() -> None:
    said = json.loads(Script(ask("classify", input=["a", "b c"]), "n", "m", 1, 0, True, 1).whole(5))
    assert (said["id"], said["object"]) == ("classify-n", "list")
    for row in said["data"]:
        assert sum(row["probs"]) == pytest.approx(1)
        assert row["label"] == f"LABEL_{row['probs'].index(max(row['probs']))}"


HI = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("task", "body", "status"),
    [
        ("chat", b"{", 400),
        ("chat", b"\xff", 400),
        ("chat", b"[" * 100_000, 400),
        ("chat", b"[]", 400),
        ("chat", json.dumps({"model": "m", "messages": "hi"}).encode(), 400),
        ("chat", json.dumps({"model": "m", "messages": []}).encode(), 400),
        ("chat", json.dumps({"model": "other", "messages": HI}).encode(), 404),
        ("chat", json.dumps({"messages": HI, "max_tokens": 0}).encode(), 400),
        ("chat", json.dumps({"messages": HI, "max_tokens": "9"}).encode(), 400),
        ("chat", json.dumps({"messages": HI, "max_tokens": 10**9}).encode(), 400),
        ("chat", json.dumps({"messages": HI, "n": 0}).encode(), 400),
        ("chat", json.dumps({"messages": HI, "stream_options": {}}).encode(), 400),
        ("completion", b"{}", 400),
        ("completion", json.dumps({"prompt": ["a", 1]}).encode(), 400),
        ("completion", json.dumps({"prompt": []}).encode(), 400),
        ("embedding", json.dumps({"input": "a", "encoding_format": "hex"}).encode(), 400),
        ("embedding", json.dumps({"input": "a", "dimensions": 7}).encode(), 400),
        ("rerank", json.dumps({"query": "a", "documents": []}).encode(), 400),
        ("rerank", json.dumps({"query": ["a"], "documents": ["b"]}).encode(), 400),
        ("rerank", json.dumps({"query": "a", "documents": "b", "top_n": -1}).encode(), 400),
        ("score", json.dumps({"text_1": "a"}).encode(), 400),
        ("score", json.dumps({"text_1": [], "text_2": "b"}).encode(), 400),
        ("score", json.dumps({"text_1": ["a", "b"], "text_2": "c"}).encode(), 400),
        ("classify", json.dumps({"input": []}).encode(), 400),
    ],
)
def test_bad_bodies_are_refused(task: Task, body: bytes, status: int) -> None:
    with pytest.raises(RefusedError) as caught:
        read(task, body, ("m", "alias"))
    assert caught.value.status == status


def script(request: Ask, *, counts: bool = True, scale: int = 1) -> Script:
    return Script(request, "id", 'we"ird%d', 1, 0, counts=counts, scale=scale)


def events(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(part.removeprefix(b"data: ")) for part in data.split(b"\n\n") if part]


@given(n=st.integers(1, 4), length=st.integers(1, 9), cut=st.integers(0, 36), task=st.booleans())
def test_events_say_every_token_once(n: int, length: int, cut: int, task: bool) -> None:
    request = Ask("chat" if task else "completion", (("a", "b"),), n, length, True, True, True)
    said = script(request)
    cut = min(cut, n * length)
    found = events(said.events(0, cut) + said.events(cut, n * length))
    for choice in range(n):
        mine = [event for event in found if event["choices"][0]["index"] == choice]
        assert [event["usage"]["completion_tokens"] for event in mine] == [*range(1, length + 1)]
        assert all(event["usage"]["prompt_tokens"] == 2 for event in mine)
        texts = [
            e["choices"][0]["delta"]["content"] if task else e["choices"][0]["text"] for e in mine
        ]
        assert texts == [f" t{k}" for k in range(length)]
        reasons = [event["choices"][0]["finish_reason"] for event in mine]
        assert reasons == [None] * (length - 1) + ["length"]


def test_usage_only_where_asked_and_as_the_fault_says() -> None:
    plain = Ask("chat", (("a",),), 1, 2, True)
    assert all("usage" not in event for event in events(script(plain).events(0, 2)))
    assert script(plain).closing() == b"data: [DONE]\n\n"
    wanted = plain._replace(include_usage=True)
    assert all("usage" not in event for event in events(script(wanted).events(0, 2)))
    assert b'"completion_tokens":2' in script(wanted).closing()
    assert b"usage" not in script(wanted, counts=False).closing()
    doubled = script(wanted._replace(continuous=True), scale=2)
    assert events(doubled.events(1, 2))[0]["usage"] == {
        "prompt_tokens": 2,
        "total_tokens": 6,
        "completion_tokens": 4,
    }


def answer(*, n: int = 1, length: int = 10, gap: float = 0.1, stream: bool = True) -> Answer:
    request = Ask("chat", (("a",),), n, length, stream)
    return Answer(request, script(request), b"", first=1.0, gap=gap)


def test_generation_follows_the_clock_and_catches_up() -> None:
    it = answer(n=2)
    assert it.step(1.0, paused=False) == RUNNING
    assert (it.made, it.sent) == (2, 2)
    assert it.due == pytest.approx(1.1)
    it.step(1.31, paused=False)
    assert it.made == 8
    assert it.step(9.0, paused=False) == COMPLETED
    assert (it.made, it.sent) == (20, 20)


def test_a_client_that_does_not_read_slows_nothing_down() -> None:
    it = answer()
    it.step(1.0, paused=False)
    it.step(1.5, paused=True)
    assert (it.made, it.sent) == (6, 1)
    it.step(9.0, paused=True)
    assert (it.made, it.sent, it.generating, it.again(paused=True)) == (10, 1, False, False)
    assert it.step(9.1, paused=False) == COMPLETED


@given(st.floats(0.0001, 10), st.integers(1, 50))
def test_every_due_step_makes_a_token(gap: float, length: int) -> None:
    it = answer(length=length, gap=gap)
    for made in range(1, length + 1):
        it.step(it.due, paused=False)
        assert it.made >= made


@pytest.mark.parametrize("kind", ["crash", "hang", "malformed"])
@pytest.mark.parametrize("at", [0, 3, 10])
def test_a_fault_strikes_after_its_token(kind: str, at: int) -> None:
    it = answer()
    it.break_at(Fault(kind, at))
    states = [it.step(1.0 + 0.1 * k, paused=False) for k in range(at)]
    assert states == [RUNNING] * at
    assert it.step(5.0, paused=False) == BROKEN
    assert (it.made, it.sent) == (at, at)
    it.break_at(None)
    it.resume(50.0)
    it.step(50.0, paused=False)
    assert it.made == min(10, at + 1)


def test_prefix_cache_counts_whole_blocks_of_the_same_salt() -> None:
    cache = PrefixCache(capacity=8)
    words = tuple(map(str, range(40)))
    assert cache.lookup(words, "a") == 0
    assert cache.lookup(words, "a") == 32
    assert cache.lookup(words, "b") == 0
    assert cache.lookup((*words[:16], *words[:24]), "a") == 16
    assert cache.lookup(words[:32], "a") == 16, "the last token is always computed"
    for n in range(9):
        cache.lookup((str(n),) * 16, "c")
    assert cache.lookup(words, "a") == 0, "the oldest left"


def test_vectors_are_unit_and_deterministic() -> None:
    assert vector(("a", "b"), 1) == vector(("a", "b"), 1)
    assert vector(("a", "b"), 1) != vector(("a", "b"), 2)
    assert math.isclose(sum(x * x for x in vector(("a",), 0)), 1, rel_tol=1e-5)
    assert len(encoded(vector((), 0))) == 172


def test_truth_mends_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(b'{"attempt_id":"torn')
    line = truth.line_format('a%"', 3) % (2, 1, truth.ABORTED)
    truth.Truth(str(path)).write([line])
    assert json.loads(path.read_text().splitlines()[1]) == {
        "attempt_id": 'a%"',
        "prompt_tokens": 3,
        "generated_tokens": 2,
        "sent_tokens": 1,
        "outcome": "aborted",
    }
