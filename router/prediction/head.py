"""Multi-label head: success and log output tokens of all models from one shared hidden layer.

An ensemble of B small heads is evaluated as one matrix product for the hidden layers and one batched
product for the outputs. Models' output columns lie in blocks of fixed width, so that a product has the same
shape, and hence every column the same bits, however many models are added to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from apportion.router.arrays import FloatArray
from apportion.router.prediction.features import Features
from apportion.router.prediction.prediction import Prediction
from apportion.router.prediction.request_features import Reach

if TYPE_CHECKING:
    import torch

    from apportion.router.prediction.artefact import Arrays

BLOCK = 16
"""Models in one block of output columns."""

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class HeadWeights:
    """Parameters of B members over D features with H hidden units, for M models.

    `centre`, `scale` `(D,)` standardise the features; `hidden_weight` `(B, D, H)` and `hidden_bias` `(B,
    H)` are the shared layer; `output_weight` `(B, H, 2, M)` and `output_bias` `(B, 2, M)` give the logit of
    success [0] and the log of output tokens [1]. `token_factor` `(M,)` turns exp(mean log tokens) into
    expected tokens (Duan 1983, the smearing estimate) and `token_spread` `(M,)` is the standard deviation
    of tokens in units of their expectation; both are NaN for a model whose lengths were never seen.
    `request_low`, `request_high` `(K,)` are the `reach` of the features of requests.
    """

    centre: F32
    scale: F32
    hidden_weight: F32
    hidden_bias: F32
    output_weight: F32
    output_bias: F32
    token_factor: F32
    token_spread: F32
    request_low: F32
    request_high: F32

    @property
    def reach(self) -> Reach:
        """Which features of requests are read, and how far."""
        return Reach(self.request_low, self.request_high)


class Head:
    """The fitted ensemble; runs on the CPU or wherever `to` put it."""

    kind: ClassVar[str] = "head"

    def __init__(self, models: tuple[str, ...], weights: HeadWeights, device: str = "cpu") -> None:
        import torch

        self.models = models
        self.weights = weights
        self._device = torch.device(device)
        members, features, hidden = weights.hidden_weight.shape
        # Standardisation is folded into the hidden layer.
        folded = weights.hidden_weight / weights.scale[None, :, None]
        bias = weights.hidden_bias - np.einsum("d,bdh->bh", weights.centre, folded)
        self._hidden_weight = self._tensor(folded.transpose(1, 0, 2).reshape(features, members * hidden))
        self._hidden_bias = self._tensor(bias.reshape(1, members * hidden))
        self._shape = (members, hidden)
        self._blocks = [
            (self._tensor(weight), self._tensor(bias))
            for weight, bias in _blocks(weights.output_weight, weights.output_bias)
        ]

    def to(self, device: str) -> Head:
        """The same head on another device."""
        return Head(self.models, self.weights, device)

    def select(self, models: Sequence[str]) -> Head:
        """These of its models, in this order."""
        columns = [self.models.index(model) for model in models]
        names = ("output_weight", "output_bias", "token_factor", "token_spread")
        chosen = {name: getattr(self.weights, name)[..., columns] for name in names}
        return Head(tuple(models), replace(self.weights, **chosen), str(self._device))

    def arrays(self) -> Arrays:
        """The weights."""
        return asdict(self.weights)

    def settings(self) -> dict[str, int | float]:
        """None: the weights' shapes say it all."""
        return {}

    @classmethod
    def restore(cls, models: tuple[str, ...], arrays: Arrays, settings: dict[str, int | float], device: str) -> Head:
        """From an artefact; one of version 2 says nothing of requests, so their features are not read."""
        said = {"request_low": Reach.nothing().low, "request_high": Reach.nothing().high, **arrays}
        return cls(models, HeadWeights(**{f.name: said[f.name] for f in fields(HeadWeights)}), device)

    def predict(self, features: Features) -> Prediction:
        """Outcomes of N requests; `success_samples` are the members' probabilities."""
        import torch

        with torch.inference_mode():
            blocks = self._outputs(features)
            # Block by block: a vectorised sigmoid rounds by an element's place in memory.
            samples = np.concatenate([torch.sigmoid(logits).cpu().numpy() for logits, _ in blocks], axis=-1)
        tokens = self._typical(blocks) * self.weights.token_factor
        samples = samples[..., : len(self.models)]
        return Prediction.from_samples(samples, tokens, tokens * self.weights.token_spread)

    def typical_tokens(self, features: Features) -> FloatArray:
        """exp of the members' mean log output tokens, `(N, M)`, before `token_factor`."""
        import torch

        with torch.inference_mode():
            return self._typical(self._outputs(features))

    def _typical(self, blocks: list[tuple[torch.Tensor, torch.Tensor]]) -> FloatArray:
        log_tokens = np.concatenate([logs.double().mean(dim=0).cpu().numpy() for _, logs in blocks], axis=-1)
        return np.asarray(np.exp(np.clip(log_tokens[:, : len(self.models)], 0.0, 16.0)))

    def _outputs(self, features: Features) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Logits of success and log tokens of every block of models, each `(B, N, BLOCK)`."""
        import torch

        hidden = self._hidden(torch.from_numpy(features.stacked(self.weights.reach)).to(self._device))
        joined = [torch.baddbmm(bias, hidden, weight) for weight, bias in self._blocks]
        return [(both[..., :BLOCK].contiguous(), both[..., BLOCK:].contiguous()) for both in joined]

    def _hidden(self, stacked: torch.Tensor) -> torch.Tensor:
        """Hidden units of `(N, D)` features, shape `(B, N, H)`."""
        import torch

        flat = torch.addmm(self._hidden_bias, stacked, self._hidden_weight)
        return activation(flat.view(-1, *self._shape).transpose(0, 1).contiguous())

    def _tensor(self, values: NDArray[np.floating]) -> torch.Tensor:
        import torch

        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(self._device)


def activation(values: torch.Tensor) -> torch.Tensor:
    """Non-linearity of the hidden layer."""
    import torch

    return torch.nn.functional.gelu(values)


def _blocks(weight: F32, bias: F32) -> list[tuple[F32, F32]]:
    """Output columns `(B, H, 2, M)` cut into padded blocks `(B, H, 2 * BLOCK)`, biases `(B, 1, 2 *
    BLOCK)`.
    """
    padding = -weight.shape[-1] % BLOCK
    weight = np.pad(weight, [(0, 0)] * 3 + [(0, padding)])
    bias = np.pad(bias, [(0, 0)] * 2 + [(0, padding)])
    members, hidden = weight.shape[:2]
    return [
        (
            weight[..., start : start + BLOCK].reshape(members, hidden, 2 * BLOCK),
            bias[..., start : start + BLOCK].reshape(members, 1, 2 * BLOCK),
        )
        for start in range(0, weight.shape[-1], BLOCK)
    ]
