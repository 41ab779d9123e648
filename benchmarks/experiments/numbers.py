"""Records of many seeds in one number: means with intervals, differences paired by seed, and what to call them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from apportion.router.evaluation.statistics import Summary

Record = dict[str, Any]


def where(records: Iterable[Record], **wanted: Any) -> list[Record]:
    """The records that have all these values."""
    return [r for r in records if all(r.get(key) == value for key, value in wanted.items())]


def distinct(records: Iterable[Record], key: str) -> list[Any]:
    """The values of a key, in the order of their first record."""
    return list(dict.fromkeys(r[key] for r in records))


def by_seed(records: Iterable[Record], field: str, **wanted: Any) -> dict[int, float]:
    """A field's value by seed, in the order of seeds; the mean where a seed has several records."""
    found: dict[int, list[float]] = {}
    for record in where(records, **wanted):
        value = record[field]
        found.setdefault(record["seed"], []).append(math.nan if value is None else float(value))
    return {seed: sum(values) / len(values) for seed, values in sorted(found.items())}


def over_seeds(records: Iterable[Record], field: str, **wanted: Any) -> Summary:
    """Mean of a field over the seeds, with its interval."""
    return Summary.of(list(by_seed(records, field, **wanted).values()))


def difference(records: Sequence[Record], field: str, one: Record, other: Record, **wanted: Any) -> Summary:
    """A field of `one` less that of `other`, seed by seed."""
    first, second = by_seed(records, field, **one, **wanted), by_seed(records, field, **other, **wanted)
    return Summary.of([first[seed] - second[seed] for seed in first if seed in second])


def at_spend(
    records: Sequence[Record], field: str, spend: str, arms: Sequence[Record], spent: Mapping[int, float], **wanted: Any
) -> dict[int, float]:
    """A field by seed, of requests that are divided between arms so that they spend as much as is said.

    Args:
        spend: the field that holds what was spent.
        arms: what the records of each arm hold; the two whose spends are nearest are mixed.
        spent: by seed; beyond all arms it is the nearest one's value.
    """
    spends, values = ([by_seed(records, name, **arm, **wanted) for arm in arms] for name in (spend, field))
    found = {}
    for seed, at in spent.items():
        known = np.array(sorted((usd[seed], value[seed]) for usd, value in zip(spends, values, strict=True)))
        found[seed] = float(np.interp(at, known[:, 0], known[:, 1]))
    return found


def side(value: Summary) -> int:
    """1 or -1 where the whole interval lies above or below zero, else 0; a lone seed proves nothing."""
    if not math.isfinite(value.half_width) or abs(value.mean) <= value.half_width:
        return 0
    return 1 if value.mean > 0 else -1


def called(value: Summary) -> str:
    """What a difference is."""
    return {1: "better", -1: "worse", 0: "no difference shown"}[side(value)]


def shown(value: Summary, digits: int = 3, *, signed: bool = False, scale: float = 1.0) -> str:
    """Mean and interval as text, a dash for no value."""
    if not math.isfinite(value.mean):
        return "-"
    mean = f"{value.mean * scale:{'+' if signed else ''}.{digits}f}"
    return f"{mean} ± {value.half_width * scale:.{digits}f}" if math.isfinite(value.half_width) else mean


def points(value: Summary, digits: int = 1) -> str:
    """A difference of scores in points (hundredths)."""
    return shown(value, digits, signed=True, scale=100)


def listed(names: Sequence[str]) -> str:
    """Names in a sentence."""
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " and " + quoted[-1] if quoted else "none"
