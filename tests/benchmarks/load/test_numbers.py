import pytest

from benchmarks.load.chat import Answer
from benchmarks.load.numbers import Target, medians, percentiles_ms, ratio_range, summary

TARGET = Target(first_token_s=0.1, latency_s=0.5)


def answer(latency_s: float, **fields: object) -> Answer:
    return Answer(latency_s=latency_s, **fields)


def test_percentiles_in_milliseconds() -> None:
    assert percentiles_ms([0.001 * i for i in range(101)]) == pytest.approx({"p50": 50, "p95": 95, "p99": 99})
    assert percentiles_ms([]) is None


@pytest.mark.parametrize(
    ("one", "met"),
    [
        (answer(0.4), True),
        (answer(0.6), False),
        (answer(0.4, first_token_s=0.05), True),
        (answer(0.4, first_token_s=0.2), False),
        (answer(0.1, error="429"), False),
    ],
)
def test_the_target_asks_for_all_of_it(one: Answer, met: bool) -> None:
    assert TARGET.met(one) is met


def test_failed_requests_count_as_errors_and_nowhere_else() -> None:
    answers = [
        answer(0.2, output_tokens=10, cost_usd=1e-6, model="wren", first_token_s=0.05, gaps_s=[0.01, 0.03]),
        answer(0.9, output_tokens=30, cost_usd=3e-6, model="heron", first_token_s=0.3),
        answer(9.0, output_tokens=99, error="500: broken"),
    ]
    found = summary(answers, 2.0, TARGET)
    assert found["requests"] == 3
    assert found["errors"] == 1
    assert found["error_examples"] == ["500: broken"]
    assert found["requests_per_s"] == 1.0
    assert found["output_tokens_per_s"] == 20.0
    assert found["goodput_per_s"] == 0.5
    assert found["latency_ms"]["p50"] == pytest.approx(550)
    assert found["between_tokens_ms"]["p50"] == pytest.approx(20)
    assert found["settled_usd"] == pytest.approx(4e-6)
    assert found["settled_answers"] == 2
    assert found["mix"] == {"heron": 1, "wren": 1}


def test_rounds_become_one() -> None:
    rounds = [summary([answer(0.1 * i, model="wren")], 1.0, TARGET) for i in (1, 2, 9)]
    found = medians(
        [one | {"right": None, "cpu": {"a": i, **({"b": 4.0} if i else {})}} for i, one in enumerate(rounds)]
    )
    assert found["requests"] == 3
    assert found["seconds"] == 3.0
    assert found["requests_per_s"] == 1.0
    assert found["latency_ms"]["p50"] == pytest.approx(200)
    assert found["first_token_ms"] is None
    assert found["right"] is None
    assert found["mix"] == {"wren": 3}
    assert found["cpu"] == {"a": 1.0, "b": 4.0}


def test_ratios_of_rounds_come_with_their_range() -> None:
    assert ratio_range([1.0, 0.8, 0.9, 1.3]) == {"median": pytest.approx(0.95), "min": 0.8, "max": 1.3}
