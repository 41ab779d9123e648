from __future__ import annotations

import numpy as np
import pytest

from apportion.router.batch.forecasting.timing import timed
from apportion.router.batch.messages import RouteItem
from apportion.router.drift.lengths import Lengths
from apportion.router.drift.speeds import Speeds
from apportion.router.prices import ModelPrice
from apportion.router.unpriced import Unpriced


@pytest.mark.parametrize(
    ("item", "expected", "seconds"),
    [
        (RouteItem("r"), 40.0, 0.4),  # answers are twice as long as expected of late, and each token takes 5 ms
        (RouteItem("r", max_tokens=50), 40.0, 0.25),
        (RouteItem("r", max_tokens=50, min_tokens=50), 50.0, 0.25),
        (RouteItem("r", sequences=2, min_tokens=70), 140.0, 0.7),
    ],
)
def test_an_answers_time_is_that_of_a_length_that_it_may_have(item: RouteItem, expected: float, seconds: float) -> None:
    lengths, speeds = Lengths.of([False]), Speeds(("a",), lambda: 0.0)
    for _ in range(2000):
        lengths.answers.learn(0, 20.0, 10.0)
        speeds.learn(0, 0.5, prompt_tokens=10.0, answer_tokens=100.0, running=1.0)
    table = np.array([0.5, 0.0, 10.0, expected / item.sequences, expected, 0.0])[:, None, None]
    unpriced = Unpriced(("a",), table)
    found = timed(unpriced.priced([ModelPrice(1, 1)]), unpriced, [item], lengths, speeds, None)
    assert found.seconds is not None
    assert found.seconds[0, 0] == pytest.approx(seconds, rel=0.03)


def test_shorter_answers_of_late_do_not_shorten_one_that_must_be_long() -> None:
    lengths, speeds = Lengths.of([False]), Speeds(("a",), lambda: 0.0)
    for _ in range(2000):
        lengths.answers.learn(0, 5.0, 10.0)
        speeds.learn(0, 0.5, prompt_tokens=10.0, answer_tokens=100.0, running=1.0)
    unpriced = Unpriced(("a",), np.array([0.5, 0.0, 10.0, 80.0, 80.0, 0.0])[:, None, None].repeat(2, axis=1))
    items = [RouteItem("free"), RouteItem("bound", max_tokens=80, min_tokens=80)]
    found = timed(unpriced.priced([ModelPrice(1, 1)]), unpriced, items, lengths, speeds, None)
    assert found.seconds is not None
    np.testing.assert_allclose(found.seconds[:, 0], [0.2, 0.4], rtol=0.05)
