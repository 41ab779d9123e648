"""Strategies from names and options that came from outside: every value is checked against the strategy's own types."""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from apportion.router.assignment import STRATEGIES, Static, Strategy, strategy_from
from apportion.router.errors import ApportionError, InvalidRequestError

CODE = {"rows"}  # options that are Python functions, for users of the library only


def checked_strategy(name: str, options: dict[str, Any], n_models: int | None = None) -> Strategy:
    """The strategy of that name with these options, whose values have the strategy's own types.

    Args:
        n_models: that are served, for options that name one by its index; None: not checked.

    Raises:
        InvalidRequestError: the name or an option is unknown, or a value is wrong; says what is known.
    """
    if name not in STRATEGIES:
        return strategy_from(name)  # its error lists the names
    adapter, known = _read(name)
    unknown = sorted(options.keys() - known)
    if unknown:
        raise InvalidRequestError(
            f"strategy {name!r} has no option {unknown[0]!r}: it takes {', '.join(known) or 'none'}", param=unknown[0]
        )
    try:
        strategy: Strategy = adapter.validate_python(options)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidRequestError(f"strategy {name!r}: {field}: {first['msg']}", param=field) from None
    except ApportionError as error:
        raise InvalidRequestError(f"strategy {name!r}: {error.message}", param=error.param) from None
    if isinstance(strategy, Static) and n_models is not None and not 0 <= strategy.model < n_models:
        raise InvalidRequestError(
            f"strategy {name!r}: there is no model {strategy.model}; give an index from 0 to {n_models - 1}",
            param="model",
        )
    return strategy


@lru_cache
def _read(name: str) -> tuple[TypeAdapter[Any], tuple[str, ...]]:
    """What reads a strategy's options, and their names."""
    kind: Any = STRATEGIES[name]
    return TypeAdapter(kind), tuple(field.name for field in fields(kind) if field.name not in CODE)
