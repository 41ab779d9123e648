"""Which models may answer a request at all; and if none, the error that says why."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.batch.capabilities import Lack, able, lack
from apportion.router.batch.messages import RouteItem
from apportion.router.batch.policy import ServedModel, longest_answers
from apportion.router.errors import (
    ApportionError,
    BudgetExceededError,
    ContextLengthError,
    InfeasibleError,
    UnavailableError,
    UnknownModelError,
)
from apportion.router.estimates import Estimates, told, unreadable
from apportion.router.variants import covers


def possible_models(items: Sequence[RouteItem], estimates: Estimates, models: Sequence[ServedModel]) -> BoolArray:
    """(N, M): False where a name, a capability, a template, the context, or a limit of the request forbids."""
    possible = _named(items, models) & estimates.readable() & _fits(items, estimates, models)
    possible &= able([item.needs for item in items], [model.capabilities for model in models])
    most_usd = np.array([_or(item.ask.max_cost_usd, np.inf) for item in items])
    least = np.array([_or(item.ask.min_success, 0.0) for item in items])
    possible &= (estimates.cost_usd <= most_usd[:, None]) & (estimates.success >= least[:, None])
    possible[list(estimates.errors)] = False
    for row, item in enumerate(items):
        if item.ask.unfit:
            possible[row] &= [model.name not in item.ask.unfit for model in models]
    return possible


def prompt_tokens(items: Sequence[RouteItem], estimates: Estimates, models: Sequence[ServedModel]) -> FloatArray:
    """(N, M): tokens of each request's prompt, beside which an answer has to fit.

    Of several prompts, which are counted together, the mean: where that is too much, so is one of them; where only one
    of them is too long, its engine says so. So it does of a prompt that nobody has counted, of which only the most is
    known that it can have: it is taken to leave room for the answer, or for half of the context where that may be cut.
    """
    prompts = np.array([item.prompts for item in items], dtype=float)
    tokens = np.asarray(np.ceil(estimates.input_tokens / prompts[:, None]))
    if not estimates.guessed:
        return tokens
    context, clamps = _context(models), np.array([model.clamps for model in models])
    answer = _longest(items, models, unasked=np.inf)
    answer = np.where(clamps, np.minimum(answer, context // 2), answer)
    return np.where(estimates.predicted[:, None], tokens, np.minimum(tokens, np.maximum(context - answer, 1.0)))


def answer_limit(item: RouteItem, model: ServedModel, prompt_tokens: int) -> int | None:
    """The longest answer, where the request allows a longer one."""
    room = model.max_model_len - prompt_tokens
    most = room if model.max_tokens is None else min(room, model.max_tokens)
    if item.max_tokens is None:
        return None if model.max_tokens is None else most
    return None if item.max_tokens <= most else most


def most_tokens(items: Sequence[RouteItem], prompts: FloatArray, models: Sequence[ServedModel]) -> IntArray:
    """(N, M): the most tokens that all answers to each request can have together, as far as its prompt is counted.

    Args:
        prompts: (N, M), of `prompt_tokens`.
    """
    room = np.maximum(_context(models) - prompts, 1.0)
    longest = np.minimum(longest_answers([item.max_tokens for item in items], models), room)
    return np.asarray(longest * np.array([[item.sequences] for item in items])).astype(np.int64)


def reasons(
    item: RouteItem, estimates: Estimates, row: int, models: Sequence[ServedModel], healthy: BoolArray
) -> tuple[str | None, ...]:
    """Why each model may not answer the request; None: no limit of the request's or the model's forbids it."""
    named, fits = _named([item], models)[0], _fits([item], estimates.rows([row]), models)[0]
    unable = _unable(item, estimates, row, models)
    most_usd, least = _or(item.ask.max_cost_usd, np.inf), _or(item.ask.min_success, 0.0)
    found = []
    for j, model in enumerate(models):
        limits = (
            (not named[j], _why_not_named(item, model)),
            (j in unable, unable[j].reason if j in unable else None),
            (not fits[j], f"prompt and answer exceed its {model.max_model_len} tokens"),
            (not healthy[row, j], "no replica is ready, or it has failed this request"),
            (estimates.cost_usd[row, j] > most_usd, "its expected cost is above max_cost_usd"),
            (
                estimates.success[row, j] < least,
                "its success is not known, and min_success asks for one"
                if model.by_name_only
                else "its predicted success is below min_success",
            ),
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

    Models that cannot do or read what it holds are told with their reasons, unless the request does not name them.
    """
    named = _named([item], models)[0]
    if not named.any():
        what = "the model is not served"
        if _names(item) is None:
            what = "no model that you may use has outcomes yet to route by"
        return UnknownModelError(f"{what}; name one of {', '.join(_may_be_named(item, models))}", param="model")
    unable = {j: why for j, why in _unable(item, estimates, row, models).items() if named[j]}
    reasons_by_name = {models[j].name: why.reason for j, why in sorted(unable.items())}
    may = named.copy()
    may[list(unable)] = False
    if not may.any():
        params = {why.param for why in unable.values()}
        return unreadable(reasons_by_name, params.pop() if len(params) == 1 else None)
    if row in estimates.errors:
        return estimates.errors[row]
    error = _limit(item, estimates.rows([row]), models, may, healthy[row])
    if unable:
        message = f"{error.message}; {told(reasons_by_name)}"
        return type(error)(message, param=error.param, retry_after_s=error.retry_after_s)
    return error


def _unable(item: RouteItem, estimates: Estimates, row: int, models: Sequence[ServedModel]) -> dict[int, Lack]:
    """Why models cannot answer the request whatever it may cost, by their columns."""
    lacks = ((j, lack(item.needs, model.capabilities)) for j, model in enumerate(models))
    refused = {
        j: Lack("messages", reason)
        for j, reason in estimates.refusals.get(row, {}).items()
        if not models[j].capabilities.only_embeds
    }
    unfit = {j: item.ask.unfit[model.name] for j, model in enumerate(models) if model.name in item.ask.unfit}
    return {j: why for j, why in lacks if why is not None} | refused | unfit


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
    known = may & ~np.array([model.by_name_only for model in models])
    best = f"the best is {success[known].max():.3g}" if known.any() else "nobody knows yet how well they answer"
    return InfeasibleError(
        f"no model within the request's limits reaches min_success {item.ask.min_success:.3g}; {best}: "
        "lower it or allow more models",
        param="routing.min_success",
    )


def _too_long(item: RouteItem, one: Estimates, models: Sequence[ServedModel], may: BoolArray) -> ContextLengthError:
    """In the words that clients look for; of the model that has most room."""
    tokens = prompt_tokens([item], one, models)[0]
    room = np.where(may, _context(models) - tokens, -np.inf)
    best = int(room.argmax())
    left = int(room[best])
    asked = f" and max_tokens asks for {item.max_tokens}" if left > 0 else ""
    mend = f"lower max_tokens to at most {left}, or shorten the prompt" if left > 0 else "shorten the prompt"
    return ContextLengthError(
        f"this model's maximum context length is {models[best].max_model_len} tokens; the prompt has "
        f"{'' if left > 0 else 'at least '}{int(tokens[best])} tokens{asked}: {mend}",
        param="max_tokens" if left > 0 else None,
    )


def _named(items: Sequence[RouteItem], models: Sequence[ServedModel]) -> BoolArray:
    """(N, M): models that the request names, or where it names none those that need no name; of these the permitted.

    While a deploy changes the models, an ingress may name one that this router does not know.
    """
    nameless = [not model.by_name_only for model in models]
    named = np.tile(nameless, (len(items), 1))
    for row, item in enumerate(items):
        if (names := _names(item)) is not None:
            named[row] = [covers(names, model.name) for model in models]
        if item.ask.permitted is not None:
            named[row] &= [covers(item.ask.permitted, model.name) for model in models]
    return named


def _names(item: RouteItem) -> tuple[str, ...] | None:
    return (item.model,) if item.model is not None else item.ask.models


def _may_be_named(item: RouteItem, models: Sequence[ServedModel]) -> list[str]:
    permitted = item.ask.permitted
    return [model.name for model in models if permitted is None or covers(permitted, model.name)]


def _why_not_named(item: RouteItem, model: ServedModel) -> str:
    if item.ask.permitted is not None and not covers(item.ask.permitted, model.name):
        return "the caller may not use it"
    if _names(item) is None:
        return "it has no outcomes yet to route by, so only requests that name it go there"
    return "the request names other models"


def _fits(items: Sequence[RouteItem], estimates: Estimates, models: Sequence[ServedModel]) -> BoolArray:
    answer = np.where([model.clamps for model in models], 1.0, _longest(items, models, unasked=1.0))
    fits: BoolArray = prompt_tokens(items, estimates, models) + answer <= _context(models)
    return fits


def _longest(items: Sequence[RouteItem], models: Sequence[ServedModel], unasked: float) -> FloatArray:
    """(N, M): tokens that an answer is asked, and allowed, to have at most."""
    asked = np.array([_or(item.max_tokens, unasked) for item in items], dtype=float)
    return np.asarray(np.minimum(asked[:, None], [model.max_tokens or np.inf for model in models]))


def _context(models: Sequence[ServedModel]) -> FloatArray:
    return np.array([model.max_model_len for model in models], dtype=float)


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
