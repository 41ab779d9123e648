"""What cascades have gained, at the spend that they have come to."""

from __future__ import annotations

import pytest

from benchmarks.e2e.cascade import at_spend, compared
from benchmarks.e2e.client import Outcome


def outcome(score: float, cost_usd: float, model: str = "wren") -> Outcome:
    return Outcome(model, score, cost_usd, cost_usd, 0.5, "mip", 1, 0.0, 1.0, 0.1)


LOW, HIGH = [outcome(0.0, 1.0), outcome(1.0, 1.0)], [outcome(1.0, 3.0), outcome(1.0, 3.0)]


@pytest.mark.parametrize(
    ("spend", "expected"), [(0.5, [0, 1]), (1.0, [0, 1]), (2.0, [0.5, 1]), (3.0, [1, 1]), (9.0, [1, 1])]
)
def test_routing_at_a_spend_lies_between_the_arms_next_to_it(spend: float, expected: list[float]) -> None:
    assert at_spend([HIGH, LOW], spend).tolist() == expected


def test_gain_share_and_harm() -> None:
    cascades = [outcome(1.0, 2.0, "wren>heron"), outcome(0.0, 2.0, "wren>heron")]
    singles = {"wren": [outcome(0.0, 1.0), outcome(1.0, 1.0)]}
    found = compared([LOW, HIGH], cascades, singles, seed=0)
    assert found["gain"]["points"] == pytest.approx(100 * ((1.0 - 0.5) + (0.0 - 1.0)) / 2)
    assert (found["escalated"], found["harm"]) == (1.0, 0.5)


def test_without_a_second_answer_there_is_no_harm() -> None:
    found = compared([LOW], LOW, {"wren": LOW}, seed=0)
    assert (found["gain"]["points"], found["escalated"], found["harm"]) == (0.0, 0.0, 0.0)
