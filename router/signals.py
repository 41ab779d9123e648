"""How sure a model was of an answer, in four numbers: what its log-probabilities say of the tokens that it wrote.

Zero-shot confidence of this kind tells right answers from wrong ones on short facts (AUC .72 to .83), and less so on
hard multiple choice (.65 to .71) [arXiv:2605.02241]. Engines make them, records and tables keep them, and cascades
decide by them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from apportion.router.arrays import BoolArray, FloatArray
from apportion.router.errors import InvalidRequestError

LEAST_LOGPROB = -50.0
"""Of a token; less counts as this. Engines write minus infinity, or -9999, for tokens that a grammar rules out."""

LOW_QUANTILE = 0.1


class Signals(NamedTuple):
    """Of one answer, its end token counted where the engine tells it; natural logarithms.

    `mean_logprob`, `min_logprob`: mean and least log-probability of its tokens. `low_logprob`: their 10 % quantile,
    interpolated. `mean_margin`: mean of how far the likeliest token's log-probability was above the second one's.
    """

    mean_logprob: float
    min_logprob: float
    low_logprob: float
    mean_margin: float

    @property
    def text(self) -> str:
        """The numbers in the order of `SIGNALS`, as headers and comments have them."""
        return " ".join(f"{value:.6g}" for value in self)


SIGNALS = Signals._fields
"""The order of the four wherever they are an array's last axis, or columns."""


def signals_of(logprobs: ArrayLike, margins: ArrayLike) -> Signals | None:
    """The signals of an answer; None where it has no tokens, which says nothing, or what was told of them is no number.

    Args:
        logprobs: (n_tokens,), of the tokens that were written.
        margins: (n_tokens,), the likeliest token's log-probability less the second one's.
    """
    written = np.clip(np.asarray(logprobs, dtype=np.float64), LEAST_LOGPROB, 0.0)
    apart = np.clip(np.asarray(margins, dtype=np.float64), 0.0, -LEAST_LOGPROB)
    if not written.size or np.isnan(written).any() or np.isnan(apart).any():
        return None
    least = float(written.min())
    mean, low = float(written.mean()), float(np.quantile(written, LOW_QUANTILE))
    # Rounding may take a mean of equal numbers below the least of them.
    return Signals(max(mean, least), least, max(low, least), float(apart.mean()))


def signals_array(signals: Sequence[Signals | None]) -> FloatArray:
    """(n, 4) in the order of `SIGNALS`; rows of NaN where there are none."""
    unknown = (math.nan,) * len(SIGNALS)
    return np.array([unknown if one is None else one for one in signals], dtype=np.float64).reshape(-1, len(SIGNALS))


def parse_signals(text: str) -> Signals:
    """What `Signals.text` wrote.

    Raises:
        InvalidRequestError: the text is not four such numbers.
    """
    try:
        found = Signals(*map(float, text.split()))
    except (TypeError, ValueError):
        found = None
    if found is None or wrong_signals(np.array([found])).any():
        raise InvalidRequestError(
            f"signals: {text!r:.80} is not {', '.join(SIGNALS)} of one answer; write four finite numbers, "
            "log-probabilities not above 0 with the least one below the others, and a margin not below 0"
        )
    return found


def wrong_signals(signals: FloatArray) -> BoolArray:
    """(n,) whether rows of (n, 4) can be no answer's: neither four numbers that agree, nor four times NaN."""
    mean, least, low, margin = np.moveaxis(signals, -1, 0)
    with np.errstate(invalid="ignore"):
        right = np.isfinite(signals).all(axis=-1) & (mean <= 0) & (least <= mean) & (least <= low) & (low <= 0)
        right &= margin >= 0
    wrong: BoolArray = ~(right | np.isnan(signals).all(axis=-1))
    return wrong
