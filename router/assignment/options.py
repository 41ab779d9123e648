"""Strategies from names and options that come from outside: files, requests, the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apportion.router.assignment.per_request import Static
from apportion.router.assignment.registry import STRATEGIES
from apportion.router.assignment.strategy import Strategy
from apportion.router.checked import build, describe_kinds, describe_options
from apportion.router.errors import InvalidRequestError

STRATEGY_HELP = describe_kinds(STRATEGIES)
OPTIONS_HELP = describe_options(STRATEGIES)


def checked_strategy(name: str, options: Mapping[str, Any], n_models: int | None = None) -> Strategy:
    """The strategy of that name with these options, whose values are converted to the strategy's own types.

    Args:
        n_models: that are served, for options that name one by its index; None: not checked.

    Raises:
        InvalidRequestError: the name or an option is unknown, or a value is wrong; says what is known.
    """
    strategy = build("strategy", STRATEGIES, name, options)
    if isinstance(strategy, Static) and n_models is not None:
        try:
            strategy.check_model(n_models)
        except InvalidRequestError as error:
            raise InvalidRequestError(f"strategy {name!r}: {error.message}", param=error.param) from error
    return strategy


def strategy_from(name: str, **options: Any) -> Strategy:
    """As `checked_strategy`, for options written as keywords."""
    return checked_strategy(name, options)
