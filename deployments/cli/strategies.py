"""The strategy that options on the command line describe, each value checked by the strategy's own fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from apportion.router.errors import InvalidRequestError

if TYPE_CHECKING:
    from apportion.router.assignment import Strategy


def read_strategy(
    name: str, given: Sequence[str], models: Sequence[str], gap: float | None = None, time_limit_s: float | None = None
) -> Strategy:
    """The strategy with the settings of `given` (KEY=VALUE each), and the gap and time limit where they are not None.

    `models` are the names that the setting `model` may have. Raises InvalidRequestError for an unknown strategy or
    setting, a value that does not fit, and a setting that is given twice.
    """
    from pydantic import TypeAdapter, ValidationError

    from apportion.router.assignment import STRATEGIES, strategy_from

    limits = {"gap": gap, "time_limit_s": time_limit_s}
    settings: dict[str, Any] = {key: value for key, value in limits.items() if value is not None}
    for entry in given:
        key, sign, value = entry.partition("=")
        if not sign:
            raise InvalidRequestError(f"--option {entry!r}: write KEY=VALUE, for example quantile=0.1.")
        if key in settings:
            raise InvalidRequestError(f"The option {key!r} is given twice: leave one out.")
        settings[key] = _column(value, models) if key == "model" else value
    kind = STRATEGIES.get(name)
    if kind is None or not set(settings) <= set(getattr(kind, "__dataclass_fields__", {})):
        return strategy_from(name, **settings)
    try:
        return TypeAdapter(kind).validate_python(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        raise InvalidRequestError(f"--option {key}={settings[key]}: {first['msg']}.") from error


def _column(model: str, models: Sequence[str]) -> int:
    if model not in models:
        raise InvalidRequestError(f"--option model={model}: use a model of {', '.join(models)}.")
    return list(models).index(model)
