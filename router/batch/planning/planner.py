"""Plans one batch: which requests can go anywhere, what they may spend together, and which model answers each."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.assignment import Assignment, BatchProblem, Strategy
from apportion.router.batch.concurrency import Needs
from apportion.router.batch.messages import BatchInfo, Candidate, Decision, RouteItem, Verdict
from apportion.router.batch.planning.admission import seatable
from apportion.router.batch.planning.batch import Batch
from apportion.router.batch.planning.cascades import Offer, Thresholds, may_cascade, offer
from apportion.router.batch.planning.limits import Uses
from apportion.router.batch.planning.rungs import Rungs
from apportion.router.batch.planning.screening import (
    answer_limit,
    most_tokens,
    possible_models,
    prompt_tokens,
    reasons,
    refuse,
)
from apportion.router.batch.policy import Policy
from apportion.router.batch.reservations.availability import Availability
from apportion.router.estimates import Estimates


@dataclass(frozen=True)
class Group:
    """The requests of a batch that were solved together.

    Args:
        info: as their decisions tell it.
        strategy: that was asked for.
        rung: that decided.
        static: requests that nobody had a prediction for.
        placed: (M,), requests that each model got.
        candidates: (M,), requests that each model might have answered.
        assignment: with its prices and its gap.
        limit_prices: what one more of each limit on what is in flight is worth, by its name.
    """

    info: BatchInfo
    strategy: str
    rung: str
    static: int
    placed: IntArray
    candidates: IntArray
    assignment: Assignment
    limit_prices: Mapping[str, float]


@dataclass(frozen=True)
class Plan:
    """What became of a batch.

    Args:
        verdicts: by request id.
        waiting: ids of requests that have to wait for a slot.
        possible: (N, M), False where a model can never answer the request, whatever is free.
        allowed: (N, M), False where a model might not answer the request now.
        estimates: by which it was planned.
        groups: that were solved, one for each strategy.
        wakes: of refused requests that only sleeping models may answer, the column of the one to wake, by request id.
        uses: what the requests take of limits on what is in flight; None: none holds for any.
    """

    verdicts: dict[str, Verdict]
    waiting: set[str]
    possible: BoolArray
    allowed: BoolArray
    estimates: Estimates
    groups: Sequence[Group]
    wakes: Mapping[str, int]
    uses: Uses | None

    def needs(self, rows: Sequence[int]) -> list[Needs] | None:
        """What these requests need of such limits; None: none holds for any of the batch."""
        return None if self.uses is None else [self.uses.needs(row, self.possible[row]) for row in rows]


class BatchPlanner:
    """Turns items and what there is for them into decisions; holds no reservation and no queue.

    Attributes:
        rungs_used: requests that were decided on each rung; what has no prediction is on rung `static`.
    """

    def __init__(self, rungs: Rungs) -> None:
        self._rungs = rungs
        self._thresholds = Thresholds()
        self.batch_ids = itertools.count(1)
        self.rungs_used: Counter[str] = Counter()

    async def plan(
        self,
        items: Sequence[RouteItem],
        estimates: Estimates,
        available: Availability,
        policy: Policy,
        *,
        starting: BoolArray | None = None,
        waited_s: FloatArray | None = None,
        explain: bool = False,
    ) -> Plan:
        """Decides a batch.

        Args:
            items: those in front are seated first where slots are short.
            starting: (N,), those that may have slots; the others wait unless they have to be refused. None: all may.
            waited_s: (N,), since each request's arrival; None: they have come just now.
            explain: decisions carry the predictions for every model.
        """
        if available.stays is not None:
            estimates = available.stays.cheaper(estimates, policy.prices)
        healthy = available.healthy(len(items))
        possible = possible_models(items, estimates, policy.models)
        uses = Uses.of(items, estimates, policy.models, available.limits)
        barred = np.zeros_like(possible) if uses is None else possible & uses.never()
        possible = possible & ~barred
        allowed = possible & healthy
        batch = Batch(
            items,
            estimates,
            allowed,
            healthy,
            possible & available.may_wake(len(items)),
            available.free_slots.copy(),
            policy,
            explain,
            available.budget,
            available.stays,
            available.savings,
            away=possible & ~healthy,
            uses=uses,
        )
        for row in np.flatnonzero(~(allowed | batch.asleep).any(axis=1)).tolist():
            if uses is not None and barred[row].any() and not possible[row].any():
                batch.refuse(row, uses.error(row, barred[row]))
            else:
                batch.refuse(row, refuse(items[row], estimates, row, policy.models, healthy & ~barred))
        batch.leave_out_what_cannot_be_paid()
        batch.wait_for_sleepers()
        batch.keep_loops()
        if batch.elsewhere is not None:
            possible &= ~batch.elsewhere
        if starting is not None:
            batch.let_wait(~starting)
        batch.let_wait_what_has_no_room(available.room)
        batch.let_wait_what_limits_hold_back()
        batch.keep_in_time(waited_s)
        groups = [
            group
            for strategy, rows in batch.by_strategy()
            if (group := await self._plan_group(batch, strategy, rows)) is not None
        ]
        return Plan(batch.verdicts, batch.waiting, possible, batch.allowed, estimates, groups, batch.wakes, uses)

    async def _plan_group(self, batch: Batch, strategy: Strategy, rows: IntArray) -> Group | None:
        """Seats what has slots, refuses what the cap cannot pay, and assigns the rest."""
        problem = batch.problem(rows, with_samples=strategy.needs_samples)
        seated = seatable(problem)
        if not seated.all() and batch.open_late(rows[~seated]):
            problem = batch.problem(rows, with_samples=strategy.needs_samples)
            seated = seatable(problem)
        batch.wait(rows[~seated])
        if not seated.any():
            return None
        rows, problem = await batch.those_who_can_pay(*batch.kept(rows, problem, seated))
        if not len(rows):
            return None
        offered, assignment, rung = await self._assign(batch, rows, problem, strategy)
        rungs = ["static" if row in batch.estimates.guessed else rung for row in rows.tolist()]
        self.rungs_used.update(rungs)
        models = assignment.model if offered is None else offered.models(assignment.model)
        info = self._decide(batch, rows, problem, assignment, rungs, models, offered)
        return Group(
            info,
            strategy.name,
            rung,
            static=rungs.count("static"),
            placed=np.bincount(models[models >= 0], minlength=problem.n_models),
            candidates=batch.allowed[rows].sum(axis=0),
            assignment=assignment,
            limit_prices={} if batch.uses is None else {**dict.fromkeys(batch.uses.names, 0.0), **info.limit_prices},
        )

    async def _assign(
        self, batch: Batch, rows: IntArray, problem: BatchProblem, strategy: Strategy
    ) -> tuple[Offer | None, Assignment, str]:
        """The best choice, among cascades too where requests may take them, and its rung."""
        if not batch.policy.cascades or not strategy.maximises_value or not (may := may_cascade(batch, rows)).any():
            return None, *await self._rungs.assign(problem, strategy)
        prices = self._thresholds.of(strategy.name)
        if prices is None:
            prices = (await self._rungs.assign(problem, strategy))[0].prices
        offered = offer(batch, rows, problem, may, prices)
        assignment, rung = await self._rungs.assign(problem if offered is None else offered.problem, strategy)
        self._thresholds.learn(strategy.name, assignment.prices, len(rows))
        return offered, assignment, rung

    def _decide(
        self,
        batch: Batch,
        rows: IntArray,
        problem: BatchProblem,
        assignment: Assignment,
        rungs: Sequence[str],
        model_of: IntArray,
        offered: Offer | None,
    ) -> BatchInfo:
        info = BatchInfo(
            id=next(self.batch_ids),
            size=len(rows),
            planned_cost_usd=assignment.expected_cost_usd,
            cap_usd=problem.budget_usd,
            budget_price=assignment.prices.budget,
            objective=assignment.objective,
            bound=assignment.bound,
            binding=assignment.binding,
            limit_prices=_limit_prices(problem, assignment),
        )
        models = batch.policy.models
        prompts = prompt_tokens(batch.items, batch.estimates, models)
        placed = np.flatnonzero(model_of >= 0)
        batch.wait(rows[model_of < 0])
        batch.remaining -= problem.use(model_of)
        seats, columns = rows[placed], model_of[placed]
        if batch.uses is not None:
            batch.uses.take(seats, columns)
        success, cost_usd = batch.estimates.success[seats, columns], problem.cost_usd[placed, columns]
        if offered is not None:
            policy = assignment.model[placed] >= problem.n_models
            at = placed, assignment.model[placed]
            success = np.where(policy, offered.problem.success[at], success)
            cost_usd = np.where(policy, offered.problem.cost_usd[at], cost_usd)
        known = (
            placed.tolist(),
            seats.tolist(),
            columns.tolist(),
            success.tolist(),
            cost_usd.tolist(),
            prompts[seats, columns].tolist(),
            most_tokens(batch.items, prompts, models)[seats, columns].tolist(),
        )
        slot_prices = assignment.prices.slots[problem.engine_of].tolist()
        for i, row, chosen, p, usd, tokens, most in zip(*known, strict=True):
            item, model = batch.items[row], models[chosen]
            batch.verdicts[item.id] = Decision(
                id=item.id,
                model=model.name,
                max_tokens=answer_limit(item, model, int(tokens)),
                success=None if model.by_name_only else p,
                cost_usd=usd,
                slot_price=slot_prices[chosen],
                rung=rungs[i],
                strategy=assignment.strategy,
                batch=info,
                candidates=_candidates(batch, row) if batch.explain else (),
                turn=None if batch.stays is None else batch.stays.turn(row, chosen),
                predicted_seconds=_seconds(batch.estimates, row, chosen),
                second=None
                if offered is None
                else offered.second(item, i, int(assignment.model[i]), batch.policy.names),
                most_tokens=most,
            )
        return info


def _limit_prices(problem: BatchProblem, assignment: Assignment) -> dict[str, float]:
    """By name, of those in the problem: what could not bind is not."""
    names = (limit.name for limit in problem.limits)
    return dict(zip(names, assignment.prices.limits.tolist(), strict=True))


def _candidates(batch: Batch, row: int) -> tuple[Candidate, ...]:
    estimates, policy = batch.estimates, batch.policy
    stays = batch.stays
    value = np.zeros(len(policy.models)) if stays is None else stays.value(policy.stay_value)[row]
    whys = reasons(batch.items[row], estimates, row, policy.models, batch.healthy | batch.asleep)
    return tuple(
        Candidate(
            model=model.name,
            success=None if model.by_name_only else float(estimates.success[row, j]),
            calibrated_success=None if model.by_name_only else float(estimates.before_lift()[row, j]),
            cost_usd=float(estimates.cost_usd[row, j]),
            output_tokens=float(estimates.output_tokens[row, j]),
            allowed=bool(batch.allowed[row, j]),
            stay_value=float(value[j]),
            predicted_seconds=_seconds(estimates, row, j),
            # What no limit of the request's forbids is forbidden by those on money, or by slots that are taken.
            reason=None if batch.allowed[row, j] else whys[j] or _passing_reason(batch, row, j),
        )
        for j, model in enumerate(policy.models)
    )


def _seconds(estimates: Estimates, row: int, column: int) -> float | None:
    seconds = None if estimates.seconds is None else float(estimates.seconds[row, column])
    return None if seconds is None or math.isnan(seconds) else seconds


def _passing_reason(batch: Batch, row: int, column: int) -> str:
    if batch.elsewhere is not None and batch.elsewhere[row, column]:
        return "the request brings the results of another model's calls"
    if batch.late is not None and batch.late[row, column]:
        return "it is expected to be later than max_seconds, and another one less so"
    if batch.asleep[row, column]:
        return "it is asleep, and is woken only where no other may answer"
    return "there is no money or no room for it at the moment"
