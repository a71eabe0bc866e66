"""Start phases, read from what a real vLLM 0.32.0 printed (CPU build, one model, a normal start)."""

import pytest

from tidegate_runtime.engines.vllm.phases import ORDER, Phase, advance, phase_of

# (line, phase after it). Other lines between them were left out.
START: list[tuple[str, Phase]] = [
    ("Triton is installed, but doesn't include CPU backend. Disabling Triton.", "importing"),
    ("(APIServer pid=8566) INFO 11-24 05:36:19 [api_utils.py:286] non-default args: {'enable_prompt_tokens_details': True, 'host': '127.0.0.1', 'port': 8123}", "importing"),
    ("(APIServer pid=8566) INFO 11-24 05:36:28 [model.py:733] Resolved architecture: LlamaForCausalLM", "importing"),
    ("(EngineCore pid=8894) INFO 11-24 05:36:37 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='/models/m', speculative_config=None", "importing"),
    ("(Worker pid=8985) INFO 11-24 05:36:45 [cpu_model_runner.py:68] Starting to load model /models/m...", "loading"),
    ("(Worker pid=8985) INFO 11-24 05:36:45 [base_loader.py:82] Initializing model took 0.133039 seconds", "loading"),
    ("Loading safetensors checkpoint shards:   0% Completed | 0/1 [00:00<?, ?it/s]", "loading"),
    ("Loading safetensors checkpoint shards: 100% Completed | 1/1 [00:00<00:00,  1.94it/s]", "loading"),
    ("(Worker pid=8985) INFO 11-24 05:36:46 [default_loader.py:501] Loading weights took 0.52 seconds", "warming"),
    ("(Worker pid=8985) WARNING 11-24 05:36:46 [utils.py:597] Failed to create oneDNN linear, fallback to torch linear.", "warming"),
    ("(Worker pid=8985) INFO 11-24 05:36:47 [cpu_worker.py:260] Explicitly set (1.0/11.71) GiB for KV cache on node 0.", "warming"),
    ("(EngineCore pid=8894) INFO 11-24 05:36:47 [kv_cache_utils.py:2327] CPU KV cache size: 46,592 tokens, Maximum concurrency for 2,048 tokens per request: 22.75x", "warming"),
    ("(EngineCore pid=8894) INFO 11-24 05:36:48 [core.py:402] init engine (profile, create kv cache, warmup model) took 1.86 s", "warming"),
    ("(APIServer pid=8566) INFO 11-24 05:36:50 [entry.py:140] Starting vLLM server on http://127.0.0.1:8123", "warming"),
    ("(APIServer pid=8566) INFO 11-24 05:36:50 [launcher.py:195] Route: /openapi.json, Methods: HEAD, GET", "warming"),
    ("INFO:     Started server process [8566]", "warming"),
    ("INFO:     Waiting for application startup.", "warming"),
    ("INFO:     Application startup complete.", "ready"),
    ('INFO:     127.0.0.1:54230 - "GET /health HTTP/1.1" 200 OK', "ready"),
]  # fmt: skip


def test_a_real_start() -> None:
    phase: Phase = "importing"
    for line, expected in START:
        phase = advance(phase, line)
        assert phase == expected, line


def test_it_never_goes_back() -> None:
    for at, current in enumerate(ORDER):
        for line, _ in START:
            assert ORDER.index(advance(current, line)) >= at


@pytest.mark.parametrize(
    ("line", "phase"),
    [
        ("INFO:     Application startup complete.\n", "ready"),
        ("\x1b[32mINFO\x1b[0m:     Application startup complete.", "ready"),
        ("(APIServer pid=1) INFO:     Application startup complete.", "ready"),
        # vLLM's GPU runner, from its source
        ("(Worker_TP0 pid=9) INFO 11-24 05:36:45 [gpu_model_runner.py:5040] Starting to load model m...", "loading"),
        ("(Worker_TP0 pid=9) INFO 11-24 05:36:45 [gpu_model_runner.py:5150] Model loading took 1.12 GiB memory and 0.5 seconds", "warming"),
        ("(EngineCore pid=8) INFO 11-24 05:36:47 [kv_cache_utils.py:2327] GPU KV cache size: 46,592 tokens, x", "warming"),
    ],
)  # fmt: skip
def test_variants(line: str, phase: Phase) -> None:
    assert phase_of(line) == phase


@pytest.mark.parametrize(
    "line",
    [
        "",
        "a prompt that says INFO:     Application startup complete.",
        "(APIServer pid=1) INFO 11-24 05:36:50 [x.py:1] request: INFO:     Application startup complete.",
        "(APIServer pid=1) INFO 11-24 05:36:50 [x.py:1] model='Starting to load model x'",
        "INFO:     Application startup complete. Not.",
    ],
)
def test_quoted_lines_do_not_count(line: str) -> None:
    assert phase_of(line) is None
