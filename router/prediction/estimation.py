"""From requests to the table of estimates, the same way wherever requests are served, assigned or planned for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from apportion.router.arrays import FloatArray
from apportion.router.chat import request_text
from apportion.router.costs import answered_tokens
from apportion.router.errors import ApportionError, InvalidRequestError
from apportion.router.estimates import Estimates
from apportion.router.prediction.fleet_predictor import FleetPredictor
from apportion.router.prediction.predictor import Predictor
from apportion.router.prediction.tokens import Counts, TokenCounter
from apportion.router.prices import ModelPrice
from apportion.router.traits import PLAIN, Traits
from apportion.router.unpriced import Unpriced, concatenate

logger = logging.getLogger(__name__)


class Request(Protocol):
    """What estimates depend on: `sequences` is the number of answers, each of `min_tokens` to `max_tokens`."""

    @property
    def content(self) -> Any: ...
    @property
    def tools(self) -> list[dict[str, Any]] | None: ...
    @property
    def template_variables(self) -> Mapping[str, Any]: ...
    @property
    def max_tokens(self) -> int | None: ...
    @property
    def min_tokens(self) -> int: ...
    @property
    def sequences(self) -> int: ...
    @property
    def traits(self) -> Traits: ...


@dataclass(frozen=True)
class Probe:
    """A request that can always be read: where it cannot, the predictor is at fault."""

    content: str = "What is 1 plus 1?"
    tools: None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    sequences: int = 1
    template_variables: Mapping[str, Any] = field(default_factory=dict)
    traits: Traits = PLAIN


@dataclass(frozen=True)
class RequestEstimator:
    """Predicts success, lengths and costs of requests.

    Args:
        predictor: its models are the columns of all estimates.
        counter: the models' own tokenizers, in that order; None: the encoder's tokenizer stands for all of them, and
            chat templates are not counted.
        context: (M,), tokens of prompt and answer together; None: unknown, so only requests limit their answers.
        longest: (M,), tokens of each variant's longest answer; None: they set no limits.
    """

    predictor: Predictor | FleetPredictor
    counter: TokenCounter | None = None
    context: FloatArray | None = None
    longest: FloatArray | None = None

    def estimate(self, requests: Sequence[Request], prices: Sequence[ModelPrice]) -> Estimates:
        """As `forecast`, at these prices."""
        return self.forecast(requests).priced(prices)

    def forecast(self, requests: Sequence[Request]) -> Unpriced:
        """What is expected of the requests; one that cannot be read gets an error of its own and spoils nothing.

        Raises:
            Exception: nothing can be estimated, so that it is no request's fault.
        """
        try:
            return self._forecast_together(requests)
        except Exception as error:
            if len(requests) > 1:  # the halves by themselves, until the request that is at fault is alone
                half = len(requests) // 2
                return concatenate([self.forecast(part) for part in (requests[:half], requests[half:])])
            placeholder = self._forecast_together([Probe()])
            logger.warning("a request cannot be estimated: %s", type(error).__name__)
            unread = InvalidRequestError("this request cannot be read; check its text, its messages and its tools")
            return replace(placeholder, errors={0: error if isinstance(error, ApportionError) else unread})

    def _forecast_together(self, requests: Sequence[Request]) -> Unpriced:
        texts = [request_text(request.content) for request in requests]
        counts = self._count(requests, texts)
        input_tokens = counts.tokens.astype(np.float64)
        prediction = self.predictor.predict(texts, [request.traits for request in requests])
        asked = np.array([request.max_tokens or np.inf for request in requests], dtype=float)[:, None]
        limit = asked if self.longest is None else np.minimum(asked, self.longest)
        least = np.array([request.min_tokens for request in requests], dtype=float)[:, None]
        answered, answered_std = answered_tokens(
            prediction.output_tokens,
            prediction.output_tokens_std,
            input_tokens,
            max_output_tokens=limit,
            context=self.context,
            sequences=[request.sequences for request in requests],
            min_output_tokens=least,
        )
        output_tokens = np.minimum(np.maximum(prediction.output_tokens, least), limit)
        layers = (prediction.success, prediction.success_std, input_tokens, output_tokens, answered, answered_std)
        return Unpriced(
            models=tuple(self.predictor.models),
            table=np.stack(layers),
            success_samples=prediction.success_samples,
            errors=counts.errors,
            refusals=counts.refusals,
            calibrated_success=prediction.calibrated_success,
        )

    def _count(self, requests: Sequence[Request], texts: Sequence[str]) -> Counts:
        if self.counter is None:
            counts = np.asarray(self.predictor.encoder.count_tokens(texts))
            return Counts(np.repeat(counts[:, None], len(self.predictor.models), axis=1), {}, {})
        return self.counter.count_batch(
            [request.content for request in requests],
            [request.tools for request in requests],
            [request.template_variables for request in requests],
        )


def routed(estimates: Estimates, predictor: Predictor | FleetPredictor) -> Estimates:
    """The predictor's estimates of requests that name no model: a model of which nobody says how well it answers is
    out.
    """
    out = predictor.by_name_only if isinstance(predictor, FleetPredictor) else ()
    reasons = dict.fromkeys(out, "has no outcomes yet, and no prior_success is stated")
    if not reasons:
        return estimates
    refusals = estimates.refusals
    return replace(estimates, refusals={row: {**reasons, **refusals.get(row, {})} for row in range(len(estimates))})
