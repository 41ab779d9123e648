"""Pacers from names and options that come from the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apportion.router.budget.pacing import CarryOver, Pacer
from apportion.router.budget.shadow_price import DualDescent, Resolving
from apportion.router.checked import build, describe_options

PACERS: dict[str, type[Pacer]] = {"carry_over": CarryOver, "dual_descent": DualDescent, "resolving": Resolving}
PACER_OPTIONS_HELP = describe_options(PACERS)


def checked_pacer(name: str, options: Mapping[str, Any]) -> Pacer:
    """A new pacer of that name.

    Raises:
        InvalidRequestError: the name or an option is unknown, or a value is wrong.
    """
    return build("pacing", PACERS, name, options)
