"""What makes numbers from an outcomes table look better than they are, in words for its owner."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.outcomes.table import GROUP, OutcomesTable

_FEWEST_MISSING = 5
_HARDLY = 0.01
_OTHER_SCRIPTS = re.compile(r"[\u0370-\u1fff\u2c00-\ud7ff\uf900-\ufdff]")  # Greek to Hangul, without punctuation
_FEWEST_LETTERS = 10  # of another script; fewer are a formula's
_NAMED = 8  # models in one message
_MUCH_MISSING = 0.05
_CHANCE = 0.01
"""How often a table whose outcomes are missing at random is warned about, all its models together."""


def notices(table: OutcomesTable) -> list[str]:
    """What is to be told of a table before its numbers are believed; empty where there is nothing."""
    return [*_shared_prompts(table), *_missing_prices(table), *_missing_outcomes(table)]


def unseen(table: OutcomesTable) -> list[str]:
    """What a predictor that is trained on the table will hardly have seen, and will predict all the same."""
    system = np.array([traits.system_chars > 0 for traits in table.traits])
    foreign = np.array([len(_OTHER_SCRIPTS.findall(prompt)) >= _FEWEST_LETTERS for prompt in table.prompts])
    kinds = [
        kind
        for rows, kind in ((system, "a system prompt"), (foreign, "text in another script than Latin"))
        if rows.mean() < _HARDLY
    ]
    if not kinds:
        return []
    return [
        f"hardly any of the {len(table)} requests has {' or '.join(kinds)}: if those that are served have it, their "
        "estimates are a guess; record outcomes of such requests too"
    ]


def _missing_prices(table: OutcomesTable) -> Iterator[str]:
    """Where some models have a price, it is likely to have been forgotten of the others."""
    missing = [model for model in table.models if model not in table.prices]
    if missing and table.prices:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        yield (
            f"no price is stated of {', '.join(missing[:_NAMED])}{more}, but of {len(table.prices)} other models: give "
            "their input_price_per_1M and output_price_per_1M too (rows of models.csv, or columns of a long file)"
        )


def _shared_prompts(table: OutcomesTable) -> Iterator[str]:
    prompts = table.prompt_groups
    shared = np.bincount(prompts)[prompts] > 1
    if not shared.any():
        return
    many = f"{shared.sum()} of {len(table)} requests have a prompt that another one has too"
    many += (
        f" ({len(np.unique(prompts[shared]))} prompts, the first of them {table.prompts[int(shared.argmax())]!r:.60})"
    )
    if GROUP not in table.queries:
        yield f"{many}: those of one prompt stay in one part of every split"
    elif _parted(prompts, table.groups):
        yield f"{many}, but not its group: they may be in training and test, which makes every number too good"


def _parted(prompts: IntArray, groups: IntArray) -> bool:
    """Whether requests of one prompt are of several groups."""
    pairs = np.unique(np.column_stack([prompts, groups]), axis=0)
    return len(pairs) > len(np.unique(prompts))


def _missing_outcomes(table: OutcomesTable) -> Iterator[str]:
    missing = np.isnan(table.scores)
    suspects = np.flatnonzero(missing.sum(axis=0) >= _FEWEST_MISSING)
    for j in suspects.tolist():
        known = table.scores[~missing[:, j], j]
        share = f"{missing[:, j].mean():.0%} of its outcomes are missing"
        if len(known) and (known == 1).all() and missing[:, j].mean() >= _MUCH_MISSING:
            yield (
                f"all that is known of {table.models[j]!r} is success, and {share}: if failures were left out, record "
                "them with score 0"
            )
            continue
        others = np.delete(table.scores, j, axis=1)
        found = _not_at_random(missing[:, j], others, _CHANCE / len(suspects))
        if found is not None:
            with_it, without, p = found
            looks = "better" if without < with_it else "worse"
            yield (
                f"outcomes of {table.models[j]!r} are not missing at random: the other models score {without:.2f} "
                f"where its outcome is missing and {with_it:.2f} where it is known (Mann-Whitney p = {p:.1g}); "
                f"{share}, so it looks {looks} than it is; if failures were left out, record them with score 0"
            )


def _not_at_random(missing: BoolArray, others: FloatArray, chance: float) -> tuple[float, float, float] | None:
    """Mean score of the other models where the outcome is known and where it is missing, with the p-value of the
    Mann-Whitney U test that both have one distribution; None where they may have.
    """
    from scipy.stats import mannwhitneyu

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # rows of which no other model's score is known
        ease = np.nanmean(others, axis=1)
    known = ~np.isnan(ease)
    with_it, without = ease[known & ~missing], ease[known & missing]
    if len(with_it) < _FEWEST_MISSING or len(without) < _FEWEST_MISSING:
        return None
    p = float(mannwhitneyu(with_it, without, method="asymptotic").pvalue)
    return (float(with_it.mean()), float(without.mean()), p) if p < chance else None
