"""Names of variants: `model@variant` is one way of asking a model, with its own chance, length and cost of an answer.

A model's variants are columns of every table of estimates, and share its engine: its replicas, slots and breakers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from apportion.router.arrays import IntArray

SEPARATOR = "@"


def variant_name(model: str, variant: str) -> str:
    """The name of a model's variant."""
    return f"{model}{SEPARATOR}{variant}"


def model_of(name: str) -> str:
    """The model of a variant's name; any other name is a model's own."""
    model, _, _ = name.rpartition(SEPARATOR)
    return model or name


def covers(names: Collection[str], name: str) -> bool:
    """Whether these names mean that model or variant: by its own name, or by its model's."""
    return name in names or model_of(name) in names


def meets(names: Collection[str], name: str) -> bool:
    """Whether these names mean it, or, of a model, a variant of it."""
    return covers(names, name) or any(model_of(one) == name for one in names)


def engines_of(names: Sequence[str]) -> tuple[tuple[str, ...], IntArray]:
    """The models in the order of their first variants, and (M,) the place among them of each name's own."""
    models = tuple(dict.fromkeys(map(model_of, names)))
    return models, np.array([models.index(model_of(name)) for name in names], dtype=np.int64)
