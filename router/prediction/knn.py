"""Nearest neighbours: a model does on a request as it did on the k most similar ones that it has answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from apportion.router.arrays import FloatArray, IntArray
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.estimator import Steps
from apportion.router.prediction.features import Features
from apportion.router.prediction.prediction import Prediction

if TYPE_CHECKING:
    from apportion.router.prediction.artefact import Arrays

_QUERIES_PER_STEP = 256
_REACH = 3
"""A bootstrap sample's k nearest lie, but for rare cases, within the 3 k nearest of the whole set."""


@dataclass(frozen=True)
class KnnEstimator:
    """`k` neighbours by cosine similarity; `members` bootstrap samples of the rows give the spread."""

    k: int = 40
    members: int = 8

    def fit(
        self,
        features: Features,
        table: OutcomesTable,
        validation: tuple[Features, OutcomesTable] | None = None,
        seed: int = 0,
        progress: Steps | None = None,
    ) -> Neighbours:
        """Remember the rows; neither `validation` nor `progress` is needed. Raises OutcomesTableError for a model
        without scores.
        """
        table.require_scores()
        return Neighbours(
            models=table.models,
            embeddings=_unit(features.embeddings),
            scores=table.scores.astype(np.float32),
            output_tokens=table.output_tokens.astype(np.float32),
            k=self.k,
            members=self.members,
            seed=seed,
        )

    def add_models(
        self,
        fitted: Neighbours,
        features: Features,
        table: OutcomesTable,
        validation: tuple[Features, OutcomesTable] | None = None,
        seed: int = 0,
        progress: Steps | None = None,
    ) -> Neighbours:
        """Remember the rows of new models as well: `fitted` keeps its own settings. Raises OutcomesTableError for a
        model without scores.
        """
        return fitted.add(features, table)


@dataclass(frozen=True)
class Neighbours:
    """Remembered rows: unit `embeddings` `(R, D)`, `scores` and `output_tokens` `(R, M)` with NaN where
    unknown.
    """

    kind: ClassVar[str] = "knn"

    models: tuple[str, ...]
    embeddings: NDArray[np.float32]
    scores: NDArray[np.float32]
    output_tokens: NDArray[np.float32]
    k: int
    members: int
    seed: int

    def add(self, features: Features, table: OutcomesTable) -> Neighbours:
        """With more rows, of known models or new ones; a known model without outcomes in them keeps its
        estimates. Raises OutcomesTableError for a new model without scores.
        """
        added = tuple(model for model in table.models if model not in self.models)
        if added:
            table.select_models(added).require_scores()
        models = self.models + added
        old = np.arange(len(self.models))
        columns = [models.index(model) for model in table.models]
        rows = len(self.embeddings) + len(features)
        scores = np.full((rows, len(models)), np.nan, dtype=np.float32)
        output_tokens = scores.copy()
        for values, before, new in (
            (scores, self.scores, table.scores),
            (output_tokens, self.output_tokens, table.output_tokens),
        ):
            values[: len(self.embeddings), old] = before
            values[len(self.embeddings) :, columns] = new
        embeddings = np.vstack([self.embeddings, _unit(features.embeddings)])
        return Neighbours(models, embeddings, scores, output_tokens, self.k, self.members, self.seed)

    def select(self, models: Sequence[str]) -> Neighbours:
        """These of its models, in this order."""
        columns = [self.models.index(model) for model in models]
        scores, output_tokens = self.scores[:, columns], self.output_tokens[:, columns]
        return replace(self, models=tuple(models), scores=scores, output_tokens=output_tokens)

    def arrays(self) -> Arrays:
        """The remembered rows."""
        return {name: getattr(self, name) for name in ("embeddings", "scores", "output_tokens")}

    def settings(self) -> dict[str, int | float]:
        """k, members and seed."""
        return {"k": self.k, "members": self.members, "seed": self.seed}

    @classmethod
    def restore(
        cls, models: tuple[str, ...], arrays: Arrays, settings: dict[str, int | float], device: str
    ) -> Neighbours:
        """From an artefact, whose embeddings may be of half precision."""
        whole = {name: int(value) for name, value in settings.items()}
        embeddings = arrays["embeddings"].astype("float32")
        return cls(models, embeddings, arrays["scores"], arrays["output_tokens"], **whole)

    def predict(self, features: Features) -> Prediction:
        """Outcomes of N requests; every model's neighbours are sought among the rows that it has answered."""
        n, m = len(features), len(self.models)
        success, samples = np.empty((n, m)), np.empty((self.members, n, m))
        tokens, tokens_std = np.empty((n, m)), np.empty((n, m))
        queries = _unit(features.embeddings)
        for models, rows in self._groups():
            group = _Group(
                self.embeddings[rows],
                self.scores[np.ix_(rows, models)],
                self.output_tokens[np.ix_(rows, models)],
            )
            counts = _bootstrap_counts(self.members, len(rows), self.seed)
            for start in range(0, n, _QUERIES_PER_STEP):
                step = slice(start, start + _QUERIES_PER_STEP)
                (
                    success[step, models],
                    samples[:, step, models],
                    tokens[step, models],
                    tokens_std[step, models],
                ) = group.estimate(queries[step], self.k, counts)
        return Prediction(success, samples.std(axis=0), samples, tokens, tokens_std)

    def _groups(self) -> list[tuple[IntArray, IntArray]]:
        """Models that have answered the same rows, with these rows."""
        known = ~np.isnan(self.scores)
        patterns, member_of = np.unique(known, axis=1, return_inverse=True)
        return [
            (np.flatnonzero(member_of.ravel() == group), np.flatnonzero(patterns[:, group]))
            for group in range(patterns.shape[1])
        ]


@dataclass(frozen=True)
class _Group:
    embeddings: NDArray[np.float32]
    scores: NDArray[np.float32]
    output_tokens: NDArray[np.float32]

    def estimate(
        self, queries: NDArray[np.float32], k: int, counts: NDArray[np.float32]
    ) -> tuple[NDArray[np.floating], ...]:
        """Success `(n, m)`, its bootstrap samples `(B, n, m)`, mean and spread of tokens `(n, m)`."""
        rows = len(self.embeddings)
        reach = min(rows, _REACH * k)
        similarity = queries @ self.embeddings.T
        near = np.argpartition(-similarity, reach - 1, axis=1)[:, :reach]
        order = np.argsort(-np.take_along_axis(similarity, near, axis=1), axis=1, kind="stable")
        near = np.take_along_axis(near, order, axis=1)
        scores, lengths = self.scores[near], self.output_tokens[near[:, :k]]
        drawn = counts[:, near]
        weights = np.diff(np.minimum(np.cumsum(drawn, axis=-1), k), axis=-1, prepend=0)
        total = np.maximum(weights.sum(axis=-1, keepdims=True), 1)
        samples = np.einsum("bnr,nrm->bnm", weights / total, scores)
        tokens, tokens_std = _moments(lengths)
        return scores[:, :k].mean(axis=1), samples, tokens, tokens_std


def _moments(lengths: NDArray[np.float32]) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation over the neighbours `(n, k, m)`, NaN where no length is known."""
    known = ~np.isnan(lengths)
    values = np.where(known, lengths, 0.0).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = values.sum(axis=1) / known.sum(axis=1)
        square = (values**2).sum(axis=1) / known.sum(axis=1)
        return mean, np.sqrt(np.maximum(square - mean**2, 0.0))


def _bootstrap_counts(members: int, rows: int, seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.multinomial(rows, np.full(rows, 1 / rows), size=members).astype(np.float32)


def _unit(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.maximum(lengths, 1e-12), dtype=np.float32)
