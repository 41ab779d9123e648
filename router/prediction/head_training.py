"""Training of the multi-label head: masked losses, bootstrap weights, early stopping, new columns later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from router.errors import OutcomesTableError
from router.prediction.features import Features
from router.prediction.head import Head, HeadWeights, activation
from router.prediction.outcomes import OutcomesTable
from router.prediction.targets import Targets

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int], None]
"""Called with (epochs done, epochs at most)."""


@dataclass(frozen=True)
class HeadEstimator:
    """Settings of the head and of its training; `fit` gives a `Head`.

    Every member sees its own bootstrap sample of the rows (drawn with replacement, as weights) and stops
    where its own validation loss is lowest. `token_weight` weighs the squared error of standardised log
    output tokens against the binary cross-entropy of success.
    """

    members: int = 8
    hidden: int = 64
    dropout: float = 0.3
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    token_weight: float = 0.2
    batch_size: int = 256
    max_epochs: int = 120
    patience: int = 12

    def fit(
        self,
        features: Features,
        table: OutcomesTable,
        validation: tuple[Features, OutcomesTable],
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Head:
        """Fit all models' columns and the layer they share.

        Raises OutcomesTableError when a model has no score in the training rows.
        """
        train = Targets.of(table)
        stacked = features.stacked()
        centre, scale = stacked.mean(axis=0), np.maximum(stacked.std(axis=0), 1e-3)
        shape = (self.members, stacked.shape[1], self.hidden, len(table.models))
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            parameters = _initial(shape, train)
            inputs = torch.from_numpy((stacked - centre) / scale)
            checks = torch.from_numpy((validation[0].stacked() - centre) / scale)
            best = self._train(
                inputs, train, checks, Targets.of(validation[1], train), parameters, True, seed, progress
            )
        head = Head(table.models, _weights(best, centre, scale, train))
        return with_token_scale(head, *validation)

    def add_models(
        self,
        head: Head,
        features: Features,
        table: OutcomesTable,
        validation: tuple[Features, OutcomesTable],
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Head:
        """Fit columns for the models of `table`, with the shared layer and all other columns left as they
        are.

        Raises OutcomesTableError when the head knows one of the models already.
        """
        known = sorted(set(table.models) & set(head.models))
        if known:
            raise OutcomesTableError(f"The head already has columns for {known}: give outcomes of new models only.")
        old, train = head.weights, Targets.of(table)
        members, _, hidden = old.hidden_weight.shape
        recipe = replace(self, members=members)
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            parameters = _initial((members, 1, hidden, len(table.models)), train)
            standardised = [(f.stacked() - old.centre) / old.scale for f in (features, validation[0])]
            shared = {"hidden_weight": torch.from_numpy(old.hidden_weight)}
            shared["hidden_bias"] = torch.from_numpy(old.hidden_bias[:, None, :])
            inputs, checks = (torch.from_numpy(x) for x in standardised)
            best = recipe._train(
                inputs,
                train,
                checks,
                Targets.of(validation[1], train),
                parameters | shared,
                False,
                seed,
                progress,
            )
        alone = Head(table.models, replace(old, **_outputs(best, train)))
        new = with_token_scale(alone, *validation).weights
        columns = {
            name: np.concatenate([getattr(old, name), getattr(new, name)], axis=-1)
            for name in ("output_weight", "output_bias", "token_factor", "token_spread")
        }
        return Head(head.models + table.models, replace(old, **columns))

    def _train(
        self,
        inputs: torch.Tensor,
        train: Targets,
        checks: torch.Tensor,
        check_targets: Targets,
        parameters: dict[str, torch.Tensor],
        shared: bool,
        seed: int,
        progress: Progress | None,
    ) -> dict[str, torch.Tensor]:
        """Adam on all members at once; the parameters of every member at its best epoch."""
        import torch

        rng = np.random.default_rng(seed)
        rows = len(inputs)
        draws = rng.multinomial(rows, np.full(rows, 1 / rows), size=self.members)
        weights = torch.from_numpy(draws.astype(np.float32))
        trained = [name for name in parameters if shared or name.startswith("output")]
        for name in trained:
            parameters[name].requires_grad_(True)
        groups: list[dict[str, Any]] = [
            {"params": [parameters[n] for n in trained if n.endswith("weight")]},
            {"params": [parameters[n] for n in trained if n.endswith("bias")], "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, lr=self.learning_rate, weight_decay=self.weight_decay)
        best = {name: value.detach().clone() for name, value in parameters.items()}
        lowest = self._losses(_forward(checks, parameters, 0.0), check_targets).mean(1).detach()
        stale = 0
        for epoch in range(self.max_epochs):
            for batch in np.array_split(rng.permutation(rows), max(1, rows // self.batch_size)):
                outputs = _forward(inputs[batch], parameters, self.dropout)
                losses = self._losses(outputs, train.subset(batch))
                loss = (losses * weights[:, batch]).mean(1).sum()
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            with torch.no_grad():
                current = self._losses(_forward(checks, parameters, 0.0), check_targets).mean(1)
                better = current < lowest - 1e-5
                lowest = torch.where(better, current, lowest)
                for name, value in parameters.items():
                    best[name][better] = value.detach()[better]
            stale = 0 if bool(better.any()) else stale + 1
            if progress is not None:
                progress(epoch + 1, self.max_epochs)
            if stale >= self.patience:
                break
        return best

    def _losses(self, outputs: torch.Tensor, targets: Targets) -> torch.Tensor:
        """Loss of every member on every row, `(B, n)`: the mean over the outcomes that are known."""
        import torch

        logits, lengths = outputs[:, :, 0], outputs[:, :, 1]
        scores = targets.scores.expand_as(logits)
        success = torch.nn.functional.binary_cross_entropy_with_logits(logits, scores, reduction="none")
        tokens = (lengths - targets.lengths) ** 2
        known = targets.score_known.sum(-1).clamp(min=1)
        known_lengths = targets.length_known.sum(-1).clamp(min=1)
        return (success * targets.score_known).sum(-1) / known + self.token_weight * (
            tokens * targets.length_known
        ).sum(-1) / known_lengths


def _initial(shape: tuple[int, int, int, int], train: Targets) -> dict[str, torch.Tensor]:
    """Random shared layer; output columns that predict every model's mean score and length."""
    import torch

    members, features, hidden, models = shape
    share = np.clip(train.mean_score, 0.01, 0.99)
    bias = torch.zeros(members, 2, models)
    bias[:, 0] = torch.from_numpy(np.log(share / (1 - share)))
    return {
        "hidden_weight": torch.randn(members, features, hidden) / features**0.5,
        "hidden_bias": torch.zeros(members, 1, hidden),
        "output_weight": torch.zeros(members, hidden, 2, models),
        "output_bias": bias,
    }


def _forward(inputs: torch.Tensor, parameters: dict[str, torch.Tensor], dropout: float) -> torch.Tensor:
    """Logits and standardised log tokens of `(n, D)` inputs, shape `(B, n, 2, M)`."""
    import torch

    hidden = activation(inputs @ parameters["hidden_weight"] + parameters["hidden_bias"])
    hidden = torch.nn.functional.dropout(hidden, dropout, training=dropout > 0)
    weight = parameters["output_weight"]
    outputs = torch.baddbmm(parameters["output_bias"].flatten(1).unsqueeze(1), hidden, weight.flatten(2))
    return outputs.view(*outputs.shape[:2], *weight.shape[2:])


def _weights(
    parameters: dict[str, torch.Tensor],
    centre: NDArray[np.float32],
    scale: NDArray[np.float32],
    train: Targets,
) -> HeadWeights:
    hidden_weight = parameters["hidden_weight"].detach().numpy()
    hidden_bias = parameters["hidden_bias"].detach().numpy()[:, 0]
    return HeadWeights(centre, scale, hidden_weight, hidden_bias, **_outputs(parameters, train))


def _outputs(parameters: dict[str, torch.Tensor], train: Targets) -> dict[str, NDArray[np.float32]]:
    """Output columns with the standardisation of log tokens undone; the scale of tokens is not known yet."""
    weight = parameters["output_weight"].detach().numpy().astype(np.float64)
    bias = parameters["output_bias"].detach().numpy().astype(np.float64)
    weight[:, :, 1] *= train.log_std
    bias[:, 1] = bias[:, 1] * train.log_std + train.log_mean
    arrays = {"output_weight": weight, "output_bias": bias}
    arrays["token_factor"] = np.ones(len(train.log_mean))
    arrays["token_spread"] = np.zeros(len(train.log_mean))
    return {name: values.astype(np.float32) for name, values in arrays.items()}


def with_token_scale(head: Head, features: Features, table: OutcomesTable) -> Head:
    """The head with expected tokens and their spread fitted to these rows, which it was not trained on.

    The factor is the smearing estimate of Duan (1983, "Smearing Estimate: A Nonparametric Retransformation
    Method") in ratio form: sum of tokens over sum of exp(mean log tokens). NaN for a model without known
    lengths.
    """
    typical = head.typical_tokens(features)
    known = ~np.isnan(table.output_tokens)
    actual = np.where(known, table.output_tokens, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = actual.sum(axis=0) / np.where(known, typical, 0.0).sum(axis=0)
        relative = np.where(known, actual / (typical * factor) - 1.0, 0.0)
        spread = np.sqrt((relative**2).sum(axis=0) / known.sum(axis=0))
    scaled = replace(head.weights, token_factor=factor.astype(np.float32), token_spread=spread.astype(np.float32))
    return Head(head.models, scaled)
