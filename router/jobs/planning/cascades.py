"""A job's plan with cascades: rows that are to have a cheap answer first, and first answers that are kept or asked on.

Made after the plan over models alone, at its prices, and only of the rows that have a place there: whether a job can be
done at all, and what it lacks, is told without cascades. A policy (`router/cascade/policies.py`) costs what both stages
are expected to; until a deadline it takes the first one's tokens, and what is expected of the second one's. A row that
has a first answer has two ways to go: its second model, or to keep what it has, which costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.assignment import Assignment, BatchProblem, Limit, Prices, assign
from apportion.router.assignment.problem import ENDLESS
from apportion.router.cascade.pair import Pair
from apportion.router.cascade.policies import Policies, columns, offered
from apportion.router.jobs.planning.options import PLAIN, PlanOptions
from apportion.router.jobs.planning.plan import JobPlan
from apportion.router.jobs.planning.workload import Means, Workload
from apportion.router.jobs.stages import NOBODY


@dataclass(frozen=True, eq=False)
class Stages:
    """What is known of N rows' stages.

    second: (N,) columns that rows with a first answer may be asked on, `NOBODY`: the row has none. sure: (N,) P(the
    first answer is right); given: (N,) P(the second one's would be). most_usd: (N,) that both answers of a row may be
    expected to cost, 0: it is to have one.
    """

    second: IntArray
    sure: FloatArray
    given: FloatArray
    most_usd: FloatArray

    def rows(self, which: BoolArray) -> Stages:
        return Stages(self.second[which], self.sure[which], self.given[which], self.most_usd[which])


def with_cascades(
    workload: Workload,
    means: Means,
    plain: JobPlan,
    stages: Stages,
    pairs: Sequence[Pair],
    models: Sequence[str],
    options: PlanOptions = PLAIN,
) -> JobPlan:
    """The plan with cascades, where it is worth more than the plain one with all first answers kept.

    Args:
        workload: of N rows, those that have a first answer too.
        means: money and time for all of them.
        plain: the plan over models alone of the rows without a first answer, the others at -1.
        stages: of the N rows.
        models: names of the workload's columns; pairs of others are left out.
    """
    held = stages.second != NOBODY
    planned = (plain.model_of_row >= 0) | held
    if not planned.any() or not (pairs or held.any()):
        return plain
    workload, own = workload.rows(planned), stages.rows(planned)
    posed = means.posed(workload)
    policies = columns(pairs, models, posed.problem, plain.prices)
    problem = _problem(posed.problem, policies, plain.prices, own, timed=posed.speed is not None)
    warm = Prices(plain.prices.budget, np.append(plain.prices.slots, 0.0))
    answer = assign(problem, options.strategy, warm=warm)
    if not answer.feasible or answer.objective <= plain.objective + stages.sure[held].sum():
        return plain
    return _plan(answer, policies, workload, means).among(planned)


def _problem(problem: BatchProblem, policies: Policies, prices: Prices, stages: Stages, *, timed: bool) -> BatchProblem:
    """The rows' problem with a column for each policy, and a last one that keeps a first answer."""
    n, m = problem.success.shape
    held, rows = stages.second != NOBODY, np.arange(n)
    alone = np.ones((n, m), np.bool_) if problem.allowed is None else problem.allowed
    may_ask = held & alone[rows, stages.second]
    both = alone[:, policies.first] & alone[:, policies.second] & (policies.cost_usd <= stages.most_usd[:, None])
    allowed = np.hstack([alone, both, held[:, None]])
    allowed[held, :-1] = False
    allowed[rows[may_ask], stages.second[may_ask]] = True
    wide = offered(problem, policies, prices)
    success = np.hstack([wide.success, stages.sure[:, None]])
    success[rows[held], stages.second[held]] = stages.given[held]
    load = wide.sequences
    return replace(
        wide,
        success=np.clip(success, 0.0, 1.0),
        cost_usd=np.hstack([wide.cost_usd, np.zeros((n, 1))]),
        slots=np.append(wide.slots, ENDLESS),
        allowed=allowed,
        sequences=load if load is None or load.ndim == 1 else np.hstack([load, np.ones((n, 1), np.int64)]),
        row_of_column=np.append(wide.engine_of, len(wide.slots)),
        limits=_seconds_tokens(problem, policies) if timed else (),
    )


def _seconds_tokens(problem: BatchProblem, policies: Policies) -> tuple[Limit, ...]:
    """Tokens of second models until the deadline: what they answer alone, and what is expected to be asked on."""
    tokens = problem.load if problem.load.ndim == 2 else np.broadcast_to(problem.load[:, None], problem.success.shape)
    engines = problem.engine_of

    def limit(engine: int) -> Limit:
        alone = tokens * (engines == engine)
        later = policies.escalation * alone[:, policies.second]
        nothing = np.zeros((len(tokens), 1))
        use = np.hstack([alone, alone[:, policies.first] + later, nothing])
        return Limit(f"tokens of engine {engine}", use, float(problem.slots[engine]))

    return tuple(limit(engine) for engine in np.unique(engines[policies.second]).tolist())


def _plan(answer: Assignment, policies: Policies, workload: Workload, means: Means) -> JobPlan:
    n, m = workload.success.shape
    of_models, nobody = np.arange(m), np.full(m, NOBODY)
    first = np.concatenate([of_models, policies.first, [NOBODY]])[answer.model]
    second = np.concatenate([nobody, policies.second, [NOBODY]])[answer.model]
    asked = np.hstack([np.zeros((n, m)), policies.escalation, np.zeros((n, 1))])[np.arange(n), answer.model]
    plan = JobPlan(
        first, Prices(answer.prices.budget, answer.prices.slots[:-1]), answer.bound, answer.objective, answer.gap,
        answer.status, answer.binding, answer.expected_cost_usd, answer.cost_std_usd, None, second, asked,
    )  # fmt: skip
    if not means.timed or means.tokens_per_s is None:
        return plan
    return replace(plan, seconds=workload.seconds(first, means.tokens_per_s, plan.later_tokens(workload)))
