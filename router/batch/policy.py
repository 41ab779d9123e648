"""By what a batch is planned: frozen values, which whoever runs the batch makes from its configuration."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from apportion.router.arrays import FloatArray
from apportion.router.assignment import Mip, Strategy
from apportion.router.batch.capabilities import EVERYTHING, Capabilities
from apportion.router.cascade.pair import Pair
from apportion.router.prices import ModelPrice


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as the batch knows it.

    Args:
        name: of the model.
        price: what it costs now.
        max_model_len: its longest prompt plus answer, in tokens.
        clamps: a request that allows a longer answer than fits beside its prompt gets what fits; else it is not for it.
        by_name_only: nobody knows how well it answers, so that it gets no request that does not name it.
        capabilities: what it can do.
        media_tokens: the most that a picture and an audio clip count for in its prompt.
    """

    name: str
    price: ModelPrice
    max_model_len: int
    clamps: bool = True
    by_name_only: bool = False
    capabilities: Capabilities = EVERYTHING
    media_tokens: tuple[int, int] = (0, 0)


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
        names: of the models.
        prices: of the models, as they are listed.
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(model.name for model in self.models))
        object.__setattr__(self, "prices", tuple(model.price for model in self.models))

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

    def column_of(self, name: str) -> int:
        """The place of the model of that name."""
        return self.names.index(name)

    def price_of(self, name: str) -> ModelPrice:
        """The price of the model of that name."""
        return self.prices[self.column_of(name)]
