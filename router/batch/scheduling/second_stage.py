"""Second stages of cascades: as soon as they come each keeps its first answer, or has the second model asked."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from apportion.router.arrays import BoolArray
from apportion.router.assignment import Assignment, Mip
from apportion.router.batch.events import Forecast
from apportion.router.batch.forecasting.correction import corrected
from apportion.router.batch.messages import BatchInfo, Decision, EngineReplica, PlanTiming, RouteItem
from apportion.router.batch.planning.cascades import SecondStages, second_stages
from apportion.router.batch.planning.limits import Uses
from apportion.router.batch.planning.rungs import Rungs
from apportion.router.batch.planning.screening import answer_limit, most_tokens, possible_models, prompt_tokens
from apportion.router.batch.policy import Policy
from apportion.router.batch.reservations.reservations import Reservations, Wish
from apportion.router.batch.scheduling.decider import Desk
from apportion.router.batch.scheduling.entry import Entry, unpriced_of
from apportion.router.batch.stages import Kept
from apportion.router.budget.standing import Claim
from apportion.router.drift.lengths import Lengths
from apportion.router.estimates import Estimates

logger = logging.getLogger(__name__)

STRATEGY = Mip()  # the certified one, whatever decided the first stages: what they left to decide is what is right


@dataclass(frozen=True, eq=False)
class _Plan:
    """What was decided of N second stages: `assignment` is among M models and, last, to keep the first answer."""

    estimates: Estimates
    allowed: BoolArray
    stages: SecondStages
    assignment: Assignment
    rung: str
    info: BatchInfo
    began_s: float

    def asks(self, row: int) -> bool:
        """Whether the second model is asked."""
        return bool(0 <= self.assignment.model[row] < self.stages.problem.n_models - 1)

    def decision(self, item: RouteItem, row: int, policy: Policy) -> Decision:
        """That the second model is asked."""
        column = int(self.assignment.model[row])
        model = policy.models[column]
        one = self.estimates.rows([row])
        prompts = prompt_tokens([item], one, policy.models)
        return Decision(
            id=item.id,
            model=model.name,
            success=float(self.stages.success[row]),
            cost_usd=float(self.stages.problem.cost_usd[row, column]),
            slot_price=float(self.assignment.prices.slots[policy.engine_of[column]]),
            rung=self.rung,
            strategy=self.assignment.strategy,
            batch=self.info,
            max_tokens=answer_limit(item, model, int(prompts[0, column])),
            most_tokens=int(most_tokens([item], prompts, policy.models)[0, column]),
        )


class SecondStageDecider:
    """Plans second stages. None of them waits for a slot: who finds none has an answer.

    Their money has been set aside since the first stage was decided, so that no limit can refuse them.

    Args:
        rungs: of their own, since their problems have a column more than other batches'.
        batch_ids: numbers of batches, which other deciders take too.
        lengths: how long answers are of what was expected.
        clock: seconds of a monotonic clock.
    """

    def __init__(
        self,
        rungs: Rungs,
        batch_ids: Iterator[int],
        reservations: Reservations,
        lengths: Lengths,
        clock: Callable[[], float],
    ) -> None:
        self._rungs = rungs
        self._batch_ids = batch_ids
        self._reservations = reservations
        self._lengths = lengths
        self._clock = clock

    async def decide(self, entries: Sequence[Entry], policy: Policy, desk: Desk) -> None:
        """Tells each what becomes of it; nobody waits."""
        sure: dict[str, float] = {}
        try:
            live = [entry for entry in entries if not entry.cancelled and entry.left_s(self._clock()) > 0]
            if live:
                plan = await self._plan(live, policy)
                sure = {entry.item.id: float(q) for entry, q in zip(live, plan.stages.sure, strict=True)}
                await self._ask_second(live, plan, policy, desk)
        except Exception as error:
            # Its class only: what it says may quote a request. Whatever it was, there are answers.
            logger.error("planning %d second stages failed: %s", len(entries), type(error).__name__)
        for entry in entries:
            if not entry.decided:
                self._reservations.release(entry.item.id)
                if not entry.cancelled:
                    desk.tell(entry, Kept(entry.item.id, sure.get(entry.item.id)))

    async def _plan(self, entries: Sequence[Entry], policy: Policy) -> _Plan:
        began_s, items = self._clock(), [entry.item for entry in entries]
        estimates = corrected(unpriced_of(entries).priced(policy.prices), items, policy, self._lengths)
        fleet = self._reservations.fleet
        allowed = possible_models(items, estimates, policy.models) & (fleet.capacity() > 0)[policy.engine_of]
        uses = Uses.of(items, estimates, policy.models, fleet.concurrency.left())
        if uses is not None:
            allowed &= ~uses.full()
        limits = () if uses is None else uses.rows(np.arange(len(items)), allowed)
        stages = second_stages(items, estimates, allowed, fleet.free_slots(), policy, limits)
        assignment, rung = await self._rungs.assign(stages.problem, STRATEGY)
        info = BatchInfo(
            id=next(self._batch_ids),
            size=len(items),
            planned_cost_usd=assignment.expected_cost_usd,
            cap_usd=math.inf,  # the batches of their first stages have paid
            budget_price=assignment.prices.budget,
            objective=assignment.objective,
            bound=assignment.bound,
            binding=assignment.binding,
        )
        return _Plan(estimates, allowed, stages, assignment, rung, info, began_s)

    async def _claims(self, entries: Sequence[Entry], plan: _Plan, policy: Policy) -> Mapping[int, Sequence[Claim]]:
        """What has to be set aside anew, by row: a word that was lost may have given it back."""
        items = [entry.item for entry in entries]
        resent = [row for row, item in enumerate(items) if item.resent]
        budget = await self._reservations.spending.look(items, plan.estimates, policy) if resent else None
        if budget is None:
            return {}
        return {row: [budget.claim(row, int(plan.assignment.model[row]))] for row in resent if plan.asks(row)}

    async def _ask_second(self, entries: Sequence[Entry], plan: _Plan, policy: Policy, desk: Desk) -> None:
        """Those who are to have the second model get a slot of it; who finds none keeps the first answer."""
        asking = [row for row in range(len(entries)) if plan.asks(row)]
        claims = await self._claims(entries, plan, policy)
        decisions = [plan.decision(entries[row].item, row, policy) for row in asking]
        wishes = [
            Wish(entries[row].item, decision, claims.get(row, ()))
            for row, decision in zip(asking, decisions, strict=True)
        ]
        solve_s = self._clock() - plan.began_s
        for row, wish, seat in zip(asking, wishes, await self._reservations.take(wishes), strict=True):
            entry, decision = entries[row], wish.decision
            if entry.cancelled:
                self._reservations.drop(decision)
            elif isinstance(seat, EngineReplica):
                timing = PlanTiming(plan.began_s - entry.arrived_s, 0.0, solve_s)
                entry.forecast = Forecast(policy.names, plan.estimates, row, plan.allowed[row])
                desk.tell(entry, decision.seated(seat, policy.price_of(decision.model), timing))
