import asyncio
import dataclasses

import numpy as np
import pytest

from apportion.router.assignment import Assignment, BatchProblem, Limit, Mip, Strategy, assign
from apportion.router.batch.messages import Decision, Refusal, RouteItem, RoutingAsk
from apportion.router.batch.planning import admission, search
from apportion.router.batch.policy import Policy
from apportion.router.batch.reservations.availability import Availability
from apportion.router.errors import (
    ApportionError,
    BudgetExceededError,
    ContextLengthError,
    InfeasibleError,
    InvalidRequestError,
    UnavailableError,
)
from apportion.router.estimates import Estimates
from tests.router.batch.plain_room import MODELS, POLICY, PlainRoom, estimates, items

SLOTS = np.array([8, 8])


async def broken(*_: object) -> None:
    raise RuntimeError("gone")


async def late(*_: object) -> None:
    await asyncio.sleep(10)


async def plan(batch: list[RouteItem], of: Estimates | None = None, budget: float | None = None, **options):
    planner = options.pop("planner", None) or PlainRoom().planner
    slots = options.pop("slots", SLOTS)
    policy = Policy(options.pop("models", MODELS), options.pop("strategy", Mip()), budget)
    available = Availability(slots, options.get("capacity", SLOTS))
    return await planner.plan(batch, of or estimates(len(batch)), available, policy)


async def test_candidates_tell_what_was_predicted_before_the_lift() -> None:
    success, before = np.array([[0.4, 0.9], [0.9, 0.9]]), np.array([[0.4, 0.9], [0.4, 0.9]])
    of = dataclasses.replace(estimates(2), success=success, calibrated_success=before)
    result = await PlainRoom().planner.plan(items(2), of, Availability(SLOTS, SLOTS), POLICY, explain=True)
    told = [[(c.success, c.calibrated_success) for c in v.candidates] for v in result.verdicts.values()]
    assert told == [[(0.4, 0.4), (0.9, 0.9)], [(0.9, 0.4), (0.9, 0.9)]]


async def test_without_limits_everyone_gets_the_best_model() -> None:
    result = await plan(items(3))
    assert [v.model for v in result.verdicts.values()] == ["large"] * 3
    decision = result.verdicts["r0"]
    assert (decision.rung, decision.success, decision.cost_usd) == ("mip", 0.9, 1e-5)


async def test_the_planned_cost_keeps_the_cap_and_a_price_is_told() -> None:
    result = await plan(items(4), budget=5e-6)
    decisions = list(result.verdicts.values())
    batch = decisions[0].batch
    assert batch.planned_cost_usd <= batch.cap_usd == pytest.approx(2e-5)
    assert sorted(d.model for d in decisions) == ["large", "small", "small", "small"]
    assert batch.planned_cost_usd == pytest.approx(sum(d.cost_usd for d in decisions))


async def test_slots_are_never_exceeded_and_the_rest_waits() -> None:
    result = await plan(items(5), slots=np.array([1, 2]))
    assert sorted(v.model for v in result.verdicts.values()) == ["large", "large", "small"]
    assert len(result.waiting) == 2


async def test_a_named_model_brings_its_own_price() -> None:
    result = await plan(items(1, model="large"), budget=1e-6)
    decision = result.verdicts["r0"]
    assert decision.model == "large"
    assert decision.batch.cap_usd == pytest.approx(1e-5)


async def test_a_named_model_does_not_take_the_others_allowance() -> None:
    batch = [*items(1, model="large"), *(RouteItem(id=f"a{i}") for i in range(4))]
    result = await plan(batch, budget=5e-6)
    routed = [result.verdicts[f"a{i}"].model for i in range(4)]
    assert sorted(routed) == ["large", "small", "small", "small"]


async def test_what_the_cap_cannot_pay_is_refused_and_the_batch_goes_on() -> None:
    of = estimates(2)
    of.cost_usd[1] = [1.0, 2.0]
    result = await plan(items(2), of, budget=5e-6)
    assert isinstance(result.verdicts["r0"], Decision)
    refusal = result.verdicts["r1"]
    assert isinstance(refusal, Refusal)
    assert isinstance(refusal.error, BudgetExceededError)
    assert "budget_usd_per_request" in refusal.error.message


async def test_what_could_pay_only_for_a_model_that_is_away_may_come_again() -> None:
    result = await plan(items(1), budget=5e-6, slots=np.array([0, 8]), capacity=np.array([0, 8]))
    error = result.verdicts["r0"].error
    assert isinstance(error, UnavailableError)
    assert "budget_usd_per_request" in error.message


async def test_what_only_lacks_room_for_its_answers_on_the_cheap_model_waits_for_it() -> None:
    policy = Policy(MODELS, Mip(), 5e-6)
    crowded = Availability(SLOTS, SLOTS, room=np.array([[2, 8]]))
    result = await PlainRoom().planner.plan(items(1, sequences=4), estimates(1), crowded, policy)
    assert not result.verdicts
    assert result.waiting == {"r0"}


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"ask": RoutingAsk(max_cost_usd=1e-9)}, BudgetExceededError, "max_cost_usd"),
        ({"ask": RoutingAsk(min_success=0.99)}, InfeasibleError, "the best is 0.9"),
        ({"id": "long"}, ContextLengthError, "maximum context length is 100 tokens"),
    ],
)
async def test_an_impossible_request_is_told_why_and_spoils_nothing(
    fields: dict, error: type[ApportionError], says: str
) -> None:
    batch = [RouteItem(**{"id": "r0", **fields}), RouteItem(id="good")]
    of = estimates(2)
    if batch[0].id == "long":
        of.input_tokens[0] = 100
    result = await plan(batch, of)
    assert isinstance(result.verdicts["good"], Decision)
    refusal = result.verdicts[batch[0].id]
    assert isinstance(refusal, Refusal)
    assert type(refusal.error) is error
    assert says in refusal.error.message


async def test_an_answer_longer_than_fits_is_cut_to_what_fits_on_the_chosen_model() -> None:
    of = estimates(3)
    of.input_tokens[:, 1] = 30
    asked = [dataclasses.replace(item, max_tokens=most) for item, most in zip(items(3), (None, 70, 32000), strict=True)]
    result = await plan(asked, of)
    told = [(verdict.model, verdict.max_tokens) for verdict in result.verdicts.values()]
    assert told == [("large", None), ("large", None), ("large", 70)]


async def test_a_prompt_that_nobody_has_counted_is_its_engines_to_refuse() -> None:
    strict = tuple(dataclasses.replace(model, clamps=False) for model in MODELS)
    limits = (None, 30, 95, 32000)
    asked = [dataclasses.replace(item, max_tokens=most) for item, most in zip(items(4), limits, strict=True)]
    most = dataclasses.replace(estimates(4), guessed=frozenset(range(4)))
    most.input_tokens[:] = 400  # that they may have, in a context of 100
    told = [verdict.max_tokens for verdict in (await plan(asked, most)).verdicts.values()]
    assert told == [None, None, 50, 50]
    verdicts = (await plan(asked, most, models=strict)).verdicts
    assert isinstance(verdicts.pop("r3").error, ContextLengthError)
    assert [verdict.max_tokens for verdict in verdicts.values()] == [None] * 3
    most.input_tokens[:] = 40
    told = [verdict.max_tokens for verdict in (await plan(asked, most)).verdicts.values()]
    assert told == [None, None, 60, 60]


async def test_of_several_prompts_each_has_to_fit_beside_its_answer() -> None:
    of = estimates(3)
    of.input_tokens[:] = 400  # of all prompts together, in a context of 100
    several = [dataclasses.replace(item, prompts=n, max_tokens=30) for item, n in zip(items(3), (8, 5, 4), strict=True)]
    verdicts = (await plan(several, of)).verdicts
    assert (verdicts["r0"].max_tokens, verdicts["r1"].max_tokens) == (None, 20)
    assert "the prompt has at least 100 tokens: shorten the prompt" in verdicts["r2"].error.message


async def test_a_service_may_refuse_it_and_names_the_most_that_is_possible() -> None:
    strict = tuple(dataclasses.replace(model, clamps=False) for model in MODELS)
    of = estimates(1)
    of.input_tokens[:, 1] = 30
    result = await plan(items(1, max_tokens=95), of, models=strict)
    error = result.verdicts["r0"].error
    assert (type(error), error.param) == (ContextLengthError, "max_tokens")
    assert "maximum context length is 100 tokens" in error.message
    assert "lower max_tokens to at most 90" in error.message
    assert (await plan(items(1, max_tokens=80), of, models=strict)).verdicts["r0"].model == "small"


async def test_a_request_that_the_predictor_could_not_read_gets_its_own_error() -> None:
    of = estimates(2)
    of = Estimates(**{**of.__dict__, "errors": {0: InvalidRequestError("unreadable")}})
    result = await plan(items(2), of)
    assert result.verdicts["r0"].error.message == "unreadable"
    assert isinstance(result.verdicts["r1"], Decision)


async def test_without_replicas_the_answer_is_unavailable() -> None:
    none = np.array([0, 0])
    result = await PlainRoom().planner.plan(items(1), estimates(1), Availability(none, none), POLICY)
    assert isinstance(result.verdicts["r0"].error, UnavailableError)


async def test_a_request_can_ask_for_a_strategy_of_its_own() -> None:
    ask = RoutingAsk(strategy="static", options={"model": 0})
    result = await plan([*items(1, ask=ask), RouteItem(id="other")])
    assert (result.verdicts["r0"].strategy, result.verdicts["r0"].model) == ("static", "small")
    assert (result.verdicts["other"].strategy, result.verdicts["other"].model) == ("mip", "large")


async def test_options_are_read_as_their_strategy_types_them() -> None:
    ask = RoutingAsk(strategy="mip", options={"gap": "0.1"})
    result = await plan(items(4, ask=ask), budget=5e-6)
    assert {v.rung for v in result.verdicts.values()} == {"mip"}


async def test_a_mistake_in_what_the_solver_was_asked_is_not_its_failure() -> None:
    room = PlainRoom()
    ask = RoutingAsk(strategy="static", options={"model": 9})
    for _ in range(3):
        result = await plan(items(2, ask=ask), planner=room.planner)
        assert {v.rung for v in result.verdicts.values()} == {"price"}
    assert room.rungs.state == "closed"


async def test_allow_lists_hold() -> None:
    result = await plan(items(2, ask=RoutingAsk(models=("small",))))
    assert {v.model for v in result.verdicts.values()} == {"small"}


async def test_a_batch_without_a_binding_limit_needs_no_solver() -> None:
    result = await plan(items(3), planner=PlainRoom(solver=broken).planner)
    decision = result.verdicts["r0"]
    assert (decision.rung, decision.strategy) == ("mip", "mip")
    assert decision.batch.bound == decision.batch.objective == pytest.approx(3 * 0.9)


@pytest.mark.parametrize("solver", [broken, late])
async def test_without_the_solver_prices_decide_within_the_same_limits(solver) -> None:
    result = await plan(items(4), budget=5e-6, planner=PlainRoom(solver=solver).planner)
    decisions = list(result.verdicts.values())
    assert {d.rung for d in decisions} <= {"price", "greedy"}
    assert sum(d.cost_usd for d in decisions) <= decisions[0].batch.cap_usd


@pytest.mark.parametrize(("n", "budget"), [(6, 5e-6), (8, 2e-6), (9, 8e-6)])
async def test_what_could_be_paid_waits_while_the_cheap_model_is_full(n: int, budget: float) -> None:
    result = await plan(items(n), budget=budget, slots=np.array([1, 8]))
    decisions = list(result.verdicts.values())
    assert decisions, "someone is always served"
    assert all(isinstance(decision, Decision) for decision in decisions), "nobody is refused for being late"
    assert sum(d.cost_usd for d in decisions) <= decisions[0].batch.cap_usd
    assert len(result.waiting) == n - len(decisions) > 0
    full = await plan(items(n), budget=budget, slots=np.array([0, 8]))
    assert not full.verdicts
    assert len(full.waiting) == n


async def test_who_pays_for_themselves_share_their_engine_and_keep_limits() -> None:
    cost = np.array([[1.0, 2.0, 9.0], [1.0, 2.0, 9.0], [2.0, 1.0, 9.0], [2.0, 1.0, 9.0]])
    problem = BatchProblem(np.full((4, 3), 0.5), cost, np.array([3, 9]), 99.0, row_of_column=np.array([0, 0, 1]))
    limited = dataclasses.replace(problem, limits=(Limit("tokens", np.ones((4, 3)), 2.0),))
    assert admission.pay_for_themselves(problem, np.full(4, 5.0)).tolist() == [True, True, True, False]
    assert admission.pay_for_themselves(limited, np.full(4, 5.0)).tolist() == [True, True, False, False]
    assert (await admission.admitted(problem)).all()
    assert (await admission.admitted(limited)).sum() == 2
    assert admission.seatable(dataclasses.replace(problem, slots=np.array([1, 2]))).tolist() == [True] * 3 + [False]


def finds_nobody(problem: BatchProblem, **_: object) -> np.ndarray:
    return np.zeros(problem.n_requests, dtype=bool)


def fails(*_: object, **__: object) -> np.ndarray:
    raise TypeError("not callable")


@pytest.mark.parametrize("search", [finds_nobody, fails])
async def test_a_search_that_is_late_or_fails_holds_up_nobody(search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "largest_feasible_subset", search)
    result = await plan(items(6), budget=5e-6, slots=np.array([3, 8]))
    assert len(result.verdicts) == 3
    assert len(result.waiting) == 3


async def test_a_solver_that_answers_for_another_batch_is_not_believed() -> None:
    async def confused(problem: BatchProblem, strategy: Strategy) -> Assignment:
        return assign(problem.subset(np.array([0])), strategy)

    result = await plan(items(4), budget=5e-6, planner=PlainRoom(solver=confused).planner)
    assert {v.rung for v in result.verdicts.values()} == {"price"}


async def test_a_solver_that_keeps_failing_is_not_waited_for() -> None:
    calls = 0

    async def hanging(*_: object) -> None:
        nonlocal calls
        calls += 1
        await asyncio.sleep(10)

    room = PlainRoom(solver=hanging)
    for _ in range(5):
        await plan(items(4), budget=5e-6, planner=room.planner)
    assert calls == 3
    assert room.rungs.state == "open"


async def test_models_that_failed_a_request_are_avoided_or_it_is_refused() -> None:
    room = PlainRoom()
    avoided = np.array([[False, True], [False, False], [True, True]])
    result = await room.planner.plan(items(3), estimates(3), Availability(SLOTS, SLOTS, avoided=avoided), POLICY)
    assert [result.verdicts[f"r{i}"].model for i in range(2)] == ["small", "large"]
    assert isinstance(result.verdicts["r2"].error, UnavailableError)


async def test_without_a_predictor_the_cap_refuses_nobody_and_the_cheapest_answer() -> None:
    prior = dataclasses.replace(estimates(4, cost=(3e-5, 1e-4)), guessed=frozenset(range(4)))
    result = await plan(items(4), prior, budget=1e-5)
    assert [(v.model, v.rung) for v in result.verdicts.values()] == [("small", "static")] * 4


async def test_a_solver_that_works_again_is_found_without_a_request() -> None:
    works = False

    async def solver(problem: BatchProblem, strategy: Strategy) -> Assignment:
        if not works:
            raise ConnectionError("gone")
        return assign(problem, strategy)

    room = PlainRoom(solver=solver)
    for _ in range(3):
        await plan(items(4), budget=5e-6, planner=room.planner)
    await room.rungs.try_again()
    assert room.rungs.state == "open", "not before its time"
    works = True
    room.clock.now_s += 5
    await room.rungs.try_again()
    assert room.rungs.state == "closed"


async def test_batches_that_are_planned_at_once_search_one_after_the_other() -> None:
    room = PlainRoom(solver=broken)  # so that the rungs below are searched too
    of = [plan(items(40), budget=5e-6, slots=np.array([3, 60]), planner=room.planner) for _ in range(8)]
    results = await asyncio.gather(*of)
    assert all(result.verdicts for result in results)
    assert len(search._SEARCH._threads) == 1
