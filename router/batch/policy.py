"""By what a batch is planned: frozen values, which whoever runs the batch makes from its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.assignment import Mip, Strategy
from apportion.router.batch.capabilities import EVERYTHING, Capabilities
from apportion.router.cascade.pair import Pair
from apportion.router.prices import ModelPrice
from apportion.router.variants import engines_of


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model, or a variant of one, as the batch knows it.

    Args:
        name: of the model.
        price: what it costs now.
        max_model_len: its longest prompt plus answer, in tokens.
        clamps: a request that allows a longer answer than fits beside its prompt gets what fits; else it is not for it.
        by_name_only: nobody knows how well it answers, so that it gets no request that does not name it.
        capabilities: what it can do.
        media_tokens: the most that a picture and an audio clip count for in its prompt.
        max_tokens: of its longest answer, whatever a request allows; None: what fits.
    """

    name: str
    price: ModelPrice
    max_model_len: int
    clamps: bool = True
    by_name_only: bool = False
    capabilities: Capabilities = EVERYTHING
    media_tokens: tuple[int, int] = (0, 0)
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """How batches are planned from now on.

    Args:
        models: in the order of every array.
        strategy: that plans what asks for none of its own.
        budget_usd_per_request: what requests may spend on average; None: no cap.
        pool_requests: what so many requests leave of it is kept for later ones; 0: every batch is by itself.
        stay_value: a model counts as better by so much where it answered the request's session last.
        correct_costs: expected costs go by how long answers have turned out to be.
        max_seconds: models that are expected to end a request later than this after its arrival are left out for it,
            where another one is free and can be paid; None: time takes no model out. A request's own goes before it.
        latency_weight_per_s: what a second counts for, in success.
        wake_timeout_s: a request waits at the most so long for a sleeping model.
        cascades: pairs of models, of which the second may be asked where the first one's answer is not sure enough.

    Attributes:
        names: of the columns: models, or their variants.
        prices: of the columns, as they are listed.
        engines: the models that have slots, each with all of its variants.
        engine_of: (M,), the place of each column's model among the engines.
        row_of_column: the same as `BatchProblem` takes it; None: each column is a model by itself.
    """

    models: tuple[ServedModel, ...]
    strategy: Strategy
    budget_usd_per_request: float | None = None
    pool_requests: int = 0
    stay_value: float = 0.0
    correct_costs: bool = True
    max_seconds: float | None = None
    latency_weight_per_s: float = 0.0
    wake_timeout_s: float = 300.0
    cascades: tuple[Pair, ...] = ()

    names: tuple[str, ...] = field(init=False)
    prices: tuple[ModelPrice, ...] = field(init=False)
    engines: tuple[str, ...] = field(init=False)
    engine_of: IntArray = field(init=False, compare=False)
    row_of_column: IntArray | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(model.name for model in self.models))
        object.__setattr__(self, "prices", tuple(model.price for model in self.models))
        engines, engine_of = engines_of(self.names)
        object.__setattr__(self, "engines", engines)
        object.__setattr__(self, "engine_of", engine_of)
        object.__setattr__(self, "row_of_column", engine_of if len(engines) < len(self.names) else None)

    def for_bulk(self, price_factor: float) -> Policy:
        """How rows of jobs are planned, which bring their models and their jobs' budgets.

        Args:
            price_factor: times a model's price is what a row costs on it.
        """
        models = tuple(replace(model, price=model.price.times(price_factor)) for model in self.models)
        return replace(
            self,
            models=models,
            strategy=Mip(),
            budget_usd_per_request=None,
            stay_value=0.0,
            max_seconds=None,
            latency_weight_per_s=0.0,
        )

    def penalty(self, seconds: FloatArray | None) -> FloatArray | None:
        """What times, of any shape, count for in success; None: nothing. Of what nobody knows nothing is held against.

        Args:
            seconds: expected; NaN, or None for all of them: not known.
        """
        if seconds is None or not self.latency_weight_per_s:
            return None
        return self.latency_weight_per_s * np.nan_to_num(seconds)

    def engines_with(self, columns: BoolArray) -> BoolArray:
        """(N, n_engines): those of which any of these columns (N, M) is a way to ask."""
        if self.row_of_column is None:
            return columns
        engines = np.zeros((len(columns), len(self.engines)), dtype=bool)
        rows, chosen = np.nonzero(columns)
        engines[rows, self.row_of_column[chosen]] = True
        return engines

    def column_of(self, name: str) -> int:
        """The place of the model of that name."""
        return self.names.index(name)

    def price_of(self, name: str) -> ModelPrice:
        """The price of the model of that name."""
        return self.prices[self.column_of(name)]


def longest_answers(asked: Sequence[int | None], models: Sequence[ServedModel]) -> FloatArray:
    """(N, M) tokens that answers end at, by their requests' wishes and their variants' limits; inf: only the context.

    Args:
        asked: (N,), as requests say.
    """
    wanted = np.array([one or np.inf for one in asked], dtype=np.float64)
    limits = np.array([model.max_tokens or np.inf for model in models], dtype=np.float64)
    return np.minimum(wanted[:, None], limits)


def priority_weight(priorities: Sequence[float]) -> FloatArray | None:
    """(N,) what requests of these priorities count in the objective, twice as much with each step; None: 1 each."""
    steps = np.array(priorities, dtype=np.float64)
    return np.exp2(steps) if steps.any() else None
