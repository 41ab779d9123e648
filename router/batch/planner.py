"""Plans one batch: which requests can go anywhere, what they may spend together, and which model answers each.

Pure of Ray and HTTP: predictor and solver are given as functions. When one of them fails the plan is made a rung
lower (`mip` -> `price` -> `greedy` -> `static`), and every decision says on which.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.assignment import (
    Assignment,
    BatchProblem,
    Greedy,
    Mip,
    PerQuery,
    Price,
    Prices,
    RobustMip,
    Status,
    Strategy,
    assign,
)
from apportion.router.assignment.options import checked_strategy
from apportion.router.batch.admission import (
    admitted,
    allowances,
    cheapest_usd,
    over_budget,
    pay_for_themselves,
    seatable,
)
from apportion.router.batch.breaker import Breaker, BreakerState
from apportion.router.batch.cancellation import is_cancelled
from apportion.router.batch.estimates import TypicalLengths, prior_estimates
from apportion.router.batch.funds import ROUNDING, Funds
from apportion.router.batch.messages import BatchInfo, Candidate, Decision, Refusal, RouteItem, Verdict
from apportion.router.batch.policy import Policy
from apportion.router.batch.screening import allowed_models, refuse
from apportion.router.errors import ApportionError, InvalidRequestError
from apportion.router.estimates import Estimates
from apportion.router.prices import ModelPrice

logger = logging.getLogger("ray.serve")

ADMISSION_ROUNDS = 6  # each nearly always the last

Predict = Callable[[Sequence[RouteItem], Sequence[ModelPrice]], Awaitable[Estimates]]
Solve = Callable[[BatchProblem, Strategy], Awaitable[Assignment]]
T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """A batch's verdicts by request id, and the ids that have to wait for a slot."""

    verdicts: dict[str, Verdict]
    waiting: set[str]


class Planner:
    """Turns items and free slots into decisions; holds no reservation and no queue.

    Args:
        max_model_len: (M,), of each model, in the order of every array.
        mean_success: (M,), used when the predictor does not answer.
        solve_timeout_s: later than this the solver's answer is not waited for.
    """

    def __init__(
        self,
        max_model_len: FloatArray,
        mean_success: FloatArray,
        predict: Predict,
        solve: Solve,
        *,
        predict_timeout_s: float,
        solve_timeout_s: float,
    ) -> None:
        self._mean_success = mean_success
        self._predict = predict
        self._solve = solve
        self._predict_timeout_s = predict_timeout_s
        self._solve_timeout_s = solve_timeout_s
        self._lengths = TypicalLengths(np.asarray(max_model_len, dtype=float))
        self._last_prices: dict[str, Prices] = {}
        self._batch_ids = itertools.count(1)
        self._breakers = {"predictor": Breaker(), "solver": Breaker()}
        self.rungs: Counter[str] = Counter()

    async def estimate(self, items: Sequence[RouteItem], prices: Sequence[ModelPrice]) -> Estimates:
        """Predictions for the items at these prices; the models' means where the predictor fails or is late."""
        estimates = await self._ask("predictor", self._predict_timeout_s, lambda: self._prediction(items, prices))
        if estimates is None:
            return prior_estimates(items, self._mean_success, prices, self._lengths.tokens)
        self._lengths.learn(estimates)
        return estimates

    def parts(self) -> dict[str, str]:
        """Whether predictor and solver are asked: their breakers' states."""
        now_s = time.monotonic()
        return {name: breaker.state(now_s) for name, breaker in self._breakers.items()}

    async def try_parts(self) -> None:
        """Asks parts that were left alone for long enough, so that no request has to, and none has to come for it."""
        now_s, n_models = time.monotonic(), len(self._mean_success)
        due = {name for name, breaker in self._breakers.items() if breaker.state(now_s) is BreakerState.half_open}
        if "predictor" in due:
            item, free = RouteItem("trial", "What is 1 plus 1?"), [ModelPrice(0, 0)] * n_models
            await self._ask("predictor", self._predict_timeout_s, lambda: self._prediction([item], free))
        if "solver" in due:
            shape = (1, n_models)
            slots = np.ones(n_models, dtype=np.int64)
            problem = BatchProblem(success=np.ones(shape), cost_usd=np.ones(shape), slots=slots)
            await self._ask("solver", self._solve_timeout_s, lambda: self._checked_solution(problem, Mip()))

    async def _prediction(self, items: Sequence[RouteItem], prices: Sequence[ModelPrice]) -> Estimates:
        estimates = await self._predict(items, prices)
        estimates.check(len(items), len(prices))
        return estimates

    async def _ask(self, part: str, timeout_s: float, call: Callable[[], Awaitable[T]]) -> T | None:
        """The part's answer; None if it fails, is late, or has failed so often that it is left alone for now.

        A part that finds a mistake in what it was asked works.
        """
        breaker = self._breakers[part]
        if not breaker.allows(time.monotonic()):
            return None
        try:
            async with asyncio.timeout(timeout_s):
                answer = await call()
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled():
                raise
            if isinstance(error, InvalidRequestError):
                breaker.success()
            else:
                breaker.failure(time.monotonic())
            logger.warning("the %s failed, planning without it: %r", part, error)
            return None
        breaker.success()
        return answer

    async def plan(
        self,
        items: Sequence[RouteItem],
        estimates: Estimates,
        free_slots: IntArray,
        capacity: IntArray,
        policy: Policy,
        *,
        avoided: BoolArray | None = None,
        funds: Funds | None = None,
        explain: bool = False,
    ) -> Plan:
        """Decides a batch.

        Args:
            items: those in front are seated first where slots are short.
            free_slots: (M,), what may be taken now.
            capacity: (M,), slots of replicas that work; a model with none may not answer.
            avoided: (N, M), models that have failed a request.
            funds: what the limits on money leave each request, in the items' order; None: there are no limits.
            explain: decisions carry the predictions for every model.
        """
        healthy = np.tile(capacity > 0, (len(items), 1))
        if avoided is not None:
            healthy &= ~avoided
        allowed = allowed_models(items, estimates, policy.models, healthy)
        batch = _Batch(items, estimates, allowed, free_slots.copy(), policy, explain, funds)
        for row in np.flatnonzero(~allowed.any(axis=1)).tolist():
            batch.refuse(row, refuse(items[row], estimates, row, policy.models, healthy))
        batch.leave_out_what_cannot_be_paid()
        for strategy, rows in batch.by_strategy():
            await self._plan_group(batch, strategy, rows)
        return Plan(batch.verdicts, batch.waiting)

    async def _plan_group(self, batch: _Batch, strategy: Strategy, rows: IntArray) -> None:
        """Seats what has slots, refuses what the cap cannot pay, and assigns the rest."""
        problem = batch.problem(rows, with_samples=isinstance(strategy, RobustMip))
        seated = seatable(problem)
        batch.wait(rows[~seated])
        if not seated.any():
            return
        rows, problem = await batch.funded(*batch.kept(rows, problem, seated))
        if not len(rows):
            return
        assignment, rung = await self._assign(problem, strategy)
        rung = rung if batch.estimates.predicted else "static"
        self.rungs[rung] += len(rows)
        self._decide(batch, rows, problem, assignment, rung)

    def _decide(self, batch: _Batch, rows: IntArray, problem: BatchProblem, assignment: Assignment, rung: str) -> None:
        info = BatchInfo(
            id=next(self._batch_ids),
            size=len(rows),
            planned_cost_usd=assignment.expected_cost_usd,
            cap_usd=problem.budget_usd,
            budget_price=assignment.prices.budget,
            objective=assignment.objective,
            bound=assignment.bound,
            binding=assignment.binding,
        )
        placed = assignment.model >= 0
        batch.wait(rows[~placed])
        np.subtract.at(batch.remaining, assignment.model[placed], problem.load[placed])
        for i in np.flatnonzero(placed).tolist():
            row, chosen = int(rows[i]), int(assignment.model[i])
            item = batch.items[row]
            batch.verdicts[item.id] = Decision(
                id=item.id,
                model=batch.policy.models[chosen].name,
                success=float(problem.success[i, chosen]),
                cost_usd=float(problem.cost_usd[i, chosen]),
                slot_price=float(assignment.prices.slots[chosen]),
                rung=rung,
                strategy=assignment.strategy,
                batch=info,
                candidates=self._candidates(batch, row) if batch.explain else (),
            )

    async def _assign(self, problem: BatchProblem, strategy: Strategy) -> tuple[Assignment, str]:
        """The solver's answer, or the best that can be had here and now if it does not come."""
        if isinstance(strategy, Mip) and not strategy.rows:
            favourites = assign(problem, PerQuery(price=0.0, limits="ignore"))
            if favourites.status is not Status.infeasible:
                # Everyone has the model that is best for them: an optimum that needs no solver.
                return replace(favourites, strategy=strategy.name, bound=favourites.objective), strategy.name
        solved = await self._ask("solver", self._solve_timeout_s, lambda: self._checked_solution(problem, strategy))
        if solved is not None and solved.status is not Status.infeasible:
            self._last_prices[strategy.name] = solved.prices
            return solved, solved.strategy
        # In a thread, since moving requests until all limits hold may take long where they are tight.
        price, warm = Price(time_limit_s=self._solve_timeout_s), self._last_prices.get(strategy.name)
        priced = await asyncio.to_thread(assign, problem, price, warm=warm)
        if priced.status is not Status.infeasible:
            return priced, "price"
        return await asyncio.to_thread(assign, problem, Greedy(time_limit_s=self._solve_timeout_s)), "greedy"

    async def _checked_solution(self, problem: BatchProblem, strategy: Strategy) -> Assignment:
        assignment = await self._solve(problem, strategy)
        if not is_assignment(problem, assignment.model):
            raise ValueError(f"the solver's answer is none for this batch: {assignment.model.shape}")
        return assignment

    def _candidates(self, batch: _Batch, row: int) -> tuple[Candidate, ...]:
        estimates = batch.estimates
        return tuple(
            Candidate(
                model=model.name,
                success=float(estimates.success[row, j]),
                cost_usd=float(estimates.cost_usd[row, j]),
                output_tokens=float(estimates.output_tokens[row, j]),
                allowed=bool(batch.allowed[row, j]),
            )
            for j, model in enumerate(batch.policy.models)
        )


@dataclass
class _Batch:
    """A batch on its way to verdicts.

    `allowed` is (N, M); `remaining` (M,) are the slots that no group has taken yet.
    """

    items: Sequence[RouteItem]
    estimates: Estimates
    allowed: BoolArray
    remaining: IntArray
    policy: Policy
    explain: bool
    funds: Funds | None = None
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)

    def refuse(self, row: int, error: ApportionError) -> None:
        self.verdicts[self.items[row].id] = Refusal(self.items[row].id, error)

    def leave_out_what_cannot_be_paid(self) -> None:
        """Models whose worst case some limit on money has no room for; refuses requests that have no other."""
        if self.funds is None or self.funds.affordable.all():
            return
        paid = self.allowed & self.funds.affordable
        for row in np.flatnonzero(self.allowed.any(axis=1) & ~paid.any(axis=1)).tolist():
            self.refuse(row, self.funds.error(row, self.allowed[row]))
        self.allowed = paid

    def wait(self, rows: IntArray) -> None:
        self.waiting.update(self.items[row].id for row in rows)

    def by_strategy(self) -> list[tuple[Strategy, IntArray]]:
        """Requests that ask for a strategy of their own are planned apart, each group with its own allowance."""
        groups: dict[str, tuple[Strategy, list[int]]] = {"": (self.policy.strategy, [])}
        for row in np.flatnonzero(self.allowed.any(axis=1)).tolist():
            ask = self.items[row].ask
            key = "" if ask.strategy is None else json.dumps([ask.strategy, ask.options], sort_keys=True)
            if key not in groups:
                groups[key] = (checked_strategy(ask.strategy or "", ask.options), [])
            groups[key][1].append(row)
        return [(strategy, np.array(rows)) for strategy, rows in groups.values() if rows]

    def problem(self, rows: IntArray, *, with_samples: bool) -> BatchProblem:
        """The rows' problem under the remaining slots, and no budget yet."""
        sequences = np.array([self.items[row].sequences for row in rows], dtype=np.int64)
        priority = np.array([self.items[row].priority for row in rows], dtype=float)
        # A request with more sequences than a model has slots runs there alone; its engine queues the rest.
        most = max(1, int(self.remaining.max(initial=1)))
        return self.estimates.rows(rows).problem(
            self.remaining.copy(),
            allowed=self.allowed[rows],
            sequences=None if (sequences == 1).all() else np.minimum(sequences, most),
            weight=None if (priority == 0).all() else np.exp2(priority),
            with_samples=with_samples,
        )

    def kept(self, rows: IntArray, problem: BatchProblem, keep: BoolArray) -> tuple[IntArray, BatchProblem]:
        """The kept requests and their problem, with the allowance that they bring."""
        rows, problem = rows[keep], problem.subset(keep)
        if self.funds is None or self.funds.pacer is None:
            cap_usd = float(self._allowances(rows, problem).sum())
            return rows, replace(problem, budget_usd=cap_usd)
        if problem.budget_usd == float("inf"):  # asked once a batch, since a pacer learns from each
            problem = replace(problem, budget_usd=self.funds.allowance_usd(self.funds.pacer, problem))
        return rows, problem

    def _allowances(self, rows: IntArray, problem: BatchProblem) -> FloatArray:
        return allowances(rows, self.items, problem, self.policy, predicted=self.estimates.predicted)

    async def funded(self, rows: IntArray, problem: BatchProblem) -> tuple[IntArray, BatchProblem]:
        """The requests that can pay for each other; with each that is turned away the cap is smaller."""
        for attempt in range(ADMISSION_ROUNDS + 1):
            last = attempt == ADMISSION_ROUNDS
            own_usd = self._allowances(rows, problem)
            funded = pay_for_themselves(problem, own_usd)
            if not last and (together := await admitted(problem)).sum() >= funded.sum():
                funded = together  # else the search ran out of time with less
            self._turn_away(rows, problem, own_usd, funded)
            if funded.all():
                break
            if not funded.any():
                return rows[:0], problem
            rows, problem = self.kept(rows, problem, funded)
        return rows, problem

    def _turn_away(
        self,
        rows: IntArray,
        problem: BatchProblem,
        own_usd: FloatArray,
        funded: BoolArray,
    ) -> None:
        """Refuses what the cap can never pay; what it could, were cheap models not full, waits, as do the paced."""
        cheapest = cheapest_usd(problem)
        waits = cheapest * (1 + ROUNDING / 2) <= own_usd
        if self.funds is not None and self.funds.pacer is not None:
            waits[:] = True
        self.wait(rows[~funded & waits])
        refused = ~funded & ~waits
        for row, cost_usd in zip(rows[refused].tolist(), cheapest[refused], strict=True):
            self.refuse(row, over_budget(cost_usd, problem, self.policy))


def is_assignment(problem: BatchProblem, model: IntArray) -> bool:
    """Whether it names for every request a model that may answer it, or none (-1)."""
    if model.shape != (problem.n_requests,) or model.min() < -1 or model.max() >= problem.n_models:
        return False
    placed = np.flatnonzero(model >= 0)
    return problem.allowed is None or bool(problem.allowed[placed, model[placed]].all())
