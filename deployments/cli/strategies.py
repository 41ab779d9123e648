"""The strategy that options on the command line describe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from apportion.router.assignment import Strategy
from apportion.router.assignment.options import checked_strategy
from apportion.router.errors import InvalidRequestError


def read_strategy(
    name: str, given: Sequence[str], models: Sequence[str], gap: float | None = None, time_limit_s: float | None = None
) -> Strategy:
    """The strategy with the options of `given` (KEY=VALUE each), and the gap and time limit where they are not None.

    `models` are the names that the option `model` may have; it may be an index too.

    Raises:
        InvalidRequestError: the strategy or an option is unknown, a value does not fit, or an option is given twice.
    """
    limits = {"gap": gap, "time_limit_s": time_limit_s}
    options: dict[str, Any] = {key: value for key, value in limits.items() if value is not None}
    for entry in given:
        key, sign, value = entry.partition("=")
        if not sign:
            raise InvalidRequestError(f"--option {entry!r}: write KEY=VALUE, for example quantile=0.1")
        if key in options:
            raise InvalidRequestError(f"--option {key}: given twice; leave one out")
        options[key] = _index(value, models) if key == "model" else value
    return checked_strategy(name, options, len(models))


def _index(model: str, models: Sequence[str]) -> int | str:
    if model in models:
        return list(models).index(model)
    if not model.lstrip("-").isdigit():
        raise InvalidRequestError(f"--option model={model}: unknown; use a model of {', '.join(models)}")
    return model
