"""Memory and speed of a replica from the sizes of its model and the numbers of its GPU.

Memory: weights, cache, CUDA context, graphs and activations have to fit the share. Speed: a roofline (Williams et al.
2009; for transformers Pope et al., arXiv 2211.05102): a step takes as long as reading what it needs or as computing
it, whichever is longer, plus what each layer costs at least. Estimates for planning; measured profiles replace them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor

from apportion.allocation.architecture import Architecture
from apportion.allocation.cache import Kept
from apportion.allocation.gpus import GpuType
from apportion.allocation.numbers import Numbers

GIB = 1 << 30
_EPSILON = 1e-9

# vLLM's default for the fraction of a GPU that one engine may fill (0.32: vllm/config/cache.py).
MEMORY_FRACTION = 0.92
# What a process holds on a GPU beside torch's tensors: CUDA context, cuBLAS, NCCL. vLLM logs it as "non-torch
# memory": 0.5 to 0.9 GiB were reported for engines on one GPU.
CONTEXT_GIB = 0.7
# "Graph capturing finished ... took": 0.1 to 1 GiB were reported for models of 0.5 to 50 GiB; it grows with layers.
GRAPH_GIB_PER_LAYER = 0.0125

# Of the bandwidth of the data sheet. Fitted, as what a layer costs beside, to the published speeds of one sequence in
# benchmarks/profiles/published.py; docs/results/profiles.md says how far each of them is off.
BANDWIDTH_EFFICIENCY = 0.8
LAYER_S = 7e-5
EXPERTS_S = 6e-5  # more for a layer with routed experts: choosing, sorting and joining
# Large matrix products reach less than the data sheet: between training of Llama 3 (0.38 to 0.43; arXiv 2407.21783,
# table 4) and the best of large-batch inference (0.76; arXiv 2211.05102).
COMPUTE_EFFICIENCY = 0.6
# Twice a layer the GPUs of a replica add up what each has computed: so long at least, over NVLink and over PCIe, and
# 2 (n - 1) / n of the bytes cross each link.
ALL_REDUCE_S, PCIE_ALL_REDUCE_S = 12.5e-6, 30e-6
LINK_EFFICIENCY = 0.7
_NVLINK_GB_PER_S = 200.0
# Norms, biases and the matrices that choose experts: some families keep them in 32 bits.
_WIDE_BYTES = 4
# What an engine that shares its GPU reaches of its share: engines take turns, and the turns cost something too. Two
# vLLM engines on one processor core reached 0.57 to 0.78 of half of it each (docs/results/simulation.json); no GPU was
# measured, so this stands for GPUs as well.
SHARED_EFFICIENCY = 0.7
# vLLM prepares a step while another one runs (asynchronous scheduling, its default).
STEPS_AT_ONCE = 2


def memory_fraction(gpu_fraction: float) -> float:
    """vLLM's `gpu_memory_utilization`: so much of a share as vLLM takes of a whole GPU, in thousandths."""
    return floor(gpu_fraction * MEMORY_FRACTION * 1000 + _EPSILON) / 1000


def speed_share(gpu_fraction: float) -> float:
    """What an engine on this share of a GPU reaches of the speed that it would have alone."""
    return 1.0 if gpu_fraction == 1 else gpu_fraction * SHARED_EFFICIENCY


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
        share: of each GPU, in (0, 1]: of its memory, and of the time that its neighbours leave under full load.
        gpus: that one replica spans (tensor parallel).
        numbers: what weights and cache are kept in.
    """

    model: Architecture
    gpu: GpuType
    share: float
    gpus: int
    numbers: Numbers

    @property
    def weight_bytes(self) -> float:
        """Over all GPUs; what is too small to be divided stands on each of them."""
        stated_gib = self.numbers.sizes.get("weights_gib")
        return self._computed_bytes if stated_gib is None else stated_gib * GIB

    @property
    def step_tokens(self) -> int:
        """Tokens of one step at most."""
        return step_tokens(self.gpu)

    def cache_bytes(self, tokens: int, in_flight: int = 0) -> float:
        """Cache that one sequence of so many tokens takes, over all GPUs.

        Args:
            in_flight: of its tokens in steps under way.
        """
        kept, numbers = self.model.kept, self.numbers
        computed = kept.sequence_bytes(self.gpus, tokens, numbers.dtype_bytes, numbers.cache_bytes, in_flight)
        return self._stated_bytes(tokens, self.gpus * computed)

    def least_cache_bytes(self, tokens: int) -> float:
        """Cache without which vLLM does not start with a context of so many tokens, over all GPUs."""
        return self.cache_bytes(tokens, STEPS_AT_ONCE * self.step_tokens)

    def overhead_gib(self, sequences: int) -> float:
        """On each GPU beside weights and cache: context, graphs, and the largest step's activations.

        Activations: the residual stream twice and the widest layer (gate, up and their product) of every token of a
        step, and two tables of float32 logits, which the sampler holds at once.
        """
        widest = 3 * max(self.model.intermediate, self.model.expert_intermediate) / self.gpus + 4 * self.model.hidden
        activations = self.step_tokens * widest * self.numbers.dtype_bytes + 2 * sequences * self.model.vocabulary * 4
        return CONTEXT_GIB + GRAPH_GIB_PER_LAYER * self.model.layers + activations / GIB

    def free_for_cache_gib(self, sequences: int) -> float:
        """What is left for the cache, over all GPUs; below 0 when the weights alone do not fit."""
        on_each = memory_fraction(self.share) * self.gpu.memory_gib - self.overhead_gib(sequences)
        return on_each * self.gpus - self.weight_bytes / GIB

    def decode_step_s(self, sequences: int, context_tokens: int) -> float:
        """One new token for each of the running sequences, whose contexts have this mean length."""
        read = self._weights_read(sequences) + sequences * self._kept_read(context_tokens)
        attention = 4 * sequences * self.model.kept.attended(context_tokens) * self.model.heads * self.model.head_size
        return self._step_s(read, sequences, attention)

    def prefill_s(self, tokens: int) -> float:
        """Reading a prompt, in as few steps as it takes; half of the attention is masked away."""
        whole, rest = divmod(tokens, self.step_tokens)
        steps = [self.step_tokens] * whole + ([rest] if rest else [])
        attention = 2 * tokens * self.model.kept.attended(tokens) * self.model.heads * self.model.head_size
        return sum(self._step_s(self._weights_read(part), part, attention * part / tokens) for part in steps)

    @property
    def _computed_bytes(self) -> float:
        model, numbers = self.model, self.numbers
        plain = model.parameters + model.other_parameters - numbers.quantised_parameters
        quantised = numbers.quantised_parameters + self._filled_up
        return quantised * numbers.bits / 8 + plain * numbers.dtype_bytes + self._repeated_bytes

    @property
    def _repeated_bytes(self) -> float:
        """What every GPU holds for itself: small matrices, and heads or groups of which there are fewer."""
        model, numbers = self.model, self.numbers
        wide = _WIDE_BYTES * self.gpus - numbers.dtype_bytes  # beyond what they count for among all parameters
        repeated = model.repeated_parameters * wide
        again = sum(
            kind.layers * model.hidden * kind.heads * kind.values * (self.gpus / kind.heads - 1)
            for kind in model.kept.attention
            if 1 < kind.heads < self.gpus
        )
        again += sum(
            kind.layers * model.hidden * kind.group_inputs * (self.gpus - kind.groups)
            for kind in model.kept.states
            if kind.groups % self.gpus
        )
        return repeated + again * min(numbers.bits / 8, numbers.dtype_bytes)

    @property
    def _filled_up(self) -> float:
        """Weights of experts that some formats add to reach the sizes that their kernels take."""
        model, quantisation = self.model, self.numbers.quantisation
        if quantisation is None or quantisation.pads is None or not model.experts:
            return 0.0
        width, inputs = quantisation.pads
        part = model.expert_intermediate / self.gpus
        fuller = ceil(part / width) * width / part * ceil(model.hidden / inputs) * inputs / model.hidden
        return model.expert_parameters * (fuller - 1)

    def _kept_read(self, tokens: int) -> float:
        """Bytes that a step reads of a sequence of so many tokens, over all GPUs."""
        kept, numbers = self.model.kept, self.numbers
        read = kept.read_bytes(self.gpus, tokens, numbers.dtype_bytes, numbers.cache_bytes)
        return self._stated_bytes(tokens, self.gpus * read)

    def _stated_bytes(self, tokens: int, computed: float) -> float:
        """What the model's description says that a sequence keeps, if it does."""
        sizes = self.numbers.sizes
        if not {"cache_bytes_per_token", "state_bytes_per_sequence"} & set(sizes):
            return computed
        state, token = sizes.get("state_bytes_per_sequence"), sizes.get("cache_bytes_per_token")
        kept, numbers = self.model.kept, self.numbers
        if token is None:
            without = Kept(kept.attention)
            grown = self.gpus * without.sequence_bytes(self.gpus, tokens, numbers.dtype_bytes, numbers.cache_bytes)
        else:
            heads = max((kind.heads for kind in kept.attention), default=1)
            grown = token * tokens * max(1.0, self.gpus / heads)
        if state is None:
            state = sum(kind.layers * kind.state_bytes(1, numbers.dtype_bytes) for kind in kept.states)
        return grown + state

    def _weights_read(self, tokens: int) -> float:
        """Bytes of weights that a step with so many tokens touches: of the experts, those that any token chose."""
        model, numbers = self.model, self.numbers
        idle = model.embedding_parameters + model.other_parameters
        read = self._computed_bytes - idle * numbers.dtype_bytes
        if model.experts:
            untouched = (1 - model.experts_per_token / model.experts) ** tokens
            quantised = min(model.expert_parameters, numbers.quantised_parameters) / model.expert_parameters
            bits = quantised * numbers.bits + (1 - quantised) * 8 * numbers.dtype_bytes
            read -= untouched * model.expert_parameters * bits / 8
        return read * self.weight_bytes / self._computed_bytes

    def _step_s(self, read_bytes: float, tokens: int, attention: float) -> float:
        """A step that reads so much and computes so many tokens, and so many operations of attention."""
        memory_s = read_bytes / (self.gpu.bandwidth_gb_per_s * 1e9 * BANDWIDTH_EFFICIENCY * self.gpus)
        work_s = self._products_s(tokens) + attention / (self.gpu.half_tflops * 1e12)
        layer_s = LAYER_S + (EXPERTS_S if self.model.experts else 0.0)
        alone_s = max(memory_s, work_s / (COMPUTE_EFFICIENCY * self.gpus)) + self.model.layers * layer_s
        return (alone_s + self._reduce_s(tokens)) / speed_share(self.share)

    def _products_s(self, tokens: int) -> float:
        """Products with all matrices at the full speed of one GPU; quantised ones in their own arithmetic."""
        model, numbers = self.model, self.numbers
        idle = model.expert_parameters * (1 - model.experts_per_token / model.experts) if model.experts else 0.0
        active = model.parameters - model.embedding_parameters - idle
        matrices = max(model.matrix_parameters, 1)
        narrow = numbers.quantised_parameters / matrices * (model.matrix_parameters - idle)
        seconds = narrow / numbers.tflops(self.gpu) + (active - narrow) / self.gpu.half_tflops
        return 2 * tokens * seconds / 1e12

    def _reduce_s(self, tokens: int) -> float:
        if self.gpus == 1:
            return 0.0
        link = self.gpu.link_gb_per_s
        sent = 2 * (self.gpus - 1) / self.gpus * tokens * self.model.hidden * self.numbers.dtype_bytes
        least_s = ALL_REDUCE_S if link >= _NVLINK_GB_PER_S else PCIE_ALL_REDUCE_S
        return 2 * self.model.layers * (least_s + sent / (link * 1e9 * LINK_EFFICIENCY))
