"""How far what happens is from what was expected: learned of every answer and of what callers say of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from apportion.deployments.config.knowledge import Knowledge
from apportion.deployments.wire.feedback import Feedback
from apportion.router.batch.events import Event, RequestEnded
from apportion.router.batch.messages import Ending
from apportion.router.drift.judged import Judged
from apportion.router.drift.lengths import Lengths, Ratios
from apportion.router.drift.shift import Shift
from apportion.router.records.names import base_name


class Drift:
    """Listens to the batch room.

    Args:
        models: names, in the order of every array.
        knowledge: what the artefact says that predictions were like.
        score_key: of feedback, what says how good an answer was; None: nothing does.
        by_bytes: whether each model's prompts are counted as their bytes; empty: none's are.

    Attributes:
        lengths: how long answers and prompts are of what was expected, which corrects the expectations.
        costs: what answers cost of what was expected, corrections counted.
    """

    def __init__(
        self, models: tuple[str, ...], knowledge: Knowledge, score_key: str | None, by_bytes: Sequence[bool] = ()
    ) -> None:
        self._models = models
        self._knowledge = knowledge
        self._score_key = score_key
        self.lengths = Lengths.of(by_bytes or [False] * len(models))
        self.costs = Ratios(len(models))
        self._shift, self._judged = Shift(len(models)), Judged(len(models))

    def __call__(self, event: Event) -> None:
        """One thing that has happened."""
        if not isinstance(event, RequestEnded) or event.decision is None or event.forecast is None:
            return
        # What generates nothing, or was not predicted, has nothing to be compared with.
        course, forecast = event.course, event.forecast
        if event.ending is not Ending.answered or forecast.guessed or course is None or not course.output_tokens:
            return
        column, row, estimates = self._models.index(event.model), forecast.row, forecast.estimates
        success = estimates.before_lift()[row]
        self._shift.see(success)
        # A cascade's answers are chosen by how sure their models were: they say too much good or ill of these.
        if self._score_key is not None and not event.of_cascade:
            self._judged.answered(event.request_id, column, float(success[column]))
        self.costs.learn(column, event.cost_nano / 1e9, float(estimates.cost_usd[row, column]))
        if course.estimated:  # it was guessed from what is to be learned here
            return
        counted = float(estimates.input_tokens[row, column])
        if self.lengths.by_bytes[column] and course.input_tokens and counted > 0:
            self.lengths.prompts.learn(column, course.input_tokens, counted)
        price = event.decision.price
        if price is not None and price.output_usd_per_million > 0:
            expected_usd = (estimates.cost_usd if estimates.uncorrected_usd is None else estimates.uncorrected_usd)[row]
            input_usd = estimates.input_tokens[row, column] * price.input_usd_per_million / 1e6
            tokens = (float(expected_usd[column]) - input_usd) / price.output_usd_per_million * 1e6
            self.lengths.answers.learn(column, course.output_tokens, tokens)

    def feedback(self, said: Feedback) -> None:
        """What a caller says of an answer."""
        if said.key == self._score_key:
            self._judged.judge(base_name(said.id), said.number)

    def state(self) -> dict[str, dict[str, float | None]]:
        """By model, what is known of it; None: nothing is.

        `tokens_ratio` and `cost_ratio` are what answers had and cost of what was expected. `success_predicted` is the
        mean over the last requests, and `shift` how far these predictions are from the calibration's (population
        stability index). Of the `judged` answers `success_judged` were good, `success_expected` were expected to be,
        and `deviations` is the difference in standard deviations of what chance does.
        """
        gaps, known = self._judged.gaps(), self._knowledge.reference
        index = None if known is None else self._shift.index(known.reference, known.columns)
        shifts = {} if known is None or index is None else dict(zip(known.columns, index.tolist(), strict=True))
        columns = {
            "tokens_ratio": self.lengths.answers.values.tolist(),
            "cost_ratio": self.costs.values.tolist(),
            "success_predicted": self._shift.means.tolist(),
            "shift": [shifts.get(column) for column in range(len(self._models))],
            "judged": gaps.judged.tolist(),
            "success_judged": gaps.scores.tolist(),
            "success_expected": gaps.expected.tolist(),
            "deviations": gaps.deviations.tolist(),
        }
        return {
            model: {name: _told(values[column]) for name, values in columns.items()}
            for column, model in enumerate(self._models)
        }


def _told(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
