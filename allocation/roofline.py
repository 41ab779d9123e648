"""Memory and speed of a replica from the sizes of its model and the numbers of its GPU.

Memory: weights, cache, CUDA context, graphs and activations have to fit the share. Speed: a roofline (Williams et al.
2009; for transformers Pope et al., arXiv 2211.05102): a step takes as long as reading what it needs or as computing
it, whichever is longer, plus what each layer costs at least. Estimates for planning; measured profiles replace them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor

from apportion.allocation.architecture import Architecture
from apportion.allocation.gpus import GpuType

GIB = 1 << 30
_EPSILON = 1e-9

# vLLM's default for the fraction of a GPU that one engine may fill (0.32: vllm/config/cache.py).
MEMORY_FRACTION = 0.92
# What a process holds on a GPU beside torch's tensors: CUDA context, cuBLAS, NCCL. vLLM logs it as "non-torch
# memory": 0.5 to 0.9 GiB were reported for engines on one GPU.
CONTEXT_GIB = 0.7
# "Graph capturing finished ... took": 0.1 to 1 GiB were reported for models of 0.5 to 50 GiB; it grows with layers.
GRAPH_GIB_PER_LAYER = 0.0125

# Fitted to Qwen2.5's published speeds on A100-80GB with vLLM 0.6.3, one sequence (Qwen documentation, "Speed
# Benchmark"): 0.5B, 1.5B, 14B in 16, 8 and 4 bits, and 72B on four GPUs; the worst of them is 16 % off (see the test).
BANDWIDTH_EFFICIENCY = 0.8
LAYER_S = 1e-4
ALL_REDUCE_S = 12.5e-6  # twice a layer, over NVLink; slower over PCIe
# Large matrix products reach less than the data sheet: between training of Llama 3 (0.38 to 0.43; arXiv 2407.21783,
# table 4) and the best of large-batch inference (0.76; arXiv 2211.05102).
COMPUTE_EFFICIENCY = 0.5
# vLLM prepares a step while another one runs (asynchronous scheduling, its default).
STEPS_AT_ONCE = 2


def memory_fraction(gpu_fraction: float) -> float:
    """vLLM's `gpu_memory_utilization`: so much of a share as vLLM takes of a whole GPU, in thousandths."""
    return floor(gpu_fraction * MEMORY_FRACTION * 1000 + _EPSILON) / 1000


def step_tokens(gpu: GpuType) -> int:
    """Tokens of one step at most, which is vLLM's `max_num_batched_tokens`.

    What `vllm serve` takes by itself (0.32: vllm/engine/arg_utils.py); larger steps make an A100 slower (vLLM's pull
    request 17885). Replicas are told, since an engine within another program takes 2048 on every GPU.
    """
    if gpu.memory_gib >= 160:
        return 16384
    return 8192 if gpu.memory_gib >= 70 and "A100" not in gpu.name else 2048


@dataclass(frozen=True)
class Deployed:
    """A model on one kind of replica.

    Attributes:
        share: of each GPU, in (0, 1]; bandwidth and arithmetic are taken to be shared alike, as under full load.
        gpus: that one replica spans (tensor parallel).
        weight_bits: of the quantised matrices; dtype_bytes: of everything else, and of the cache.
    """

    model: Architecture
    gpu: GpuType
    share: float
    gpus: int
    weight_bits: float
    dtype_bytes: int

    @property
    def kv_heads_per_gpu(self) -> int:
        """KV heads are divided among the GPUs, and repeated where there are fewer heads than GPUs."""
        return max(1, self.model.kv_heads // self.gpus)

    @property
    def weight_bytes(self) -> float:
        """Over all GPUs."""
        plain = self.model.embedding_parameters + self.model.output_parameters
        return (self.model.parameters - plain) * self.weight_bits / 8 + plain * self.dtype_bytes

    @property
    def step_tokens(self) -> int:
        """Tokens of one step at most."""
        return step_tokens(self.gpu)

    def cache_bytes(self, tokens: int) -> float:
        """Cache that one sequence of so many tokens takes, over all GPUs."""
        return self.model.held_tokens(tokens) * self._token_bytes

    def least_cache_bytes(self, tokens: int) -> float:
        """Cache without which vLLM does not start with a context of so many tokens, over all GPUs."""
        return self.model.held_tokens(tokens, STEPS_AT_ONCE * self.step_tokens) * self._token_bytes

    def overhead_gib(self, sequences: int) -> float:
        """On each GPU beside weights and cache: context, graphs, and the largest step's activations.

        Activations: the residual stream twice and the widest layer (gate, up and their product) of every token of a
        step, and two tables of float32 logits, which the sampler holds at once.
        """
        widest = 3 * self.model.intermediate / self.gpus + 4 * self.model.hidden
        activations = self.step_tokens * widest * self.dtype_bytes + 2 * sequences * self.model.vocabulary * 4
        return CONTEXT_GIB + GRAPH_GIB_PER_LAYER * self.model.layers + activations / GIB

    def free_for_cache_gib(self, sequences: int) -> float:
        """What is left for the cache, over all GPUs; below 0 when the weights alone do not fit."""
        on_each = memory_fraction(self.share) * self.gpu.memory_gib - self.overhead_gib(sequences)
        return on_each * self.gpus - self.weight_bytes / GIB

    def decode_step_s(self, sequences: int, context_tokens: int) -> float:
        """One new token for each of the running sequences, whose contexts have this mean length."""
        cached = sequences * self.model.cached_tokens(context_tokens)
        read = self._weights_read(sequences) + cached * self._token_bytes
        attention = 4 * cached * self.model.heads * self.model.head_size
        return self._step_s(read, 2 * self._active_parameters * sequences + attention)

    def prefill_s(self, tokens: int) -> float:
        """Reading a prompt, in as few steps as it takes; half of the attention is masked away."""
        whole, rest = divmod(tokens, self.step_tokens)
        steps = [self.step_tokens] * whole + ([rest] if rest else [])
        attention = 2 * tokens * self.model.heads * self.model.head_size * self.model.cached_tokens(tokens)
        return sum(
            self._step_s(self._weights_read(part), 2 * self._active_parameters * part + attention * part / tokens)
            for part in steps
        )

    @property
    def _token_bytes(self) -> int:
        """Of a token in the cache of one layer, over all GPUs."""
        return self.model.kv_values * self.kv_heads_per_gpu * self.gpus * self.dtype_bytes

    @property
    def _active_parameters(self) -> float:
        """Parameters that a token is multiplied with."""
        model = self.model
        idle = 0.0
        if model.experts:
            idle = model.expert_parameters * (1 - model.experts_per_token / model.experts)
        return model.parameters - model.embedding_parameters - idle

    def _weights_read(self, tokens: int) -> float:
        """Bytes of weights that a step with so many tokens touches: of the experts, those that any token chose."""
        model = self.model
        everything = self.weight_bytes - model.embedding_parameters * self.dtype_bytes
        if not model.experts:
            return everything
        untouched = (1 - model.experts_per_token / model.experts) ** tokens
        return everything - untouched * model.expert_parameters * self.weight_bits / 8

    def _step_s(self, read_bytes: float, operations: float) -> float:
        power = self.share * self.gpus
        memory_s = read_bytes / (self.gpu.bandwidth_gb_per_s * 1e9 * BANDWIDTH_EFFICIENCY * power)
        compute_s = operations / (self.gpu.half_tflops * 1e12 * COMPUTE_EFFICIENCY * power)
        reduce_s = 2 * self.model.layers * ALL_REDUCE_S if self.gpus > 1 else 0.0
        return max(memory_s, compute_s) + self.model.layers * LAYER_S + reduce_s
