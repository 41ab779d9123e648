from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from apportion.allocation.models import ModelSpec
from apportion.allocation.workload import (
    Workload,
    answer_bounds,
    by_model,
    predicted_workload,
    read_timed_requests,
    recorded_workload,
)
from apportion.router.costs import expected_cost
from apportion.router.errors import InvalidRequestError
from apportion.router.estimates import Estimates
from apportion.router.prediction.encoder import Encoder
from apportion.router.prediction.fleet_predictor import FleetPredictor
from apportion.router.prediction.knn import KnnEstimator
from apportion.router.prediction.prompts import PromptRequest
from apportion.router.prediction.training import train_predictor
from apportion.router.traits import Traits
from tests.allocation.instances import workload
from tests.samples import PRICES, make_outcomes, save_encoder


def with_arrivals(n: int, rate_per_s: float) -> Workload:
    rng = np.random.default_rng(1)
    arrival_s = rng.exponential(1 / rate_per_s, n).cumsum()
    return replace(workload(n, rate_per_s), arrival_s=arrival_s)


def test_batches_hold_no_request_twice_and_use_all_before_any_again() -> None:
    work = workload(100)
    batches = work.batches(30, 7, seed=3)
    assert batches.shape == (7, 30)
    assert all(len(set(batch)) == 30 for batch in batches.tolist())
    assert len(set(batches[:3].ravel().tolist())) == 90
    assert (work.batches(30, 7, seed=3) == batches).all()
    assert (work.batches(30, 7, seed=4) != batches).any()
    with pytest.raises(InvalidRequestError, match="give a smaller size"):
        work.batches(101, 1)


def test_peak_rate_is_above_the_mean_and_bounded_by_the_busiest_minute() -> None:
    steady = with_arrivals(6000, 10.0)
    burst = np.sort(np.concatenate([steady.arrival_s, np.linspace(100, 160, 2000)]))
    busy = replace(workload(8000, 8000 / float(burst[-1])), arrival_s=burst)
    assert 9 < steady.peak_rate_per_s(0.5) < 11
    assert busy.peak_rate_per_s(1.0) == pytest.approx(10 + 2000 / 60, rel=0.1)
    with pytest.raises(InvalidRequestError, match="needs arrival times"):
        workload(10).peak_rate_per_s()
    with pytest.raises(InvalidRequestError, match="needs twice that"):
        with_arrivals(100, 10.0).peak_rate_per_s()


def test_another_rate_compresses_the_arrivals() -> None:
    work = with_arrivals(500, 10.0)
    faster = work.at_rate(20.0)
    assert faster.arrival_s[-1] == pytest.approx(work.arrival_s[-1] / 2)


def test_lower_quantile_is_that_of_the_estimates() -> None:
    work = workload(50)
    assert (work.at_quantile(0.1).estimates.success == work.estimates.at_quantile(0.1).success).all()


def test_recorded_outcomes_at_the_models_own_prices() -> None:
    outcomes = make_outcomes(50, seed=0)
    specs = [ModelSpec(name, "x", PRICES[name]) for name in ("large", "small")]
    work = recorded_workload(outcomes, specs, 5.0)
    assert work.models == ("large", "small")
    assert (work.estimates.success[:, 0] == outcomes.scores[:, 2]).all()
    assert np.allclose(work.estimates.cost_usd[:, 1], outcomes.cost_usd[:, 0])


def test_arrivals_are_read_and_sorted(tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    rows = [{"prompt": f"prompt {i}", "arrival_s": 100.0 - i} for i in range(20)]
    file.write_text("\n".join(map(json.dumps, rows)))
    requests, arrival_s = read_timed_requests(file)
    assert [request.text for request in requests] == [f"prompt {i}" for i in range(20)][::-1]
    assert arrival_s is not None
    assert arrival_s.tolist() == list(range(20))
    assert [request.where for request in requests] == [f"{file}, line {i}" for i in range(1, 21)][::-1]


def test_prompts_are_scored_by_the_predictor_that_routes(tmp_path: Path) -> None:
    outcomes = make_outcomes(300, seed=0)
    loaded = Encoder.load(str(save_encoder(tmp_path, seed=0)), device="cpu")
    predictor = train_predictor(outcomes, loaded, estimator=KnnEstimator(5))
    specs = [ModelSpec(name, "x", PRICES[name]) for name in outcomes.models]
    prompts = outcomes.prompts[:30]
    requests = [PromptRequest(prompt) for prompt in prompts]
    work = predicted_workload(requests, predictor, specs, arrival_s=np.arange(30) / 2.0)
    prediction = predictor.predict(prompts)
    assert (work.estimates.success == prediction.success).all()
    expected_usd, _ = expected_cost(
        prediction.output_tokens, prediction.output_tokens_std, loaded.count_tokens(prompts),
        [spec.price for spec in specs], context=[spec.max_model_len for spec in specs],
    )  # fmt: skip
    assert np.allclose(work.estimates.cost_usd, expected_usd)
    assert work.rate_per_s == pytest.approx(2.0)
    assert work.place(2) == "request 3"
    assert replace(work, places=tuple("abc" * 10)).subset(np.array([4, 2])).place(1) == "c"
    faster = predicted_workload(requests, predictor, specs, arrival_s=np.arange(30) / 2.0, rate_per_s=4.0)
    assert faster.arrival_s is not None
    assert faster.arrival_s[-1] == pytest.approx(29 / 4)
    with pytest.raises(InvalidRequestError, match="neither a rate nor arrival times"):
        predicted_workload(requests, predictor, specs)


def test_a_model_without_outcomes_is_planned_for_with_its_stated_success_only(tmp_path: Path) -> None:
    outcomes = make_outcomes(300, seed=0)
    loaded = Encoder.load(str(save_encoder(tmp_path, seed=0)), device="cpu")
    predictor = train_predictor(outcomes, loaded, estimator=KnnEstimator(5))
    specs = [ModelSpec(name, "x", PRICES["small"]) for name in ("named", *outcomes.models, "stated")]
    priors = dict.fromkeys([spec.name for spec in specs]) | {"stated": 0.8}
    fleet = FleetPredictor(predictor, tuple(priors), priors)
    requests = [PromptRequest(prompt) for prompt in outcomes.prompts[:30]]
    work = predicted_workload(requests, fleet, specs, rate_per_s=1.0)
    assert work.allowed(specs)[:, 1:].all()
    assert not work.allowed(specs)[:, 0].any()
    assert (work.estimates.success[:, 4] == 0.8).all()
    assert not work.subset(np.arange(3)).allowed(specs)[:, 0].any()


def test_prompts_in_another_encoding_are_named(tmp_path: Path) -> None:
    file = tmp_path / "requests.txt"
    file.write_bytes("größer".encode("latin-1"))
    with pytest.raises(InvalidRequestError, match=r"requests\.txt, line 1: not UTF-8"):
        read_timed_requests(file)


def test_lines_may_say_what_limits_their_answers(tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    chat, tools = [{"role": "user", "content": "a"}], [{"type": "function"}]
    rows = [
        {"messages": chat, "max_tokens": 9, "max_completion_tokens": 5, "n": 3, "min_tokens": 2, "tools": tools},
        {"prompt": "b", "max_tokens": 7},
        {"prompt": "c"},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    requests, _ = read_timed_requests(file)
    assert requests == [
        PromptRequest(chat, 5, 3, tools, traits=Traits(tools=1), min_tokens=2),
        PromptRequest("b", 7),
        PromptRequest("c"),
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "a", "max_tokens": 0}], "line 1: max_tokens is 0"),
        ([{"prompt": "a", "n": True}], "line 1: n is True"),
        ([{"prompt": "a", "tools": "none"}], "line 1: tools is no list"),
        ([{"prompt": "a", "arrival_s": 1}, {"prompt": "b"}], "line 3: no arrival_s"),
        ([{"prompt": "a", "arrival_s": 1}, {"prompt": "b", "arrival_s": "soon"}], "line 3: arrival_s is 'soon'"),
        ([{"prompt": "a"}, {"prompts": "b"}], 'line 3: give an object with "prompt"'),
    ],
)
def test_bad_arrivals_are_named(tmp_path: Path, rows: list[dict[str, object]], message: str) -> None:
    file = tmp_path / "requests.jsonl"
    file.write_text("\n\n".join(map(json.dumps, rows)))
    with pytest.raises(InvalidRequestError, match=message):
        read_timed_requests(file)


def test_a_model_counts_as_its_likeliest_variant() -> None:
    qwen = ModelSpec("qwen", "x", PRICES["small"])
    variants = tuple(replace(qwen, name=f"qwen@{name}", max_tokens=most) for name, most in (("a", None), ("b", 7)))
    specs = [ModelSpec("large", "x", PRICES["large"]), replace(qwen, variants=variants)]
    columns = [column for spec in specs for column in spec.columns]
    assert [column.name for column in columns] == ["large", "qwen@a", "qwen@b"]
    assert answer_bounds(columns)[1].tolist() == [np.inf, np.inf, 7.0]
    success = np.array([[0.5, 0.2, 0.9], [0.5, 0.4, 0.4], [0.5, 0.9, 0.1]])
    cost_usd = np.array([[9.0, 1.0, 5.0], [9.0, 6.0, 5.0], [9.0, 1.0, 2.0]])
    tokens = np.arange(9.0).reshape(3, 3)
    refusals = {2: {1: "cannot read it"}}
    found = by_model(Estimates(success, cost_usd, tokens, tokens, refusals=refusals), specs)
    assert found.success.tolist() == [[0.5, 0.9], [0.5, 0.4], [0.5, 0.1]]
    assert found.cost_usd.tolist() == [[9.0, 5.0], [9.0, 5.0], [9.0, 2.0]], "of two as good the cheaper"
    assert found.output_tokens.tolist() == [[0.0, 2.0], [3.0, 5.0], [6.0, 8.0]]
    assert found.refusals == {2: {}}
    none = by_model(Estimates(success, cost_usd, tokens, tokens, refusals={0: {1: "no", 2: "no"}}), specs)
    assert none.readable().tolist() == [[True, False], [True, True], [True, True]]
