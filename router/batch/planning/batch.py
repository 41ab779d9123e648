"""A batch on its way to verdicts: who can be answered by whom, who pays, who waits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.assignment import BatchProblem, Strategy
from apportion.router.assignment.options import checked_strategy
from apportion.router.batch.messages import Refusal, RouteItem, Verdict
from apportion.router.batch.money.batch_budget import ROUNDING, BatchBudget, allowed_usd
from apportion.router.batch.money.savings import Savings, is_pooled
from apportion.router.batch.planning.admission import (
    admitted,
    affordable_away,
    all_asleep,
    allowances,
    cheapest_usd,
    over_budget,
    pay_for_themselves,
)
from apportion.router.batch.planning.limits import Uses
from apportion.router.batch.policy import Policy, priority_weight
from apportion.router.batch.reservations.conversations import Stays
from apportion.router.errors import ApportionError
from apportion.router.estimates import Estimates

ADMISSION_ROUNDS = 6  # each nearly always the last


@dataclass
class Batch:
    """A batch on its way to verdicts.

    Args:
        items: the N requests.
        estimates: of the requests on the M models.
        allowed: (N, M), models that may answer.
        healthy: (N, M), models that have a replica for the request.
        asleep: (N, M), models that may answer a request and have no replica until one is asked for.
        remaining: (n_engines,), slots that no group has taken yet.
        policy: by which it is planned.
        explain: decisions carry the predictions for every model.
        budget: what the limits on money leave each request; None: there are no limits.
        stays: where the requests' sessions were last; None: no request has one.
        savings: what requests before these have left; None: nothing.
        elsewhere: (N, M), models that tool loops leave their own for in no case.
        away: (N, M), models that may answer a request and have no replica for it now.
        crowded: (N, M), models that may answer a request and that have no room for its many answers, or limits for it,
            yet.
        late: (N, M), models that may answer a request and are left to others since they are expected to be late.
        uses: what the requests take of limits on what is in flight; None: none holds for any.
        verdicts: by request id.
        waiting: ids of requests that have to wait.
        wakes: of requests that only sleeping models may answer, the column of the one to wake, by request id.
    """

    items: Sequence[RouteItem]
    estimates: Estimates
    allowed: BoolArray
    healthy: BoolArray
    asleep: BoolArray
    remaining: IntArray
    policy: Policy
    explain: bool
    budget: BatchBudget | None = None
    stays: Stays | None = None
    savings: Savings | None = None
    elsewhere: BoolArray | None = None
    away: BoolArray | None = None
    crowded: BoolArray | None = None
    late: BoolArray | None = None
    uses: Uses | None = None
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)
    wakes: dict[str, int] = field(default_factory=dict)

    def refuse(self, row: int, error: ApportionError) -> None:
        self.verdicts[self.items[row].id] = Refusal(self.items[row].id, error)

    def wake(self, row: int, models: BoolArray) -> None:
        """Refuses a request until one of these models (M,), all asleep, is awake: the best that it can pay, or the
        cheapest.
        """
        cost_usd, success = self.estimates.cost_usd[row], self.estimates.success[row]
        most_usd = self.policy.budget_usd_per_request
        payable = models & (cost_usd <= (np.inf if most_usd is None else most_usd))
        value = np.where(payable, success, -np.inf) if payable.any() else np.where(models, -cost_usd, -np.inf)
        self.wakes[self.items[row].id] = int(value.argmax())
        self.refuse(row, all_asleep([self.policy.names[column] for column in np.flatnonzero(models)]))

    def leave_out_what_cannot_be_paid(self) -> None:
        """Models whose worst case some limit on money has no room for; refuses requests that have no other."""
        if self.budget is None or self.budget.affordable.all():
            return
        paid = self.allowed & self.budget.affordable
        asleep = self.asleep & self.budget.affordable
        candidates = self.allowed | self.asleep
        for row in np.flatnonzero(candidates.any(axis=1) & ~(paid | asleep).any(axis=1)).tolist():
            self.refuse(row, self.budget.error(row, candidates[row]))
        self.allowed, self.asleep = paid, asleep

    def wait_for_sleepers(self) -> None:
        """Requests that no model may answer that is awake, and a sleeping one may."""
        for row in np.flatnonzero(self.asleep.any(axis=1) & ~self.allowed.any(axis=1)).tolist():
            self.wake(row, self.asleep[row])

    def keep_loops(self) -> None:
        """Lets tool loops have no other model than theirs where it may answer within what the request brings.

        Where money is paced nobody knows what that is; there the value of staying has to do.
        """
        if self.stays is None or (self.budget is not None and self.budget.pacer is not None):
            return
        most_usd = self.policy.budget_usd_per_request
        self.elsewhere = self.stays.elsewhere(
            self.allowed, self.estimates.cost_usd, np.inf if most_usd is None else most_usd
        )
        self.allowed = self.allowed & ~self.elsewhere

    def let_wait_what_has_no_room(self, room: IntArray | None) -> None:
        """Requests of many answers go where one replica has room for them; the others may have its slots meanwhile.

        Args:
            room: (N, M), the most sequences that the request may have; None: any number.
        """
        sequences = np.array([item.sequences for item in self.items])[:, None]
        if room is None or (sequences == 1).all():
            return
        fitting = self.allowed & ((sequences <= room) | (sequences == 1))
        self.wait(np.flatnonzero(self.allowed.any(axis=1) & ~fitting.any(axis=1)))
        self.crowded = self.allowed & ~fitting
        self.allowed = fitting

    def let_wait_what_limits_hold_back(self) -> None:
        """Requests go where limits on what is in flight have room for them; the others wait for that."""
        if self.uses is None:
            return
        full = self.allowed & self.uses.full()
        self.wait(np.flatnonzero(self.allowed.any(axis=1) & ~(self.allowed & ~full).any(axis=1)))
        self.crowded = full if self.crowded is None else self.crowded | full
        self.allowed = self.allowed & ~full

    def keep_in_time(self, waited_s: FloatArray | None) -> None:
        """Leaves out models that are expected to be late, where one with a free slot that can be paid is in time.

        Where none is, the fastest of these is left. So nobody is refused for want of time, nor waits for a fast model
        while another one is free.

        Args:
            waited_s: (N,), since each request's arrival; None: no time.
        """
        seconds, limit_s = self.estimates.seconds, most_seconds(self.items, self.policy)
        if seconds is None or np.isinf(limit_s).all():
            return
        seconds = np.nan_to_num(seconds)  # nothing is held against what nobody knows
        most_usd, cost_usd = self.policy.budget_usd_per_request, np.where(self.allowed, self.estimates.cost_usd, np.inf)
        own_usd = np.maximum(np.inf if most_usd is None else most_usd, cost_usd.min(axis=1, keepdims=True))
        free = self.allowed & (self.remaining[self.policy.engine_of] > 0)
        paid = free & (cost_usd <= own_usd)
        left_s = limit_s if waited_s is None else limit_s - waited_s
        kept = free & (seconds <= left_s[:, None])
        fastest = np.where(paid, seconds, np.inf).argmin(axis=1)
        none = np.flatnonzero(~(kept & paid).any(axis=1))
        kept[none] = False
        kept[none, fastest[none]] = True
        self.late = self.allowed & ~kept & (np.isfinite(limit_s) & paid.any(axis=1))[:, None]
        self.allowed = self.allowed & ~self.late

    def open_late(self, rows: IntArray) -> bool:
        """Gives requests that would have to wait the models that are left to others; False: there are none."""
        if self.late is None or not self.late[rows].any():
            return False
        self.allowed[rows] |= self.late[rows]
        self.late[rows] = False
        return True

    def let_wait(self, those: BoolArray) -> None:
        """Requests (N,) whose turn it is not yet, if they need not be refused."""
        self.wait(np.flatnonzero(those & self.allowed.any(axis=1)))
        self.allowed = self.allowed & ~those[:, None]

    def wait(self, rows: IntArray) -> None:
        self.waiting.update(self.items[row].id for row in rows)

    def by_strategy(self) -> list[tuple[Strategy, IntArray]]:
        """Requests that ask for a strategy of their own are planned apart, each group with its own allowance."""
        answerable = set(np.flatnonzero(self.allowed.any(axis=1)).tolist())
        groups = []
        for rows in by_strategy(self.items):
            ask = self.items[rows[0]].ask
            strategy = self.policy.strategy if ask.strategy is None else checked_strategy(ask.strategy, ask.options)
            if kept := [row for row in rows if row in answerable]:
                groups.append((strategy, np.array(kept)))
        return groups

    def problem(self, rows: IntArray, *, with_samples: bool) -> BatchProblem:
        """The rows' problem under the remaining slots, and no budget yet."""
        sequences = np.array([self.items[row].sequences for row in rows], dtype=np.int64)
        if (sequences > 1).any():
            # A request with more sequences than its models have slots runs there alone; its engine queues the rest.
            most = np.where(self.allowed[rows], self.remaining[self.policy.engine_of], 1).max(axis=1)
            sequences = np.minimum(sequences, np.maximum(most, 1))
        estimates = self.estimates.rows(rows)
        if self.stays is not None:
            estimates = self.stays.valued(estimates, rows, self.policy.stay_value)
        return estimates.problem(
            self.remaining.copy(),
            allowed=self.allowed[rows],
            sequences=None if (sequences == 1).all() else sequences,
            weight=priority_weight([self.items[row].priority for row in rows]),
            penalty=self.policy.penalty(estimates.seconds),
            row_of_column=self.policy.row_of_column,
            limits=() if self.uses is None else self.uses.rows(rows, self.allowed[rows]),
            with_samples=with_samples,
        )

    def kept(self, rows: IntArray, problem: BatchProblem, keep: BoolArray) -> tuple[IntArray, BatchProblem]:
        """The kept requests and their problem, with the allowance that they bring."""
        rows, problem = rows[keep], problem.subset(keep)
        if self.budget is None or self.budget.pacer is None:
            return rows, replace(problem, budget_usd=self._cap_usd(rows, problem))
        if problem.budget_usd == float("inf"):  # asked once a batch, since a pacer learns from each
            problem = replace(problem, budget_usd=self.budget.allowance_usd(self.budget.pacer, problem))
        return rows, problem

    def _cap_usd(self, rows: IntArray, problem: BatchProblem) -> float:
        """What the requests bring; those that are reckoned together with others before them, what is worth it."""
        own_usd = self._allowances(rows, problem)
        each_usd = self.policy.budget_usd_per_request
        if each_usd is None or self.savings is None or not self.policy.pool_requests:
            return float(own_usd.sum())
        paying = np.array([is_pooled(self.items[row], row in self.estimates.guessed) for row in rows.tolist()])
        if not paying.any():
            return float(own_usd.sum())
        cost_usd = allowed_usd(problem)
        scarce = bool((problem.use(cost_usd.argmin(axis=1)) > problem.slots).any())
        together_usd = self.savings.allowance_usd(problem.value[paying], cost_usd[paying], each_usd, scarce=scarce)
        named = np.array([self.items[row].model is not None for row in rows])
        apart_usd = np.where(named, cost_usd.min(axis=1) * (1 + ROUNDING), own_usd)
        return together_usd + float(apart_usd[~paying].sum())

    def _allowances(self, rows: IntArray, problem: BatchProblem) -> FloatArray:
        return allowances(rows, self.items, problem, self.policy, predicted=self.estimates.predicted[rows])

    async def those_who_can_pay(self, rows: IntArray, problem: BatchProblem) -> tuple[IntArray, BatchProblem]:
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
        """Refuses what the cap cannot pay; what it could, were cheap models not full, waits, as do the paced."""
        cheapest = cheapest_usd(problem)
        waits = np.minimum(cheapest, self._cheapest_usd(self.crowded, rows)) * (1 + ROUNDING / 2) <= own_usd
        if self.budget is not None and self.budget.pacer is not None:
            waits[:] = True
        self.wait(rows[~funded & waits])
        refused = ~funded & ~waits
        back = self._cheapest_usd(self.away, rows) * (1 + ROUNDING / 2) <= own_usd
        woken = self._cheapest_usd(self.asleep, rows) * (1 + ROUNDING / 2) <= own_usd
        for i in np.flatnonzero(refused).tolist():
            if woken[i]:
                self.wake(int(rows[i]), self.asleep[rows[i]])
                continue
            error = over_budget(cheapest[i], problem, self.policy)
            self.refuse(int(rows[i]), affordable_away(error) if back[i] else error)

    def _cheapest_usd(self, models: BoolArray | None, rows: IntArray) -> FloatArray:
        """(N,) what the cheapest of these models (N, M) costs each of the rows; inf where there is none."""
        if models is None:
            return np.full(len(rows), np.inf)
        costs_usd: FloatArray = np.where(models[rows], self.estimates.cost_usd[rows], np.inf).min(axis=1)
        return costs_usd


def most_seconds(items: Sequence[RouteItem], policy: Policy) -> FloatArray:
    """(N,) that each request may take from its arrival to its last token; inf: any time."""
    own = [policy.max_seconds if item.ask.max_seconds is None else item.ask.max_seconds for item in items]
    return np.array([np.inf if seconds is None else seconds for seconds in own])


def by_strategy(items: Sequence[RouteItem]) -> list[list[int]]:
    """Rows of the requests that ask for the same strategy with the same options; first those that ask for none."""
    groups: dict[str, list[int]] = {"": []}
    for row, item in enumerate(items):
        ask = item.ask
        key = "" if ask.strategy is None else json.dumps([ask.strategy, ask.options], sort_keys=True)
        groups.setdefault(key, []).append(row)
    return [rows for rows in groups.values() if rows]
