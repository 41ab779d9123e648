"""How many sequences a replica runs at once for a workload: by what its requests hold of the cache, not by the longest
context that one of them could have.

A running sequence holds its prompt and the part of its answer that there is so far. Looked at at a random moment, long
answers are there more often than short ones, and as likely at their beginning as near their end. The slots are the most
with which the sum exceeds the cache only as seldom as wanted. Where it does all the same, vLLM interrupts the youngest
sequence and computes it again later.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from apportion.allocation.models import ModelSpec
from apportion.allocation.replica import Profile
from apportion.allocation.speed import cut
from apportion.allocation.workload import Workload
from apportion.router.arrays import FloatArray
from apportion.router.prices import price_arrays

# vLLM gives out the cache in blocks of so many tokens; the last one of a sequence is half empty in the mean.
_BLOCK_TOKENS = 16
# Parts of an answer that are there at a random moment, equally likely.
_PROGRESS = np.array([0.1, 0.3, 0.5, 0.7, 0.9])


@dataclass(frozen=True, eq=False)
class Lengths:
    """Tokens of a model's requests, (n,) prompts and answers, and how often each is met, summing to 1."""

    input_tokens: FloatArray
    output_tokens: FloatArray
    weight: FloatArray

    def held(self) -> tuple[FloatArray, FloatArray]:
        """Tokens that a running sequence holds at a random moment, and how likely that is."""
        held = self.input_tokens[:, None] + self.output_tokens[:, None] * _PROGRESS
        likely = np.repeat(self.weight * self.output_tokens, len(_PROGRESS))
        return held.ravel(), likely / likely.sum()


def stated(profile: Profile, spec: ModelSpec) -> Profile:
    """The profile with what is said of the model: what of its prompts the prefix cache knows, and guessed tokens.

    A measured speed holds its engine's guesses already.
    """
    if not profile.fits:
        return profile
    changed = replace(profile, prefill_tokens_per_s=profile.prefill_tokens_per_s / (1 - spec.prefix_cache_hits))
    if spec.speculative_speedup == 1 or profile.source == "measured":
        return changed
    faster = tuple((sequences, speed * spec.speculative_speedup) for sequences, speed in profile.decode_curve)
    return replace(changed, tokens_per_s=profile.tokens_per_s * spec.speculative_speedup, decode_curve=faster)


def lengths_of(models: Sequence[ModelSpec], workload: Workload) -> tuple[Lengths | None, ...]:
    """Of every model the requests that it may get; None where there are none.

    An answer is as long as expected, plus or less the standard deviation of its cost where that is known.
    """
    estimates, allowed = workload.estimates, workload.allowed(models)
    _, usd_per_output = price_arrays(spec.price for spec in models)
    found: list[Lengths | None] = []
    for j, spec in enumerate(models):
        rows = np.flatnonzero(allowed[:, j])
        if not len(rows):
            found.append(None)
            continue
        weight = np.asarray(workload.answers[rows], np.float64)
        inputs, outputs = estimates.input_tokens[rows, j], estimates.output_tokens[rows, j]
        spread = np.zeros(len(rows))
        if estimates.cost_std_usd is not None and usd_per_output[j] > 0:
            spread = estimates.cost_std_usd[rows, j] / usd_per_output[j] / weight
        longest = np.maximum(spec.max_model_len - inputs, 1.0)
        both = [np.clip(outputs + sign * spread, 1.0, longest) for sign in (-1.0, 1.0)]
        found.append(Lengths(np.tile(inputs, 2), np.concatenate(both), np.tile(weight / weight.sum() / 2, 2)))
    return tuple(found)


def sized(
    profiles: Sequence[Profile], models: Sequence[ModelSpec], workload: Workload, cache_safety: float
) -> tuple[Profile, ...]:
    """The profiles with the sequences that the workload's lengths allow, and the speed with so many.

    Those that do not say what a sequence takes of the cache stay as they are.

    Args:
        cache_safety: chance that the cache of a full replica suffices at a moment; 1: it holds as many whole contexts.
    """
    lengths = dict(zip((spec.name for spec in models), lengths_of(models, workload), strict=True))
    longest = {spec.name: spec.max_model_len for spec in models}
    by_name = {spec.name: spec for spec in models}
    known = [
        stated(profile, by_name[profile.replica.model]) if profile.replica.model in by_name else profile
        for profile in profiles
    ]
    return tuple(
        cut(profile, _sequences(profile, own, longest[profile.replica.model], cache_safety))
        if profile.fits and profile.sequence_gib and (own := lengths.get(profile.replica.model)) is not None
        else profile
        for profile in known
    )


def _sequences(profile: Profile, lengths: Lengths, longest: int, cache_safety: float) -> int:
    tokens, gib = np.array(profile.sequence_gib, np.float64).T
    if cache_safety == 1:
        return max(1, int(profile.kv_cache_gib // np.interp(longest, tokens, gib)))
    held, likely = lengths.held()
    each = np.interp(np.minimum(held + _BLOCK_TOKENS / 2, longest), tokens, gib)
    mean = float(each @ likely)
    std = math.sqrt(float((each - mean) ** 2 @ likely))
    z = NormalDist().inv_cdf(cache_safety)
    # Cornish and Fisher's quantile of the sum: mean n + z std sqrt(n) + skewed = cache, where answers of very different
    # lengths make the sum lean to the right.
    skewed = (z**2 - 1) / 6 * float((each - mean) ** 3 @ likely) / std**2 if std > 1e-12 * mean else 0.0
    left = max(profile.kv_cache_gib - skewed, 0.0)
    root = (math.sqrt((z * std) ** 2 + 4 * mean * left) - z * std) / (2 * mean)
    return max(1, int(root**2))
