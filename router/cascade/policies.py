"""A column can be a policy: what "a first, b where a is not sure enough" is worth to a batch, and its second stage.

The batch's own shadow prices, `lambda` of the budget and `mu` of slots, say when a first answer is kept: where it is
worth no less than the second one at these prices (`Pair.threshold`). How often that will be so follows from how the
evidence of right and wrong answers is spread (`Posterior.passing`), in closed form:

    success = p K1 + p (1 - K1) p_b|right + (1 - p) (1 - K0) p_b|wrong
    cost    = cost_a + (p (1 - K1) + (1 - p) (1 - K0)) cost_b

with p = P(a right) and K1, K0 = P(kept) of right and of wrong answers. A policy takes the first one's slots at once;
the second one's come with the second plan, which is a plain batch problem with a column *keep* and knows the signals.

The proof of a batch's assignment holds for the columns that it is given, thresholds included; that the thresholds are
those of last batch's prices rather than of this one's costs a little value, never the proof. Cascades as columns:
Dekoninck et al. 2025 (arXiv:2410.10347, ICML), where a policy is a "supermodel" and one price of cost goes for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from apportion.router.arrays import FloatArray, IntArray
from apportion.router.assignment import BatchProblem, Prices
from apportion.router.assignment.problem import ENDLESS
from apportion.router.cascade.pair import Pair


@dataclass(frozen=True, eq=False)
class Policies:
    """K policies for N requests.

    first, second: (K,) columns of their models. success, cost_usd: (N, K) expected, both stages together. escalation:
    (N, K) P(the second is asked).
    """

    pairs: tuple[Pair, ...]
    first: IntArray
    second: IntArray
    success: FloatArray
    cost_usd: FloatArray
    escalation: FloatArray


def columns(pairs: Sequence[Pair], models: Sequence[str], problem: BatchProblem, prices: Prices) -> Policies:
    """What the pairs are worth to the requests of a batch.

    Args:
        models: names of the problem's columns; pairs of others are left out.
        prices: of the batch before, or of this one without cascades.
    """
    names = list(models)
    known = tuple(pair for pair in pairs if pair.first in names and pair.second in names)
    first = np.array([names.index(pair.first) for pair in known], dtype=np.int64)
    second = np.array([names.index(pair.second) for pair in known], dtype=np.int64)
    charge = charges(problem, prices)[:, second]
    success, escalation = worth(known, problem.success[:, first], problem.success[:, second], charge)
    cost_usd = problem.cost_usd[:, first] + escalation * problem.cost_usd[:, second]
    return Policies(known, first, second, success, cost_usd, escalation)


def charges(problem: BatchProblem, prices: Prices) -> FloatArray:
    """(n_requests, n_models) what each pair costs at these prices, in success: its money, its slots, its penalty."""
    load = problem.load if problem.load.ndim == 2 else problem.load[:, None]
    charge = prices.budget * problem.cost_usd + prices.slots[problem.engine_of] * load
    if problem.weight is not None:
        charge = charge / np.maximum(problem.weight, 1e-12)[:, None]
    return charge if problem.penalty is None else charge + problem.penalty


def worth(
    pairs: Sequence[Pair], first: FloatArray, second: FloatArray, charge: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Success and P(the second is asked) of each pair's policy, all (..., K).

    Args:
        first, second: success of either model.
        charge: what asking the second costs, in success.
    """
    shape = np.broadcast_shapes(first.shape, second.shape, charge.shape)
    success, escalation = np.empty(shape), np.empty(shape)
    for k, pair in enumerate(pairs):
        prior, prior_second = first[..., k], second[..., k]
        of_wrong, of_right = pair.second_by_outcome(prior_second)
        kept_right, kept_wrong = pair.verifier.passing(prior, pair.threshold(prior_second, charge[..., k]))
        asked_right, asked_wrong = prior * (1 - kept_right), (1 - prior) * (1 - kept_wrong)
        success[..., k] = prior * kept_right + asked_right * of_right + asked_wrong * of_wrong
        escalation[..., k] = asked_right + asked_wrong
    return success, escalation


def offered(problem: BatchProblem, policies: Policies, prices: Prices) -> BatchProblem:
    """The problem with the policies as further columns behind its own.

    A policy takes the first one's slots and, of every other limit, the first one's use and the expected use of the
    second. It may be used where both of its models may. `prices` are those that the policies were made with; each
    member of `success_samples` decides by what it thinks itself.
    """
    first, second, asked = policies.first, policies.second, policies.escalation
    both = None if problem.allowed is None else problem.allowed[:, first] & problem.allowed[:, second]
    charge = charges(problem, prices)[:, second]

    def expected(use: FloatArray) -> FloatArray:
        return np.hstack([use, use[:, first] + asked * use[:, second]])

    samples = problem.success_samples
    if samples is not None:
        of_members = worth(policies.pairs, samples[..., first], samples[..., second], charge)[0]
        samples = np.concatenate([samples, of_members], axis=2)
    std, cost_std_usd, load = problem.success_std, problem.cost_std_usd, problem.sequences
    if std is not None:
        # The answer is either one's: no less sure than the less sure of both.
        std = np.hstack([std, np.maximum(std[:, first], std[:, second])])
    if cost_std_usd is not None:
        variance = cost_std_usd[:, first] ** 2 + asked * cost_std_usd[:, second] ** 2
        variance += asked * (1 - asked) * problem.cost_usd[:, second] ** 2
        cost_std_usd = np.hstack([cost_std_usd, np.sqrt(variance)])
    return replace(
        problem,
        success=np.hstack([problem.success, np.clip(policies.success, 0.0, 1.0)]),
        cost_usd=np.hstack([problem.cost_usd, policies.cost_usd]),
        allowed=None if both is None or problem.allowed is None else np.hstack([problem.allowed, both]),
        sequences=load if load is None or load.ndim == 1 else np.hstack([load, load[:, first]]),
        success_std=std,
        success_samples=samples,
        cost_std_usd=cost_std_usd,
        penalty=None if problem.penalty is None else expected(problem.penalty),
        row_of_column=np.concatenate([problem.engine_of, problem.engine_of[first]]),
        limits=tuple(replace(limit, use=expected(limit.use)) for limit in problem.limits),
    )


def second_stage(problem: BatchProblem, sure: FloatArray, second_given: FloatArray, second: IntArray) -> BatchProblem:
    """The plan of requests that have a first answer: each keeps it, or asks the second model of its pair.

    Its last column is *keep*: it costs nothing, takes no slots that could run out, and succeeds as the signals say.

    Args:
        problem: of these requests, with the slots and the money that are left.
        sure: (n_requests,) P(the first answer is right), its signals known.
        second_given: (n_requests,) P(the second model's would be), given that.
        second: (n_requests,) the second model's column.
    """
    n, m = problem.success.shape
    rows = np.arange(n)
    pairs = np.zeros((n, m + 1), dtype=np.bool_)
    pairs[rows, second] = True if problem.allowed is None else problem.allowed[rows, second]
    pairs[:, m] = True
    success = np.hstack([problem.success, sure[:, None]])
    success[rows, second] = second_given

    def widened(values: FloatArray | None) -> FloatArray | None:
        return None if values is None else np.hstack([values, np.zeros((n, 1), values.dtype)])

    load = problem.sequences
    return replace(
        problem,
        success=success,
        cost_usd=np.hstack([problem.cost_usd, np.zeros((n, 1))]),
        slots=np.append(problem.slots, ENDLESS),
        allowed=pairs,
        sequences=load if load is None or load.ndim == 1 else np.hstack([load, np.ones((n, 1), np.int64)]),
        # What was expected of the models before says nothing of how unsure either is now.
        success_std=None,
        success_samples=None,
        cost_std_usd=widened(problem.cost_std_usd),
        penalty=widened(problem.penalty),
        row_of_column=np.append(problem.engine_of, len(problem.slots)),
        limits=tuple(replace(limit, use=np.hstack([limit.use, np.zeros((n, 1))])) for limit in problem.limits),
    )
