"""By what a batch is planned: frozen values, which whoever runs the batch makes from its configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

from apportion.router.assignment import Strategy
from apportion.router.batch.capabilities import EVERYTHING, Capabilities
from apportion.router.prices import ModelPrice


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as the batch knows it: its name, what it costs now, and its longest prompt plus answer in tokens.

    `capabilities` are what it can do, `media_tokens` the most that a picture and an audio clip count for in its prompt.
    `clamps`: a request that allows a longer answer than fits beside its prompt gets what fits; else it is not for it.
    `by_name_only`: nobody knows how well it answers, so that it gets no request that does not name it.
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

    `models` are in the order of every array. A batch may spend `budget_usd_per_request` times its requests; None: no
    cap. A model counts as better by `stay_value` where it answered the request's session last. `names` and `prices`
    (list prices) follow from the models.
    """

    models: tuple[ServedModel, ...]
    strategy: Strategy
    budget_usd_per_request: float | None = None
    stay_value: float = 0.0

    names: tuple[str, ...] = field(init=False)
    prices: tuple[ModelPrice, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(model.name for model in self.models))
        object.__setattr__(self, "prices", tuple(model.price for model in self.models))

    def price_of(self, name: str) -> ModelPrice:
        """The price of the model of that name."""
        return self.prices[self.names.index(name)]
