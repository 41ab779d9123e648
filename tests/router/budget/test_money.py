import numpy as np
import pytest

from apportion.router.budget import from_nano, spelled, to_nano, worst_case_nano
from apportion.router.prices import ModelPrice

PRICES = [ModelPrice(1.0, 2.0), ModelPrice(10.0, 20.0)]


def test_amounts_survive_the_way_to_nano_and_back() -> None:
    assert to_nano(2.13e-05) == 21_300
    assert from_nano(21_300) == 2.13e-05
    assert to_nano(0.1) + to_nano(0.2) == to_nano(0.3)


def test_what_is_set_aside_is_rounded_up() -> None:
    prices = [ModelPrice(1.25e-3, 0.0), ModelPrice(21.3, 0.0)]  # 1.25 and 21,300 nano-USD a token
    assert to_nano(1.25e-9) == 1
    assert worst_case_nano(np.ones((1, 2)), [1], [1], [1], [100, 100], prices).tolist() == [[2, 21_300]]


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_what_is_no_amount_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="give a finite number of zero or more"):
        to_nano(wrong)


def test_spelled_for_people() -> None:
    assert [spelled(n) for n in (0, 1_500_000_000, 21_300, -5)] == [
        "0.00 USD",
        "1.50 USD",
        "0.0000213 USD",
        "-0.000000005 USD",
    ]


def worst(tokens: float, max_tokens: float, sequences: int = 1, prompts: int = 1) -> list[int]:
    return worst_case_nano(np.full((1, 2), tokens), [max_tokens], [sequences], [prompts], [100, 200], PRICES)[
        0
    ].tolist()


def test_the_worst_case_is_the_prompt_and_the_longest_answer() -> None:
    assert worst(10, 5) == [(10 + 2 * 5) * 1000, (10 + 2 * 5) * 10_000]


def test_an_answer_without_a_limit_ends_with_the_context() -> None:
    assert worst(10, np.inf) == [(10 + 2 * 90) * 1000, (10 + 2 * 190) * 10_000]


def test_every_sequence_may_be_as_long() -> None:
    assert worst(10, 5, sequences=4) == [(10 + 2 * 20) * 1000, (10 + 2 * 20) * 10_000]


def test_the_shortest_of_several_prompts_has_the_context_to_itself() -> None:
    assert worst(90, np.inf, sequences=2, prompts=2)[0] == (90 + 2 * 2 * 99) * 1000
