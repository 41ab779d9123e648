"""Which models may answer a request at all; and if none, the error that says why."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray
from apportion.router.batch.messages import RouteItem
from apportion.router.batch.policy import ServedModel
from apportion.router.errors import (
    ApportionError,
    BudgetExceededError,
    ContextLengthError,
    InfeasibleError,
    UnavailableError,
    UnknownModelError,
)
from apportion.router.estimates import Estimates, told, unreadable


def possible_models(items: Sequence[RouteItem], estimates: Estimates, models: Sequence[ServedModel]) -> BoolArray:
    """(N, M): False where a name, an allow-list, a template, the context, or a limit of the request forbids."""
    possible = _named(items, models) & estimates.readable() & _fits(items, estimates, models)
    most_usd = np.array([_or(item.ask.max_cost_usd, np.inf) for item in items])
    least = np.array([_or(item.ask.min_success, 0.0) for item in items])
    possible &= (estimates.cost_usd <= most_usd[:, None]) & (estimates.success >= least[:, None])
    possible[list(estimates.errors)] = False
    return possible


def reasons(
    item: RouteItem, estimates: Estimates, row: int, models: Sequence[ServedModel], healthy: BoolArray
) -> tuple[str | None, ...]:
    """Why each model may not answer the request; None: no limit of the request's or the model's forbids it."""
    named, fits = _named([item], models)[0], _fits([item], estimates.rows([row]), models)[0]
    refusals = estimates.refusals.get(row, {})
    most_usd, least = _or(item.ask.max_cost_usd, np.inf), _or(item.ask.min_success, 0.0)
    found = []
    for j, model in enumerate(models):
        limits = (
            (not named[j], "the request names other models"),
            (j in refusals, refusals.get(j)),
            (not fits[j], f"prompt and answer exceed its {model.max_model_len} tokens"),
            (not healthy[row, j], "no replica is ready, or it has failed this request"),
            (estimates.cost_usd[row, j] > most_usd, "its expected cost is above max_cost_usd"),
            (estimates.success[row, j] < least, "its predicted success is below min_success"),
        )
        found.append(next((reason for holds, reason in limits if holds), None))
    return tuple(found)


def refuse(
    item: RouteItem,
    estimates: Estimates,
    row: int,
    models: Sequence[ServedModel],
    healthy: BoolArray,
) -> ApportionError:
    """The error for a request that no model may answer: the first limit that leaves none.

    Models that cannot read the request are told with their reasons, unless the request does not name them.
    """
    named = _named([item], models)[0]
    if not named.any():
        return UnknownModelError(
            f"the model is not served; use one of {', '.join(model.name for model in models)}", param="model"
        )
    refusals = {models[j].name: reason for j, reason in sorted(estimates.refusals.get(row, {}).items()) if named[j]}
    may = named & estimates.readable()[row]
    if not may.any():
        return unreadable(refusals)
    if row in estimates.errors:
        return estimates.errors[row]
    error = _limit(item, estimates.rows([row]), models, may, healthy[row])
    if refusals:
        message = f"{error.message}; {told(refusals)}"
        return type(error)(message, param=error.param, retry_after_s=error.retry_after_s)
    return error


def _limit(
    item: RouteItem, one: Estimates, models: Sequence[ServedModel], may: BoolArray, healthy: BoolArray
) -> ApportionError:
    """The first limit that leaves none of those that `may`; estimates are the request's alone."""
    fitting = may & _fits([item], one, models)[0]
    if not fitting.any():
        return _too_long(item, one, models, may)
    may = fitting & healthy
    if not may.any():
        names = [model.name for model, fits in zip(models, fitting, strict=True) if fits]
        return UnavailableError(f"no replica of {', '.join(names)} is ready; try again in some seconds")
    cost_usd, success = one.cost_usd[0], one.success[0]
    if item.ask.max_cost_usd is not None:
        affordable = may & (cost_usd <= item.ask.max_cost_usd)
        if not affordable.any():
            return BudgetExceededError(
                f"the cheapest model that may answer costs {cost_usd[may].min():.3g} USD, more than "
                f"max_cost_usd {item.ask.max_cost_usd:.3g}; raise it or lower max_tokens",
                param="routing.max_cost_usd",
            )
        may = affordable
    return InfeasibleError(
        f"no model within the request's limits reaches min_success {item.ask.min_success:.3g}; the best is "
        f"{success[may].max():.3g}: lower it or allow more models",
        param="routing.min_success",
    )


def _too_long(item: RouteItem, one: Estimates, models: Sequence[ServedModel], may: BoolArray) -> ContextLengthError:
    """In the words that clients look for; of the model that has most room."""
    room = np.where(may, _context(models) - one.input_tokens[0], -np.inf)
    best = int(room.argmax())
    left = int(room[best])
    asked = f" and max_tokens asks for {item.max_tokens}" if left > 0 else ""
    mend = f"lower max_tokens to at most {left}, or shorten the prompt" if left > 0 else "shorten the prompt"
    return ContextLengthError(
        f"this model's maximum context length is {models[best].max_model_len} tokens; the prompt has "
        f"{int(one.input_tokens[0, best])} tokens{asked}: {mend}",
        param="max_tokens" if left > 0 else None,
    )


def _named(items: Sequence[RouteItem], models: Sequence[ServedModel]) -> BoolArray:
    column = {model.name: j for j, model in enumerate(models)}
    named = np.ones((len(items), len(models)), dtype=bool)
    for row, item in enumerate(items):
        names = (item.model,) if item.model is not None else item.ask.models
        if names is not None:
            named[row] = False
            # While a deploy changes the models, an ingress may name one that this router does not know.
            named[row, [column[name] for name in names if name in column]] = True
    return named


def _fits(items: Sequence[RouteItem], estimates: Estimates, models: Sequence[ServedModel]) -> BoolArray:
    asked = np.array([item.max_tokens or 1 for item in items], dtype=float)
    answer = np.where([model.clamps for model in models], 1.0, asked[:, None])
    fits: BoolArray = estimates.input_tokens + answer <= _context(models)
    return fits


def _context(models: Sequence[ServedModel]) -> FloatArray:
    return np.array([model.max_model_len for model in models], dtype=float)


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
