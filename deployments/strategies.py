"""Strategies from names and options that came from outside: every value is checked against the strategy's own types."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from router.assignment import STRATEGIES, Strategy, strategy_from
from router.errors import ApportionError, InvalidRequestError


def checked_strategy(name: str, options: dict[str, Any]) -> Strategy:
    """The strategy of that name with these options.

    Raises:
        InvalidRequestError: the name or an option is unknown, or a value has the wrong type; says what is known.
    """
    if name in STRATEGIES and options:
        try:
            _adapter(name).validate_python(options)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            if first["type"] != "unexpected_keyword_argument":
                raise InvalidRequestError(f"strategy {name!r}: {field}: {first['msg']}", param=field) from None
        except ApportionError as error:
            raise InvalidRequestError(f"strategy {name!r}: {error.message}", param=error.param) from None
    return strategy_from(name, **options)


@lru_cache
def _adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(STRATEGIES[name])
