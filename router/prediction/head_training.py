"""Training of the multi-label head: all columns together, or new columns beside frozen ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from apportion.router.errors import OutcomesTableError
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.descent import Descent, Parameters, Rows
from apportion.router.prediction.estimator import Steps
from apportion.router.prediction.features import Features
from apportion.router.prediction.head import Head, HeadWeights
from apportion.router.prediction.request_features import Reach
from apportion.router.prediction.targets import Targets

if TYPE_CHECKING:
    import torch


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
        progress: Steps | None = None,
    ) -> Head:
        """Fit all models' columns and the layer they share.

        Raises OutcomesTableError when a model has no score in the training rows.
        """
        import torch

        reach, targets = Reach.of(features.requests), Targets.of(table)
        stacked = features.stacked(reach)
        centre, scale = stacked.mean(axis=0), np.maximum(stacked.std(axis=0), _least_scale(stacked, reach))
        train = Rows(_standardised(stacked, centre, scale), targets)
        held_out = validation[0].stacked(reach)
        checks = Rows(_standardised(held_out, centre, scale), Targets.of(validation[1], targets))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            hidden = _random_hidden(self.members, stacked.shape[1], self.hidden)
            start = Parameters(*hidden, *_mean_outputs(self.members, self.hidden, targets))
            best = self._descent().run(start, train, checks, seed, progress)
        weights = HeadWeights(
            centre,
            scale,
            best.hidden_weight.numpy(),
            best.hidden_bias.numpy()[:, 0],
            request_low=reach.low,
            request_high=reach.high,
            **_outputs(best, targets),
        )
        return with_token_scale(Head(table.models, weights), *validation)

    def add_models(
        self,
        head: Head,
        features: Features,
        table: OutcomesTable,
        validation: tuple[Features, OutcomesTable],
        seed: int = 0,
        progress: Steps | None = None,
    ) -> Head:
        """Fit columns for the models of `table`; the shared layer and all other columns stay as they are.

        Raises OutcomesTableError when the head knows one of the models already.
        """
        import torch

        known = sorted(set(table.models) & set(head.models))
        if known:
            raise OutcomesTableError(
                f"models {known}: the head has columns for them already, give outcomes of new models only"
            )
        old, targets = head.weights, Targets.of(table)
        train = Rows(_standardised(features.stacked(old.reach), old.centre, old.scale), targets)
        held_out = validation[0].stacked(old.reach)
        checks = Rows(_standardised(held_out, old.centre, old.scale), Targets.of(validation[1], targets))
        members, _, hidden = old.hidden_weight.shape
        shared = torch.from_numpy(old.hidden_weight.copy()), torch.from_numpy(old.hidden_bias[:, None].copy())
        start = Parameters(*shared, *_mean_outputs(members, hidden, targets), frozen_hidden=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            best = self._descent().run(start, train, checks, seed, progress)
        alone = Head(table.models, replace(old, **_outputs(best, targets)))
        new = with_token_scale(alone, *validation).weights
        columns = {
            name: np.concatenate([getattr(old, name), getattr(new, name)], axis=-1)
            for name in ("output_weight", "output_bias", "token_factor", "token_spread")
        }
        return Head(head.models + table.models, replace(old, **columns))

    def _descent(self) -> Descent:
        return Descent(
            dropout=self.dropout,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            token_weight=self.token_weight,
            batch_size=self.batch_size,
            max_epochs=self.max_epochs,
            patience=self.patience,
        )


def _least_scale(stacked: NDArray[np.float32], reach: Reach) -> NDArray[np.float32]:
    """(D,) what standard deviations count as at least; a request's features go from 0 to 1, and a rare 1 must not
    drown all others.
    """
    least = np.full(stacked.shape[1], 1e-3, dtype=np.float32)
    least[stacked.shape[1] - reach.width :] = 0.1
    return least


def _standardised(
    stacked: NDArray[np.float32], centre: NDArray[np.float32], scale: NDArray[np.float32]
) -> torch.Tensor:
    import torch

    return torch.from_numpy((stacked - centre) / scale)


def _random_hidden(members: int, features: int, hidden: int) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    return torch.randn(members, features, hidden) / features**0.5, torch.zeros(members, 1, hidden)


def _mean_outputs(members: int, hidden: int, targets: Targets) -> tuple[torch.Tensor, torch.Tensor]:
    """Output columns that predict every model's mean score and mean length, whatever the features."""
    import torch

    share = np.clip(targets.mean_score, 0.01, 0.99)
    bias = torch.zeros(members, 2, len(share))
    bias[:, 0] = torch.from_numpy(np.log(share / (1 - share)))
    return torch.zeros(members, hidden, 2, len(share)), bias


def _outputs(parameters: Parameters, targets: Targets) -> dict[str, NDArray[np.float32]]:
    """Output columns with the standardisation of log tokens undone; the scale of tokens is not known yet."""
    weight = parameters.output_weight.numpy().astype(np.float64)
    bias = parameters.output_bias.numpy().astype(np.float64)
    weight[:, :, 1] *= targets.log_std
    bias[:, 1] = bias[:, 1] * targets.log_std + targets.log_mean
    arrays = {"output_weight": weight, "output_bias": bias}
    arrays["token_factor"] = np.ones(len(targets.log_mean))
    arrays["token_spread"] = np.zeros(len(targets.log_mean))
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
