"""Every option of vLLM 0.32's server, by what was decided about it.

A test holds these lists against vLLM's own parser, so that a new version's options are looked at.
"""

# All options of vLLM 0.32.0's server, read from its parser, by what we decided about each.
REFUSED_TEXT = """
additional-config allow-credentials allowed-headers allowed-local-media-path allowed-methods
allowed-origins api-key api-server-count chat-template code-revision collect-detailed-traces
compilation-config config convert data-parallel-address data-parallel-backend data-parallel-external-lb
data-parallel-hybrid-lb data-parallel-multi-port-external-lb data-parallel-rank
data-parallel-rpc-port data-parallel-size data-parallel-size-local data-parallel-start-rank
data-parallel-supervisor-port default-mm-loras device-ids disable-log-stats download-dir
dp-supervisor-probe-failure-threshold dp-supervisor-probe-interval-s
dp-supervisor-probe-timeout-s ec-manager-config ec-transfer-config elastic-ep-max-dp-size
enable-elastic-ep enable-fault-tolerance enable-force-include-usage enable-log-deltas
enable-log-outputs enable-log-requests enable-lora enable-mm-embeds enable-prompt-embeds
enable-prompt-tokens-details enable-scale-out enable-sleep-mode enable-ssl-refresh
enable-tokenizer-info-endpoint enable-trace-replay engram-config fault-tolerance-config grpc
grpc-port headless hf-config-path hf-token host io-processor-plugin kv-events-config
kv-transfer-config log-config-file log-level logging-config logits-processors lora-modules
master-addr master-port middleware mm-encoder-fp8-scale-path mm-encoder-fp8-scale-save-path
model model-class-overrides model-loader-extra-config nnodes no-allow-credentials
no-data-parallel-external-lb no-data-parallel-hybrid-lb no-enable-elastic-ep
no-enable-fault-tolerance no-enable-force-include-usage no-enable-log-deltas
no-enable-log-outputs no-enable-log-requests no-enable-lora no-enable-mm-embeds
no-enable-prompt-embeds no-enable-prompt-tokens-details no-enable-scale-out no-enable-sleep-mode
no-enable-ssl-refresh no-enable-tokenizer-info-endpoint no-enable-trace-replay
no-ray-workers-use-nsight no-tokens-only no-trust-remote-code no-trust-request-chat-template
no-trust-request-mm-kwargs node-rank otlp-traces-endpoint port profiler-config
ray-workers-use-nsight reasoning-parser reasoning-parser-plugin revision root-path runner
scheduler-cls served-model-name shutdown-timeout spec-model speculative-config
sse-keep-alive-interval ssl-ca-certs ssl-cert-reqs ssl-certfile ssl-ciphers ssl-keyfile
structured-outputs-config tokenizer tokenizer-revision tokens-only tool-parser-plugin
tool-server trust-remote-code trust-request-chat-template trust-request-mm-kwargs uds
uvicorn-log-level weight-transfer-config worker-cls worker-extension-cls
"""

ALLOWED_TEXT = """
aggregate-engine-logging all2all-backend allow-deprecated-quantization allowed-media-domains
anthropic-disabled-thinking-effort async-scheduling attention-backend attention-config
aux-output-config block-size chat-template-content-format cohere-format
cohere-is-reasoning-model config-format cp-kv-cache-interleave-size
cpu-distributed-timeout-seconds cpu-offload-gb cpu-offload-params cudagraph-capture-sizes
cudagraph-metrics custom-histogram-buckets dbo-decode-token-threshold
dbo-prefill-token-threshold dcp-comm-backend dcp-kv-cache-interleave-size dcp-q-replicate
decode-context-parallel-size default-chat-template-kwargs device-memory-utilization
diffusion-config disable-access-log-for-endpoints disable-cascade-attn disable-chunked-mm-input
disable-custom-all-reduce disable-fastapi-docs disable-hybrid-kv-cache-manager
disable-nccl-for-dp-synchronization disable-sliding-window disable-uvicorn-access-log
distributed-executor-backend distributed-timeout-seconds dp-sync-interval dtype
enable-auto-tool-choice enable-batch-sharded-sampling enable-chunked-prefill
enable-cumem-allocator enable-dbo enable-ep-weight-filter enable-eplb enable-expert-parallel
enable-flash-late-interaction enable-flashinfer-autotune enable-hc-sp
enable-layerwise-nvtx-tracing enable-logging-iteration-details
enable-mamba-cache-stochastic-rounding enable-mamba-shared-prefix-checkpoint enable-mfu-metrics
enable-mixed-moe-lora-format enable-moe-shared-loras enable-nccl-comm-suspend
enable-offline-docs enable-per-request-metrics enable-prefix-caching enable-request-id-headers
enable-return-routed-experts enable-server-load-tracking enable-shm-tensor-arena
enable-tower-connector-lora enforce-eager eplb-config exclude-tools-when-tool-choice-none
expert-placement-strategy fail-on-environ-validation fingerprint-mode fingerprint-value
fully-sharded-loras gdn-prefill-backend generation-config gpu-memory-utilization
h11-max-header-count h11-max-incomplete-event-size help hf-overrides ignore-patterns
interleave-mm-strings ir-op-priority jit-monitor-mode jit-monitor-verbose kda-decode-backend
kda-prefill-backend kernel-config kv-cache-dtype kv-cache-dtype-skip-layers
kv-cache-memory-bytes kv-cache-metrics kv-cache-metrics-sample kv-offloading-backend
kv-offloading-size kv-sharing-fast-prefill language-model-only limit-mm-per-prompt
linear-backend load-format log-error-stack logprobs-mode long-prefill-token-threshold
long-prefill-token-threshold-adaptive lora-dtype lora-target-modules mamba-backend
mamba-block-size mamba-cache-dtype mamba-cache-mode mamba-cache-philox-rounds
mamba-ssm-cache-dtype mamba-ssu-algorithm max-cpu-loras max-cudagraph-capture-size max-log-len
max-logprobs max-lora-cls-labels max-lora-rank max-loras max-model-len max-num-active-seqs
max-num-batched-tokens max-num-queued-reqs max-num-queued-tokens max-num-scheduled-tokens
max-num-seqs max-parallel-loading-workers media-io-kwargs mm-device-do-normalize
mm-encoder-attn-backend mm-encoder-attn-dtype mm-encoder-fp8-scale-save-margin mm-encoder-only
mm-encoder-tp-mode mm-hasher-algorithm mm-ipc-gpu-memory-gb mm-processor-cache-gb
mm-processor-cache-type mm-processor-device mm-processor-kwargs mm-shm-cache-max-object-size-mb
mm-tensor-ipc model-impl moe-backend no-allow-deprecated-quantization no-async-scheduling
no-cohere-is-reasoning-model no-cudagraph-metrics no-dcp-q-replicate no-disable-cascade-attn
no-disable-chunked-mm-input no-disable-custom-all-reduce no-disable-fastapi-docs
no-disable-hybrid-kv-cache-manager no-disable-nccl-for-dp-synchronization
no-disable-sliding-window no-disable-uvicorn-access-log no-enable-auto-tool-choice
no-enable-batch-sharded-sampling no-enable-chunked-prefill no-enable-cumem-allocator
no-enable-dbo no-enable-ep-weight-filter no-enable-eplb no-enable-expert-parallel
no-enable-flash-late-interaction no-enable-flashinfer-autotune no-enable-hc-sp
no-enable-layerwise-nvtx-tracing no-enable-logging-iteration-details
no-enable-mamba-cache-stochastic-rounding no-enable-mamba-shared-prefix-checkpoint
no-enable-mfu-metrics no-enable-mixed-moe-lora-format no-enable-moe-shared-loras
no-enable-nccl-comm-suspend no-enable-offline-docs no-enable-per-request-metrics
no-enable-prefix-caching no-enable-request-id-headers no-enable-return-routed-experts
no-enable-server-load-tracking no-enable-shm-tensor-arena no-enable-tower-connector-lora
no-enforce-eager no-exclude-tools-when-tool-choice-none no-fail-on-environ-validation
no-fully-sharded-loras no-interleave-mm-strings no-jit-monitor-verbose no-kv-cache-metrics
no-kv-sharing-fast-prefill no-language-model-only no-log-error-stack
no-long-prefill-token-threshold-adaptive no-mm-device-do-normalize no-mm-encoder-only
no-numa-bind no-return-sampling-mask no-return-tokens-as-token-ids no-scheduler-reserve-full-isl
no-skip-mm-profiling no-skip-tokenizer-init no-sleep-mode-offload-cudagraph
no-specialize-active-lora no-swa-bounded-replay no-use-fp64-gumbel no-use-replayssm
no-use-tqdm-on-load num-gpu-blocks-override numa-bind numa-bind-cpus numa-bind-nodes
offload-backend offload-group-size offload-num-in-group offload-params offload-prefetch-step
optimization-level override-generation-config per-request-spec-decode-metrics performance-mode
pipeline-parallel-size pooler-config prefill-context-parallel-size prefill-schedule-interval
prefix-cache-retention-interval prefix-caching-hash-algo prefix-match-unit pt-load-map-location
quantization quantization-config reasoning-config renderer-num-workers replayssm-buffer-len
response-role return-sampling-mask return-tokens-as-token-ids safetensors-load-strategy
safetensors-prefetch-block-size safetensors-prefetch-num-threads scheduler-reserve-full-isl
scheduling-policy seed show-hidden-metrics-for-version skip-mm-profiling skip-tokenizer-init
sleep-mode-offload-cudagraph sleep-preserve-parameter-names sparse-indexer-topk-backend
spec-method spec-tokens specialize-active-lora stream-interval swa-bounded-replay
tensor-parallel-size tokenizer-mode tool-call-parser tool-strict-level ubatch-size
use-fp64-gumbel use-replayssm use-tqdm-on-load video-pruning-method video-pruning-rate watermark
watermark-config
"""

SHORT_TEXT = "-ac -asc -cc -dc -dcp -dp -dpa -dpb -dpe -dph -dpl -dpm -dpn -dpp -dpr -ep -h -n -pcp -pp -q -r -sc -tp"

REFUSED, ALLOWED, SHORT = map(str.split, (REFUSED_TEXT, ALLOWED_TEXT, SHORT_TEXT))
