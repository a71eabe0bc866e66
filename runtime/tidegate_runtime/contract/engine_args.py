"""Which arguments and variables a resource may pass to a real engine.

`spec.engine.args` and `.env` come from a tenant, while the engine runs beside the platform's guard
and meter. An argument is refused if it could open another door into the engine (address, route,
key), run or read what is not the model (code, plugins, files), reach another model or tenant
(adapters, remote caches), or make the bill wrong (usage switched off, another model name).

The list names what to refuse, so that new tuning flags work at once; to keep that safe against
flags which do not exist yet, whole families (`ssl-*`, `*-plugin`, `*-path`) are refused too.

The check cannot be evaded by spelling, because it reads an argument as vLLM's parser does:
`_` equals `-`, `--name=value` and `--name.key=value` are `--name`, `--no-name` is `--name`, and an
unfinished name (`--trust-rem`) counts as every name it could mean. Short forms (`-tp`) have too
many readings (`-n2`), so they are refused altogether. What is quoted here was read from
vLLM 0.32's own parser; the tests hold all its flags.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final, NamedTuple


class Denial(NamedTuple):
    """An argument (as written) or the name of a variable, and why it is refused."""

    argument: str
    reason: str


ADDRESS: Final = "the platform decides where the engine listens and with whom it forms a group"
IDENTITY: Final = "the model, its name and its files come from spec.model"
CODE: Final = "it would run code that is not part of the engine"
FILES: Final = "it would read or write files outside the model"
ACCESS: Final = "it would change who may call the engine, or open more routes"
ADAPTERS: Final = "adapters are declared in spec.adapters"
SHARING: Final = "it would share caches or weights with processes outside the deployment"
METERING: Final = "metering depends on it"
PRIVACY: Final = "prompts could leave the engine or reach its log"
TASK: Final = "spec.model.task decides it"
PARSER: Final = "it is not an option in its long form (--name or --name=value)"

# Patterns of whole names, without the leading dashes; `*` as in file names.
DENIED: Final[Mapping[str, str]] = {
    # where it listens, and process groups that bring ports of their own
    "host": ADDRESS,
    "port": ADDRESS,
    "uds": ADDRESS,
    "root-path": ADDRESS,
    "headless": ADDRESS,
    "api-server-count": ADDRESS,
    "grpc*": ADDRESS,
    "data-parallel-*": ADDRESS,
    "dp-supervisor-*": ADDRESS,
    "enable-elastic-ep": ADDRESS,
    "elastic-ep-*": ADDRESS,
    "enable-fault-tolerance": ADDRESS,
    "fault-tolerance-config": ADDRESS,
    "nnodes": ADDRESS,
    "node-rank": ADDRESS,
    "master-addr": ADDRESS,
    "master-port": ADDRESS,
    "device-ids": ADDRESS,
    "*-host": ADDRESS,
    "*-port": ADDRESS,
    "*-addr": ADDRESS,
    "*-address": ADDRESS,
    "shutdown-timeout": "spec.drain decides how long a replica may drain",
    # what it serves
    "model": IDENTITY,
    "model-tag": IDENTITY,
    "served-model-name": IDENTITY,
    "runner": TASK,
    "convert": TASK,
    "task": TASK,
    "tokenizer": IDENTITY,
    "tokenizer-revision": IDENTITY,
    "revision": IDENTITY,
    "code-revision": IDENTITY,
    "hf-config-path": IDENTITY,
    "hf-token": "credentials belong in spec.model.secretRef",
    "speculative-*": "it would load a second model",
    "spec-model": "it would load a second model",
    # code
    "trust-*": CODE,
    "middleware": CODE,
    "tool-parser-plugin": CODE,
    "reasoning-parser-plugin": CODE,
    "io-processor-plugin": CODE,
    "*-plugin": CODE,
    "worker-cls": CODE,
    "worker-extension-cls": CODE,
    "scheduler-cls": CODE,
    "*-cls": CODE,
    "logits-processors": CODE,
    "model-class-overrides": CODE,
    "model-loader-extra-config": CODE,
    "compilation-config": CODE,
    "additional-config": CODE,
    "structured-outputs-config": CODE,  # holds a plugin's path among harmless keys
    "tool-server": CODE,
    "enable-prompt-embeds": "it would unpickle tensors that callers send",
    "enable-mm-embeds": "it would unpickle tensors that callers send",
    # files
    "config": FILES,
    "chat-template": FILES,
    "download-dir": FILES,
    "allowed-local-media-path": FILES,
    "mm-encoder-fp8-scale-path": FILES,
    "mm-encoder-fp8-scale-save-path": FILES,
    "log-config-file": FILES,
    "*-path": FILES,
    "*-file": FILES,
    "*-dir": FILES,
    # who may call, and routes
    "api-key": ACCESS,
    "ssl-*": ACCESS,
    "enable-ssl-refresh": ACCESS,
    "allowed-origins": ACCESS,
    "allowed-methods": ACCESS,
    "allowed-headers": ACCESS,
    "allow-credentials": ACCESS,
    "enable-scale-out": ACCESS,
    "enable-sleep-mode": ACCESS,
    "enable-tokenizer-info-endpoint": ACCESS,
    "enable-trace-replay": ACCESS,
    "tokens-only": ACCESS,
    # adapters
    "enable-lora": ADAPTERS,
    "lora-modules": ADAPTERS,
    "default-mm-loras": ADAPTERS,
    # caches and weights of others
    "kv-transfer-*": SHARING,
    "kv-events-*": SHARING,
    "ec-transfer-*": SHARING,
    "ec-manager-*": SHARING,
    "weight-transfer-*": SHARING,
    "engram-config": SHARING,
    # the bill
    "disable-log-stats": METERING,
    "enable-prompt-tokens-details": METERING,
    "enable-force-include-usage": METERING,
    "sse-keep-alive-interval": "the router sends the heartbeats",
    # prompts
    "enable-log-*": PRIVACY,
    "log-level": PRIVACY,
    "logging-config": PRIVACY,
    "uvicorn-log-level": PRIVACY,
    "otlp-*": PRIVACY,
    "collect-detailed-traces": PRIVACY,
    "profiler-*": PRIVACY,
    "ray-*": CODE,
    "*-endpoint": PRIVACY,
    "*-url": PRIVACY,
    "*-uri": PRIVACY,
}

# Options that are safe with these values only.
LIMITED: Final[Mapping[str, tuple[frozenset[str], str]]] = {
    "distributed-executor-backend": (frozenset({"mp", "uni"}), CODE),
    "generation-config": (frozenset({"auto", "vllm"}), FILES),
    "kv-offloading-backend": (frozenset({"native"}), SHARING),
    "prefix-caching-hash-algo": (
        frozenset({"sha256", "sha256_cbor"}),
        "with a weaker hash one tenant's prompt can be made to hit another's cache",
    ),
    "spec-method": (frozenset({"ngram", "ngram_gpu"}), "it would load a second model"),
}

# Variables go by an allow list, since any library may read any name; DENIED_ENV takes some back.
ALLOWED_ENV: Final = (
    "VLLM_*",
    "OMP_*",
    "GOMP_*",
    "KMP_*",
    "MKL_*",
    "ONEDNN_*",
    "NCCL_*",
    "CUDA_*",
    "PYTORCH_*",
    "TORCHDYNAMO_*",
    "TOKENIZERS_*",
    "RAYON_*",
    "LANG",
    "LC_*",
    "TZ",
)
UNKNOWN_ENV: Final = "only variables that tune the engine may be set: " + " ".join(ALLOWED_ENV)

DENIED_ENV: Final[Mapping[str, str]] = {
    "VLLM_API_KEY": ACCESS,
    "VLLM_SERVER_DEV_MODE": ACCESS,
    "VLLM_MEDIA_URL_ALLOW_REDIRECTS": ACCESS,
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": ADAPTERS,
    "VLLM_LORA_RESOLVER_*": ADAPTERS,
    "VLLM_ENABLE_RESPONSES_API_STORE": "stored answers know no tenant",
    "VLLM_SKIP_MODEL_NAME_VALIDATION": IDENTITY,
    "VLLM_MODEL_REDIRECT_PATH": IDENTITY,
    "VLLM_USE_MODELSCOPE": IDENTITY,
    "VLLM_USE_RUST_*": "the guard is Python middleware, which the Rust frontend does not load",
    "VLLM_RUST_*": CODE,
    "VLLM_PLUGINS": CODE,
    "VLLM_ALLOW_INSECURE_SERIALIZATION": CODE,
    "VLLM_MEDIA_CONNECTOR": CODE,
    "VLLM_GPT_OSS_*": CODE,
    "*_PATH": FILES,
    "*_DIR": FILES,
    "*_ROOT": FILES,
    "*_HOME": FILES,
    "*_FOLDER": FILES,
    "*_FILE": FILES,
    "NCCL_*PLUGIN*": CODE,
    "VLLM_ASSETS_CACHE": FILES,
    "VLLM_MEDIA_CACHE": FILES,
    "VLLM_DEBUG_*": PRIVACY,
    "VLLM_TRACE_FUNCTION": PRIVACY,
    "VLLM_LOGGING_*": PRIVACY,
    "VLLM_CONFIGURE_LOGGING": PRIVACY,
    "VLLM_USAGE_*": PRIVACY,
    "VLLM_NO_USAGE_STATS": PRIVACY,
    "VLLM_DO_NOT_TRACK": PRIVACY,
    "VLLM_PORT": ADDRESS,
    "VLLM_*_IP": ADDRESS,
    "VLLM_RPC_*": ADDRESS,
    "VLLM_DP_*": ADDRESS,
    "VLLM_RAY_*": ADDRESS,
    "VLLM_ELASTIC_EP_*": ADDRESS,
    "VLLM_*_SIDE_CHANNEL_*": SHARING,
    "VLLM_MOONCAKE_*": SHARING,
    "VLLM_OBJECT_STORAGE_*": SHARING,
    "VLLM_KEEP_ALIVE_ON_ENGINE_DEATH": "a dead engine must be seen to be dead",
    "CUDA_VISIBLE_DEVICES": "spec.resources.profile decides which devices a replica has",
}

_NAME = re.compile(
    r"--(?P<no>no-)?(?P<name>[a-z0-9]+(?:-[a-z0-9]+)*)(?P<key>\.[^=]*)?(?P<value>=.*)?", re.DOTALL
)
_NUMBER = re.compile(r"-\d+(\.\d+)?")
_POOLER: Final = "pooler-config"  # how vectors are pooled, and for which task
_FOREIGN_CODE = re.compile(r"trust[_-]remote[_-]code|auto_map")


def denied(args: Sequence[str]) -> list[Denial]:
    """Every argument that must not reach the engine, in order; empty = all may.

    `args` are appended to the platform's own, so the first must be an option: a stray value would
    be read as one more value of ours."""
    found: list[Denial] = []
    name = ""
    for position, argument in enumerate(args):
        if argument.startswith("-") and not _NUMBER.fullmatch(argument):
            name, reason = _option(argument)
        elif position == 0:
            reason = PARSER
        else:
            reason = _value(name, argument)
        if reason:
            found.append(Denial(argument, reason))
    return found


def denied_env(names: Iterable[str]) -> list[Denial]:
    """Every variable that must not be set for the engine, in order; empty = all may."""
    found = []
    for name in names:
        known = any(fnmatchcase(name, pattern) for pattern in ALLOWED_ENV)
        reason = _first(name, DENIED_ENV) if known else UNKNOWN_ENV
        if reason:
            found.append(Denial(name, reason))
    return found


def _option(argument: str) -> tuple[str, str]:
    """The option's name, and why it is refused ('' = it is not)."""
    head, equals, value = argument.partition("=")
    stem, dot, key = head.partition(".")
    match = _NAME.fullmatch(stem.replace("_", "-") + dot + key + equals + value)
    if match is None:
        return "", PARSER
    name = match["name"]
    reason = _refused(name)
    if not reason and match["value"]:
        reason = _value(name, value)
    if not reason and _FOREIGN_CODE.search(key):
        reason = CODE
    if not reason and _POOLER.startswith(name) and key == "task":
        reason = TASK
    return name, reason


def _refused(name: str) -> str:
    """Why the option of this name, finished or not, is refused ('' = it is not)."""
    reason = _first(name, DENIED)
    if reason or name in LIMITED:
        return reason
    for pattern, meant in DENIED.items():
        if not pattern.startswith("*") and pattern.rstrip("*").startswith(name):
            return f"{meant} (--{name} may be read as --{pattern})"
    for limited, (_, meant) in LIMITED.items():
        if limited.startswith(name):
            return f"{meant} (--{name} may be read as --{limited})"
    return ""


def _value(name: str, value: str) -> str:
    """Why this value of the option is refused ('' = it is not)."""
    if _FOREIGN_CODE.search(_plain(value)):
        return CODE
    if name in LIMITED and value not in LIMITED[name][0]:
        return LIMITED[name][1]
    # An unfinished name may be read as this one.
    if name and _POOLER.startswith(name) and '"task"' in _plain(value):
        return TASK
    return ""


def _plain(value: str) -> str:
    """The value with JSON's escapes resolved, so that no key hides behind a \\u005f."""
    try:
        return json.dumps(json.loads(value))
    except ValueError:
        return value


def _first(name: str, patterns: Mapping[str, str]) -> str:
    return next((why for pattern, why in patterns.items() if fnmatchcase(name, pattern)), "")
