"""How fast models generate, as their last answers tell."""

from __future__ import annotations

from collections import deque

from apportion.router.batch.events import AttemptEnded, Event
from apportion.router.batch.messages import Ending

ANSWERS = 200  # of each model, the last ones
FEWEST = 3  # say something


class Speeds:
    """Subscribes to the events."""

    def __init__(self) -> None:
        self._answers: dict[str, deque[tuple[int, float]]] = {}

    def __call__(self, event: Event) -> None:
        """Takes note of an answer."""
        if not isinstance(event, AttemptEnded) or event.ending is not Ending.answered:
            return
        course, timing = event.course, None if event.decision is None else event.decision.timing
        if course is None or timing is None or course.earlier or not course.output_tokens:
            return
        engine_s = course.total_s - course.link_s - timing.queue_s - timing.predict_s - timing.solve_s
        answers = self._answers.setdefault(event.model, deque(maxlen=ANSWERS))
        answers.append((course.output_tokens, max(engine_s, 1e-3)))

    def tokens_per_s(self) -> dict[str, float]:
        """Of one request, by model; only of those that have answered a few."""
        return {
            name: sum(tokens for tokens, _ in answers) / sum(seconds for _, seconds in answers)
            for name, answers in self._answers.items()
            if len(answers) >= FEWEST
        }
