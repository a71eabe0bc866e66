"""What a resource may pass to vLLM, over every option that vLLM 0.32 has."""

import pytest

from tidegate_runtime.contract.engine_args import denied, denied_env
from vllm_options import ALLOWED, REFUSED, SHORT


@pytest.mark.parametrize("name", ALLOWED)
def test_tuning_is_allowed(name: str) -> None:
    assert denied([f"--{name}"]) == []
    assert denied([f"--{name.replace('-', '_')}"]) == []


@pytest.mark.parametrize("name", REFUSED)
def test_what_opens_a_door_is_refused_in_every_spelling(name: str) -> None:
    for spelling in (
        f"--{name}",
        f"--{name.replace('-', '_')}",
        f"--{name}=x",
        f"--{name.replace('-', '_', 1)}=x",
        f"--{name}.key=x",
        f"--{name}.key.other+",
    ):
        found = denied(["--seed", "1", spelling])
        assert [denial.argument for denial in found] == [spelling]
        assert found[0].reason


@pytest.mark.parametrize("name", REFUSED)
def test_an_unfinished_name_is_refused(name: str) -> None:
    """argparse takes the beginning of an option for the option, if only one begins so."""
    for end in range(1, len(name)):
        begun = name[:end]
        meant = [option for option in REFUSED + ALLOWED if option.startswith(begun)]
        if begun not in ALLOWED and len(meant) == 1:
            assert denied([f"--{begun}"]), begun
            assert denied([f"--{begun}=x"]), begun


@pytest.mark.parametrize("option", [*SHORT, "-tp2", "-n2", "-O3", "-", "--", "-cc.mode=none"])
def test_short_forms_are_refused(option: str) -> None:
    assert denied([option])


@pytest.mark.parametrize(
    "args",
    [
        ["smuggled-name"],  # would be one more --served-model-name
        ["--Trust-Remote-Code"],
        ["--trust remote code"],
        ["--hf-overrides.trust_remote_code", "true"],
        ["--hf-overrides", '{"trust_remote_code": true}'],
        ["--mm-processor-kwargs", '{"trust\\u005fremote_code": true}'],
        ["--hf-overrides", '{"auto_map": {"AutoConfig": "x.Y"}}'],
        ["--seed", "--middleware", "x.Y"],
        ["--seed=1", "--middleware=x.Y"],
        ["--generation-config", "/etc"],
        ["--generation-config=/etc"],
        ["--generation-conf", "/etc"],
        ["--distributed-executor-backend", "some.module.Class"],
        ["--prefix-caching-hash-algo", "xxhash"],
        ["--kv-offloading-backend", "lmcache"],
        ["--spec-method", "draft_model"],
        ["--convert", "classify"],
        ["--conv=classify"],
        ["--pooler-config", '{"task": "token_embed"}'],
        ['--pooler-config={"\\u0074ask": "token_embed"}'],
        ["--pooler-config.task", "token_embed"],
        ["--pooler_conf.task=token_embed"],
        ["--no-enable-prompt-tokens-details"],
        ["--disable-log-stats"],
        ["--a-plugin-of-tomorrow-plugin", "x"],
        ["--some-new-path", "/etc"],
    ],
)
def test_refused(args: list[str]) -> None:
    assert denied(args)


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--max-model-len", "2048"],
        ["--max-model-len", "-1"],
        ["--tensor_parallel_size=2", "--seed", "1"],
        ["--generation-config", "vllm"],
        ["--override-generation-config.temperature", "0.5"],
        ["--hf-overrides", '{"rope_scaling": {"type": "yarn", "factor": 2.0}}'],
        ["--spec-method=ngram", "--spec-tokens", "3"],
        ["--pooler-config.pooling_type", "CLS"],
        ["--pooler-config", '{"pooling_type": "CLS"}'],
    ],
)
def test_allowed(args: list[str]) -> None:
    assert denied(args) == []


def test_every_refusal_is_named() -> None:
    found = denied(["--host", "0.0.0.0", "--seed", "1", "--api-key", "x"])
    assert [denial.argument for denial in found] == ["--host", "--api-key"]


def test_variables() -> None:
    allowed = ["VLLM_CPU_KVCACHE_SPACE", "OMP_NUM_THREADS", "NCCL_DEBUG", "TORCHDYNAMO_DISABLE"]
    refused = [
        "VLLM_API_KEY",
        "VLLM_SERVER_DEV_MODE",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
        "VLLM_PLUGINS",
        "VLLM_USE_RUST_FRONTEND",
        "VLLM_NCCL_SO_PATH",
        "VLLM_CACHE_ROOT",
        "NCCL_NET_PLUGIN",
        "CUDA_VISIBLE_DEVICES",
        "ENGINE_GUARD_SECRET",
        "TIDEGATE_API_KEY",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "LD_PRELOAD",
        "HTTPS_PROXY",
        "https_proxy",
        "HF_TOKEN",
        "PATH",
        "ANYTHING_ELSE",
        "",
    ]
    assert denied_env(allowed) == []
    assert [denial.argument for denial in denied_env(refused)] == refused
