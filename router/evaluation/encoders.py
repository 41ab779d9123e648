"""Which vectors of a prompt pay: static ones, the transformer's, or both; judged on rows that no report sees."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apportion.router.evaluation.arms import ARMS
from apportion.router.evaluation.batches import Setting
from apportion.router.evaluation.case import fit_case, usable
from apportion.router.evaluation.protocol import measure
from apportion.router.evaluation.statistics import Summary
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.encoders import Encoders
from apportion.router.prediction.estimator import Estimator, FittedEstimator, Steps
from apportion.router.prediction.preparation import ENCODING_STEP, Progress, complete_tokens, encode_in_steps, of_stage

Encode = Callable[[Sequence[str]], NDArray[np.float32]]
_TIMED = 128  # texts, where a cache would make the others look free
WORTH = 0.002
"""Area that a dearer encoder has to add before it is worth its time."""

SEEDS = 5
ARM = "mip"


@dataclass(frozen=True)
class Candidate:
    """One encoder on the rows: area of `mip` by seed, calibrated ECE and Brier score over the seeds, and milliseconds
    of CPU that a prompt takes to encode.
    """

    encoder: str
    areas: tuple[float, ...]
    ece: float
    brier: float
    cpu_ms: float


@dataclass(frozen=True)
class Comparison:
    """Candidates by rising work, on `rows` requests."""

    rows: int
    candidates: tuple[Candidate, ...]

    @property
    def chosen(self) -> Candidate:
        """The cheapest, unless a dearer one is shown to be better by more than `WORTH`, the better of two such."""
        cheapest, *dearer = self.candidates
        gains = [(self.gain(one), one) for one in dearer]
        paying = [(gain.mean, one) for gain, one in gains if gain.mean > WORTH and gain.mean > gain.half_width]
        return max(paying, key=lambda pair: pair[0])[1] if paying else cheapest

    def gain(self, candidate: Candidate) -> Summary:
        """Area of the candidate less that of the cheapest, seed by seed."""
        pairs = zip(candidate.areas, self.candidates[0].areas, strict=True)
        return Summary.of([one - other for one, other in pairs])

    @property
    def why(self) -> str:
        """Why it is chosen."""
        cheapest, chosen = self.candidates[0], self.chosen
        if chosen is not cheapest:
            times = chosen.cpu_ms / cheapest.cpu_ms
            return f"it adds {self.gain(chosen)} of area to {cheapest.encoder}, for {times:.0f} times its CPU"
        best = max(self.candidates[1:], key=lambda one: self.gain(one).mean)
        times = best.cpu_ms / cheapest.cpu_ms
        return (
            f"{best.encoder} adds {self.gain(best)} of area, which is not shown to be more than {WORTH:g}, for "
            f"{times:.0f} times its CPU"
        )

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "rows": self.rows,
            "candidates": [asdict(one) | {"area": Summary.of(one.areas).mean} for one in self.candidates],
            "chosen": self.chosen.encoder,
            "why": self.why,
        }


def compare_encoders(
    table: OutcomesTable,
    encoders: Encoders,
    recipe: Estimator[FittedEstimator],
    *,
    rows: int,
    seeds: int = SEEDS,
    setting: Setting | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Fit the recipe on what each encoder makes of the same prompts, on several random splits of the table's rows.

    Args:
        table: rows that may be looked at: none of those that a report is to be made from.
        rows: of more, as many are drawn.

    Raises:
        OutcomesTableError: too few of the rows have scores and costs of two models.
    """
    drawn = np.sort(np.random.default_rng(0).permutation(len(table))[:rows])
    table = usable(complete_tokens(table.subset(drawn), encoders.static))
    features = encode_in_steps(table, encoders.static)
    static, static_ms = _timed(encoders.static.encode, table.prompts, None)
    own, own_ms = _timed(encoders.transformer.encode, table.prompts, of_stage(progress, "compare: encode"))
    if encoders.transformer.cache is not None:  # which may have had them
        _, own_ms = _timed(encoders.transformer.encode_anew, table.prompts[:_TIMED], None)
    vectors = {
        encoders.static.source: (static, static_ms),
        encoders.transformer.source: (own, own_ms),
        encoders.both.source: (np.hstack([static, own]), static_ms + own_ms),
    }
    tell, done = of_stage(progress, "compare: train"), 0
    candidates = []
    for encoder, (embeddings, cpu_ms) in vectors.items():
        seen, cases, areas = replace(features, embeddings=embeddings), [], []
        for seed in range(seeds):
            cases.append(fit_case(table, seen, encoder, recipe, seed))
            areas.append(measure(cases[-1], ARM, ARMS[ARM](cases[-1], setting or Setting())).area)
            done += 1
            if tell is not None:
                tell(done, seeds * len(vectors))
        ece, brier = (float(np.mean([getattr(c.errors, name) for c in cases])) for name in ("ece_after", "brier_after"))
        candidates.append(Candidate(encoder, tuple(areas), ece, brier, cpu_ms))
    return Comparison(len(table), tuple(candidates))


def _timed(encode: Encode, texts: list[str], tell: Steps | None) -> tuple[NDArray[np.float32], float]:
    """Vectors of the texts, and milliseconds of CPU a text."""
    started_s, parts = time.process_time(), []
    for start in range(0, len(texts), ENCODING_STEP):
        parts.append(encode(texts[start : start + ENCODING_STEP]))
        if tell is not None:
            tell(min(start + ENCODING_STEP, len(texts)), len(texts))
    return np.vstack(parts), (time.process_time() - started_s) * 1e3 / len(texts)
