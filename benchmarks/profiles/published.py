"""Speeds that others have published, and where. Nothing here was measured for this project."""

from __future__ import annotations

from dataclasses import dataclass

QWEN25 = "Qwen documentation, Speed Benchmark of Qwen2.5 (vLLM 0.6.3), https://qwen.readthedocs.io/en/v2.5/benchmark/speed_benchmark.html"
QWEN3 = "Qwen documentation, Speed Benchmark of Qwen3 (SGLang 0.4.6), https://qwen.readthedocs.io/zh-cn/latest/getting_started/speed_benchmark.html"
YOBITEL = "Yobitel's benchmark (vLLM 0.21)"
VLLM_11000 = "https://github.com/vllm-project/vllm/pull/11000 (its GPU assumed)"
SGLANG_1401 = "https://github.com/sgl-project/sglang/pull/1401 (its GPU assumed)"
MUSGRAVE = "vLLM 0.23, https://johnmusgrave.com/p/vllm-throughput-latency-sweep-on"
TENSTORRENT = "https://github.com/tenstorrent/tt-inference-server/issues/340"
BUILDKITE = "vLLM's own performance benchmark, https://buildkite.com/vllm/performance-benchmark/builds/9515"
SILYBENCH = "vLLM 0.30, https://raw.githubusercontent.com/tgarg01/silybench-data/main/derived/csv/capacity.csv"
TENSORRT = (
    "TensorRT-LLM, unlimited load, https://nvidia.github.io/TensorRT-LLM/performance/perf-overview.html (v1.0 line)"
)
RAHMAN = "vLLM, https://mushfiqrahman.dev/?p=1668"


@dataclass(frozen=True)
class Step:
    """Milliseconds a token of each sequence. context_tokens: of a sequence in the mean."""

    model: str
    gpu: str
    gpus: int
    sequences: int
    context_tokens: int
    ms: float
    source: str


@dataclass(frozen=True)
class Throughput:
    """Output tokens/s of requests with these lengths. sequences: at once; 0: as many as there is load for."""

    model: str
    gpu: str
    gpus: int
    sequences: int
    input_tokens: int
    output_tokens: int
    tokens_per_s: float
    source: str


STEPS = (
    Step("Qwen2.5-0.5B", "A100-80GB", 1, 1, 1025, 1e3 / 311.55, QWEN25),
    Step("Qwen2.5-1.5B", "A100-80GB", 1, 1, 1025, 1e3 / 183.33, QWEN25),
    Step("Qwen2.5-14B", "A100-80GB", 1, 1, 1025, 1e3 / 46.30, QWEN25),
    Step("Qwen2.5-14B GPTQ-Int8", "A100-80GB", 1, 1, 1025, 1e3 / 70.40, QWEN25),
    Step("Qwen2.5-14B GPTQ-Int4", "A100-80GB", 1, 1, 1025, 1e3 / 98.02, QWEN25),
    Step("Qwen2.5-72B", "A100-80GB", 4, 1, 1025, 1e3 / 31.37, QWEN25),
    Step("Qwen3-0.6B", "H20", 1, 1, 1025, 1e3 / 414.17, QWEN3),
    Step("Qwen3-0.6B FP8", "H20", 1, 1, 1025, 1e3 / 458.03, QWEN3),
    Step("Llama-3.1-8B", "H100", 1, 1, 512, 6.48, YOBITEL),
    Step("Llama-3.1-8B", "H100", 1, 1, 128, 7.38, VLLM_11000),
    Step("Llama-3.1-8B", "H100", 1, 1, 512, 7.06, SGLANG_1401),
    Step("Llama-3.1-8B", "A100-40GB", 1, 1, 1088, 13.33, MUSGRAVE),
    Step("Qwen3-30B-A3B", "A100-80GB", 1, 1, 192, 9.6, TENSTORRENT),
    Step("Qwen3-30B-A3B", "A100-80GB", 1, 1, 8256, 10.6, TENSTORRENT),
    Step("Qwen3-1.7B", "A100-80GB", 1, 1, 192, 4.6, TENSTORRENT),
    Step("Qwen3-1.7B", "A100-80GB", 1, 1, 2112, 5.0, TENSTORRENT),
    Step("DeepSeek-V2-Lite", "H100", 1, 1, 512, 6.22, SGLANG_1401),
    Step("Llama-3.1-8B", "H200", 1, 8, 96, 833.421 / 128, BUILDKITE),
    Step("Llama-3.1-70B", "H200", 4, 8, 96, 2077.53 / 128, BUILDKITE),
    Step("Mixtral-8x7B", "H200", 2, 8, 96, 1917.44 / 128, BUILDKITE),
)

THROUGHPUTS = (
    Throughput("Qwen3-8B", "H100", 1, 512, 128, 128, 14539.5, SILYBENCH),
    Throughput("Qwen3-8B", "H100", 1, 80, 1024, 128, 3017.7, SILYBENCH),
    Throughput("Qwen3-8B", "H100", 1, 396, 128, 1024, 13322.0, SILYBENCH),
    Throughput("Qwen3-8B", "H100", 1, 40, 2048, 2048, 2814.7, SILYBENCH),
    Throughput("Qwen3-8B", "H100", 1, 7, 8192, 512, 501.6, SILYBENCH),
    Throughput("Qwen3-8B FP8-dynamic", "H100", 1, 512, 128, 128, 16542.0, SILYBENCH),
    Throughput("Qwen3-8B FP8-dynamic", "H100", 1, 108, 1024, 128, 4129.0, SILYBENCH),
    Throughput("Qwen3-8B FP8-dynamic", "H100", 1, 472, 128, 1024, 15103.5, SILYBENCH),
    Throughput("Qwen3-8B FP8-dynamic", "H100", 1, 52, 2048, 2048, 3653.1, SILYBENCH),
    Throughput("Qwen3-8B FP8-dynamic", "H100", 1, 10, 8192, 512, 786.9, SILYBENCH),
    Throughput("Mistral-7B-v0.3", "RTX4090", 1, 4, 256, 128, 210.0, RAHMAN),
    Throughput("Mistral-7B-v0.3", "RTX4090", 1, 8, 256, 128, 377.0, RAHMAN),
    Throughput("Mistral-7B-v0.3", "RTX4090", 1, 16, 256, 128, 644.0, RAHMAN),
    Throughput("Mistral-7B-v0.3", "RTX4090", 1, 32, 256, 128, 975.0, RAHMAN),
    Throughput("Llama-3.1-8B FP8", "H100", 1, 0, 128, 128, 28312.0, TENSORRT),
    Throughput("Llama-3.1-8B FP8", "H100", 1, 0, 1000, 1000, 15220.0, TENSORRT),
    Throughput("Llama-3.1-8B FP8", "H100", 1, 0, 2048, 128, 3450.0, TENSORRT),
    Throughput("Llama-3.1-8B FP8", "H100", 1, 0, 5000, 500, 3459.0, TENSORRT),
    Throughput("Llama-3.1-70B FP8", "H100", 2, 0, 128, 2048, 6651.0, TENSORRT),
    Throughput("Llama-3.1-70B FP8", "H100", 2, 0, 1000, 1000, 4205.0, TENSORRT),
    Throughput("Llama-3.1-70B FP8", "H100", 2, 0, 2048, 128, 762.0, TENSORRT),
)
