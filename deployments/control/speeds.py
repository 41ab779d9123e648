"""Learns of every answer how fast its model is."""

from __future__ import annotations

from collections.abc import Callable

from apportion.router.batch.events import AttemptEnded, Event
from apportion.router.batch.messages import Ending
from apportion.router.drift.speeds import Speeds

SHORTEST_S = 1e-3


class Stopwatch:
    """Subscribes to the events.

    Args:
        models: names, in the order of every array.
        clock: seconds of a monotonic clock.

    Attributes:
        speeds: what is learned.
    """

    def __init__(self, models: tuple[str, ...], clock: Callable[[], float]) -> None:
        self._models = models
        self.speeds = Speeds(models, clock)

    def __call__(self, event: Event) -> None:
        """Takes note of an answer."""
        if not isinstance(event, AttemptEnded) or event.ending is not Ending.answered:
            return
        course, timing = event.course, None if event.decision is None else event.decision.timing
        if course is None or timing is None or course.earlier or not course.output_tokens:
            return
        engine_s = course.total_s - course.link_s - timing.queue_s - timing.predict_s - timing.solve_s
        self.speeds.learn(
            self._models.index(event.model),
            max(engine_s, SHORTEST_S),
            prompt_tokens=course.input_tokens or 0,
            answer_tokens=course.output_tokens,
            running=event.running,
            answers=event.sequences,
        )

    def tokens_per_s(self) -> dict[str, float]:
        """Of one request, by model; only of those that have answered a few."""
        told = zip(self._models, self.speeds.tokens_per_s(), strict=True)
        return {model: speed for model, speed in told if speed is not None}
