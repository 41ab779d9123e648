"""How long models take to answer, learned of their last answers: one formula for interactive requests and for jobs.

    seconds  =  begin  +  read x prompt tokens  +  (step + beside x running) x answer tokens

`running` is how many sequences an engine runs at once. A step of continuous batching reads the weights however many
there are, and does something for each of them (Yu et al. 2022, Orca), so that its time is about a line; an engine that
is not so is known best at the loads that it has. The coefficients are at least zero, and fitted by least squares in
which the last answers count most; a long answer's time spreads more, in proportion to its length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from apportion.router.arrays import FloatArray
from apportion.router.variants import engines_of

FEWEST = 3  # answers that say something
KNOWN_FOR_S = 600.0  # whoever has not answered for so long may be another one by now
_KEEP = 1 - 1 / 200  # of what earlier answers count, with each further one
_MOST_LATE = 3.0  # times what was expected, that one answer counts as at most: its client may have read slowly
_REFIT, _MOST_NEW = 0.1, 32  # of the answers that are known, and in all, that a fit waits for
# Towards zero, as a share of each squared sum: of what differs too little to be told apart, all goes to `step`.
_RIDGE = np.array([1e-2, 1e-2, 1e-6, 1e-2])


class Speeds:
    """Of M columns; variants of a model are answered by the same engines, and teach one speed.

    Args:
        names: of the columns.
        clock: seconds of a monotonic clock.
    """

    def __init__(self, names: Sequence[str], clock: Callable[[], float]) -> None:
        self._clock = clock
        engines, self._engine_of = engines_of(names)
        self._of = [_Speed() for _ in engines]

    def learn(
        self,
        column: int,
        seconds: float,
        *,
        prompt_tokens: float,
        answer_tokens: float,
        running: float,
        answers: int = 1,
    ) -> None:
        """A request was answered.

        Args:
            seconds: from its dispatch to its last token.
            answer_tokens: of all its answers together.
            running: sequences on its replica meanwhile, its own too.
            answers: that were generated side by side.
        """
        engine = self._engine_of[column]
        now_s, speed = self._clock(), self._of[engine]
        if now_s - speed.last_s > KNOWN_FOR_S:
            speed = self._of[engine] = _Speed()
        speed.last_s = now_s
        length = max(answer_tokens / answers, 1.0)
        speed.new.append((1.0, prompt_tokens, length, length * running, seconds, answer_tokens))

    def seconds(self, prompt_tokens: FloatArray, answer_tokens: FloatArray, running: FloatArray) -> FloatArray:
        """(N, M) expected from dispatch to the last token; NaN for models that nothing is known of, or no more.

        Args:
            prompt_tokens: (N, M).
            answer_tokens: (N, M) of one answer.
            running: (N, M) sequences on the replica that it would go to, its own too.
        """
        now_s = self._clock()
        fits = [speed.fit() if now_s - speed.last_s <= KNOWN_FOR_S else _UNKNOWN for speed in self._of]
        begin, read, step, beside = np.array(fits)[self._engine_of].T
        found: FloatArray = begin + read * prompt_tokens + (step + beside * running) * answer_tokens
        return found

    def tokens_per_s(self) -> list[float | None]:
        """Of one request, by column: over its last answers by the same formula, at the loads that these had.

        None where nothing is known; what was known once stays: jobs plan for models that nobody has asked of late.
        """
        return [self._of[engine].tokens_per_s() for engine in self._engine_of]


_UNKNOWN = np.full(4, np.nan)


class _Speed:
    """One model's, as the sums of a weighted regression, and the answers that these do not have yet."""

    def __init__(self) -> None:
        self.last_s = -np.inf
        self.new: deque[tuple[float, ...]] = deque(
            maxlen=1000
        )  # what the coefficients stand before, seconds, and tokens in all
        self._known = 0
        self._fit = _UNKNOWN
        self._moments, self._products = np.zeros((4, 4)), np.zeros(4)
        self._sums, self._tokens = np.zeros(4), 0.0

    def fit(self) -> FloatArray:
        """(4,) begin, read, step, beside; NaN: not known."""
        if len(self.new) >= max(FEWEST - self._known, min(_REFIT * self._known, _MOST_NEW), 1):
            self._take()
        return self._fit

    def tokens_per_s(self) -> float | None:
        fit = self.fit()
        return self._tokens / float(self._sums @ fit) if self._known >= FEWEST else None

    def _take(self) -> None:
        answers = np.array(self.new)
        self.new.clear()
        parts, seconds, tokens = answers[:, :4], answers[:, 4], answers[:, 5]
        if self._known >= FEWEST:
            seconds = np.minimum(seconds, _MOST_LATE * (parts @ self._fit))
        kept, keep = _KEEP ** len(answers), _KEEP ** np.arange(len(answers))[::-1]
        weighted = parts * (keep / parts[:, 2])[:, None]
        self._moments = kept * self._moments + weighted.T @ parts
        self._products = kept * self._products + weighted.T @ seconds
        self._sums, self._tokens = kept * self._sums + keep @ parts, kept * self._tokens + float(keep @ tokens)
        self._known += len(answers)
        self._fit = _fitted(self._moments, self._products)


def _fitted(moments: FloatArray, products: FloatArray) -> FloatArray:
    """Coefficients >= 0 of least squares, from the sums of squares and products."""
    from scipy.optimize import nnls

    square = np.sqrt(np.diag(moments))
    used = square > 0
    unit = np.outer(square[used], square[used])
    root = np.linalg.cholesky(moments[np.ix_(used, used)] / unit + np.diag(_RIDGE[used]))
    fit = np.zeros(4)
    fit[used] = nnls(root.T, np.linalg.solve(root, products[used] / square[used]))[0] / square[used]
    return fit
