"""Gradient descent on an ensemble of heads: bootstrap weights, masked losses, early stopping of every
member.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from apportion.router.prediction.estimator import Steps
from apportion.router.prediction.head import activation
from apportion.router.prediction.targets import Targets

if TYPE_CHECKING:
    import torch

_LEAST_GAIN = 1e-5


@dataclass(frozen=True)
class Rows:
    """Standardised features `(n, D)` and what is to be predicted from them."""

    inputs: torch.Tensor
    targets: Targets


@dataclass(frozen=True)
class Parameters:
    """Parameters of B members: shapes `(B, D, H)`, `(B, 1, H)`, `(B, H, 2, M)` and `(B, 2, M)`."""

    hidden_weight: torch.Tensor
    hidden_bias: torch.Tensor
    output_weight: torch.Tensor
    output_bias: torch.Tensor
    frozen_hidden: bool = False

    def all(self) -> tuple[torch.Tensor, ...]:
        """Every tensor, in the order of the fields."""
        return self.hidden_weight, self.hidden_bias, self.output_weight, self.output_bias

    def copy(self) -> Parameters:
        """Detached from any gradient."""
        hidden_weight, hidden_bias, output_weight, output_bias = (v.detach().clone() for v in self.all())
        return Parameters(hidden_weight, hidden_bias, output_weight, output_bias, self.frozen_hidden)

    def forward(self, inputs: torch.Tensor, dropout: float = 0.0) -> torch.Tensor:
        """Logits and standardised log tokens, shape `(B, n, 2, M)`."""
        import torch

        hidden = activation(inputs @ self.hidden_weight + self.hidden_bias)
        hidden = torch.nn.functional.dropout(hidden, dropout, training=dropout > 0)
        outputs = torch.baddbmm(self.output_bias.flatten(1).unsqueeze(1), hidden, self.output_weight.flatten(2))
        return outputs.view(*outputs.shape[:2], *self.output_weight.shape[2:])


@dataclass(frozen=True)
class Descent:
    """AdamW on all members at once; the settings are those of `HeadEstimator`."""

    dropout: float
    learning_rate: float
    weight_decay: float
    token_weight: float
    batch_size: int
    max_epochs: int
    patience: int

    def run(self, start: Parameters, train: Rows, checks: Rows, seed: int, progress: Steps | None) -> Parameters:
        """Parameters of every member at the epoch where its own loss on `checks` was lowest."""
        import torch

        rng = np.random.default_rng(seed)
        parameters, best = start.copy(), start.copy()
        optimiser = self._optimiser(parameters)
        rows, members = len(train.inputs), len(start.output_bias)
        draws = rng.multinomial(rows, np.full(rows, 1 / rows), size=members)
        weights = torch.from_numpy(draws.astype(np.float32))
        lowest = self._losses(best.forward(checks.inputs), checks.targets).mean(1)
        stale = 0
        for epoch in range(self.max_epochs):
            for batch in np.array_split(rng.permutation(rows), max(1, rows // self.batch_size)):
                outputs = parameters.forward(train.inputs[batch], self.dropout)
                losses = self._losses(outputs, train.targets.subset(batch)) * weights[:, batch]
                optimiser.zero_grad()
                losses.mean(1).sum().backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            with torch.no_grad():
                current = self._losses(parameters.forward(checks.inputs), checks.targets).mean(1)
                better = current < lowest - _LEAST_GAIN
                lowest = torch.where(better, current, lowest)
                for kept, value in zip(best.all(), parameters.all(), strict=True):
                    kept[better] = value[better]
            stale = 0 if bool(better.any()) else stale + 1
            if progress is not None:
                progress(epoch + 1, self.max_epochs)
            if stale >= self.patience:
                break
        return best

    def _optimiser(self, parameters: Parameters) -> torch.optim.Optimizer:
        import torch

        weights, biases = [parameters.output_weight], [parameters.output_bias]
        if not parameters.frozen_hidden:
            weights.append(parameters.hidden_weight)
            biases.append(parameters.hidden_bias)
        for value in (*weights, *biases):
            value.requires_grad_(True)
        groups: list[dict[str, Any]] = [{"params": weights}, {"params": biases, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.learning_rate, weight_decay=self.weight_decay)

    def _losses(self, outputs: torch.Tensor, targets: Targets) -> torch.Tensor:
        """Loss of every member on every row, `(B, n)`: the mean over the outcomes that are known.

        Binary cross-entropy of success, and weighted squared error of standardised log tokens.
        """
        import torch

        logits, lengths = outputs[:, :, 0], outputs[:, :, 1]
        success = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, targets.scores.expand_as(logits), reduction="none"
        )
        tokens = (lengths - targets.lengths) ** 2
        return _mean_known(success, targets.score_known) + self.token_weight * _mean_known(tokens, targets.length_known)


def _mean_known(losses: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Mean over the last axis of the entries that are known, zero where none is."""
    return (losses * known).sum(-1) / known.sum(-1).clamp(min=1)
