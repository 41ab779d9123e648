"""What vLLM keeps for a running sequence: blocks of keys and values, and states of constant size.

The arithmetic is that of vLLM 0.32 (vllm/v1/core/kv_cache_utils.py, vllm/v1/kv_cache_interface.py and
`_align_hybrid_block_size` in vllm/platforms/interface.py), which `tests/benchmarks/profiles` compares with what the
installed one says of models that it builds.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

# Tokens of a block.
BLOCK_TOKENS = 16
WINDOW_BLOCK_TOKENS = 32  # where some layers have windows, as its widest kernels want it
LATENT_BLOCK_TOKENS = 128  # where latent attention stands beside states


@dataclass(frozen=True)
class CacheLayers:
    """Attention layers that keep the same of a token.

    Attributes:
        layers: how many.
        heads: that keys and values are kept for; 1 where they are compressed to one latent vector.
        values: numbers of a token and head.
        window: tokens that a layer looks back at; 0: all.
        chunked: whether the window starts anew after so many tokens, in place of sliding.
        fixed_bytes: of a token, whatever the cache's type; 0: by the numbers.
    """

    layers: int
    heads: int
    values: int
    window: int = 0
    chunked: bool = False
    fixed_bytes: int = 0

    def token_bytes(self, gpus: int, number_bytes: float) -> float:
        """A token in the cache of one layer on one GPU: heads are divided, and repeated where there are too few."""
        return self.fixed_bytes or max(1, self.heads // gpus) * self.values * number_bytes

    def seen(self, tokens: int) -> int:
        """Tokens that a layer looks back at at the end of so many."""
        return min(tokens, self.window) if self.window else tokens

    def blocks(self, tokens: int, in_flight: int, block: int) -> int:
        """Blocks of one layer. A window's stay until the steps that left it behind are done, and it may begin anywhere
        in its first one.
        """
        if not self.window:
            return ceil(tokens / block)
        if self.chunked:
            return ceil(min(self.window + in_flight, tokens) / block)
        return ceil(min(self.window - 1 + in_flight, tokens) / block) + 1


@dataclass(frozen=True)
class StateLayers:
    """Layers with a state whose size does not depend on the tokens: Mamba, linear attention, short convolutions.

    Attributes:
        convolved: numbers of the convolution's state, in the cache's type, divided among GPUs.
        group_values, groups: numbers of each of its groups, which are repeated where they are no multiple of the GPUs.
        group_inputs: numbers that a group reads of a layer's input.
        recurrent: numbers of the recurrent state, divided among GPUs.
        recurrent_bytes: of such a number; 0: as the model's type.
        heads: that have to divide by the GPUs.
        held: states of a sequence where prefixes are cached, vLLM's default: the running one, that of the last block,
            and with Mamba 2 one that reading a prompt leaves behind.
    """

    layers: int
    convolved: int
    recurrent: int
    recurrent_bytes: int = 0
    group_values: int = 0
    groups: int = 0
    heads: int = 0
    held: int = 2
    group_inputs: int = 0

    def state_bytes(self, gpus: int, number_bytes: int) -> float:
        """Of one layer on one GPU."""
        groups = self.groups if self.groups % gpus == 0 else gpus
        convolved = self.convolved + self.group_values * groups
        return (convolved * number_bytes + self.recurrent * (self.recurrent_bytes or number_bytes)) / gpus


@dataclass(frozen=True)
class Kept:
    """All that a model keeps of a sequence."""

    attention: tuple[CacheLayers, ...]
    states: tuple[StateLayers, ...] = ()

    def read_bytes(self, gpus: int, tokens: int, number_bytes: int, cache_number_bytes: float) -> float:
        """What a step reads of a sequence of so many tokens, on one GPU; states are written back as well."""
        cached = sum(
            kind.layers * kind.seen(tokens) * kind.token_bytes(gpus, cache_number_bytes) for kind in self.attention
        )
        return cached + sum(2 * kind.layers * kind.state_bytes(gpus, number_bytes) for kind in self.states)

    def attended(self, tokens: int) -> int:
        """Token-layers that a new token looks back at."""
        return sum(kind.layers * kind.seen(tokens) for kind in self.attention)

    def sequence_bytes(
        self, gpus: int, tokens: int, number_bytes: int, cache_number_bytes: float, in_flight: int = 0
    ) -> float:
        """What vLLM keeps for a sequence of so many tokens, on one GPU.

        Blocks are of one size for all layers, and each belongs to as many layers of one kind: where the layers of a
        kind are no multiple of that, the rest of its last block is idle.

        Args:
            number_bytes: of the model's type, in which states are kept; cache_number_bytes: of the cache's.
            in_flight: tokens of the sequence in steps under way.
        """
        sizes = [kind.token_bytes(gpus, cache_number_bytes) for kind in self.attention]
        states = [kind.state_bytes(gpus, number_bytes) for kind in self.states]
        if not states and len({(kind.window, kind.chunked) for kind in self.attention}) == 1:
            block = self._least_block
            return sum(
                kind.layers * kind.blocks(tokens, in_flight, block) * block * size
                for kind, size in zip(self.attention, sizes, strict=True)
            )
        block = self._block_tokens(max(states, default=0.0), sizes)
        page = max([size * block for size in sizes], default=max(states, default=0.0))
        kinds = [(kind.layers, kind.held) for kind in self.states]
        for kind, size in zip(self.attention, sizes, strict=True):
            fuller = int(page // (size * block)) if page % (size * block) == 0 else 1
            kinds.append((kind.layers, kind.blocks(tokens, in_flight, block * fuller)))
        layers = [count for count, _ in kinds]
        together = max(layers) if max(layers) < 1.5 * min(layers) else min(layers)
        return sum(ceil(count / together) * blocks for count, blocks in kinds) * together * page

    def _block_tokens(self, state_bytes: float, sizes: list[float]) -> int:
        """Where there are states, a block of keys and values is made as large as one of them."""
        if not state_bytes or not sizes:
            return self._least_block
        least = LATENT_BLOCK_TOKENS if any(kind.heads == 1 for kind in self.attention) else BLOCK_TOKENS
        return least * ceil(state_bytes / (least * sizes[0]))

    @property
    def _least_block(self) -> int:
        windows = any(kind.window and not kind.chunked for kind in self.attention)
        return WINDOW_BLOCK_TOKENS if windows else BLOCK_TOKENS
