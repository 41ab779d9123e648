"""The joint program as a Pyomo model: replicas, their packing, and the assignment of the sampled requests.

    max   sum_ij share[i] success[i,j] x[i,j]  -  sum_c gpu_price[c] gpus[c]
                                               -  price bought  -  move_price moves                     (quality)
    s.t.  sum_{i in batch k} weight[i] x[i,j]  <=  sum_{r of j} seqs[r] y[r]                          (concurrency[k,j])
          rate sum_i share[i] tokens[i,j] x[i,j]  <=  target sum_{r of j} tokens_per_s[r] y[r]        (throughput[j])
          rate sum_i share[i] x[i,j]  <=  target requests_per_s[j]     of a model from outside        (requests[j])
          sum_ij share[i] cost_usd[i,j] x[i,j]  <=  budget_usd                                        (budget)
          sum_c usd_per_hour[c] gpus[c]  +  bought  <=  budget_usd_per_hour                           (bill)
          sum_j x[i,j] = 1                                                                            (one_model[i])
          sum_{r of share s} y[r,c]  <=  sum_p parts[p,s] w[p,c]                                      (shares[c,s])
          sum_{r of t GPUs} y[r,c]  <=  sum_q groups[q,t] v[q,c],   sum_p w[p,c] likewise for t = 1   (groups[c,t])
          sum_q v[q,c]  <=  nodes of class c                                                          (nodes[c])
          sum_{p that leave it free, c} w[p,c]  =  1     where a share of one GPU is reserved         (reserved)
          min_replicas[j]  <=  sum_{r of j} y[r]  <=  max_replicas[j]                                 (replicas[j])
          at_least[r]  <=  y[r]  <=  at_most[r]                                                       (of_type[r])
          y[r] = sum_c y[r,c];  y, w, v integer >= 0;  0 <= x <= 1

y: replicas of a type in a class of equal nodes; w: GPUs cut in a pattern; v: nodes divided in a pattern (`patterns`);
gpus: in use; bought = 3600 rate sum_ij share[i] cost_usd[i,j] x[i,j] over models j from outside, USD an hour. These
have no replicas: their slots and tokens_per_s are those of their quotas.
x is relaxed: at a vertex at most as many requests are split as coupling rows bind, of thousands.

High availability adds a binary z[j] (is model j deployed) and spread[j,c] (nodes of class c that can hold it):
    y[r,c] <= most[r,c] z[j],  spread[j,c] <= sum_{r of j} y[r,c],  spread[j,c] <= nodes of c,  sum_c spread >= 2 z[j]
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from apportion.allocation.patterns import NodeClass, Packing
from apportion.allocation.problem import AllocationProblem
from apportion.allocation.replica import SHARE_UNITS, ReplicaType
from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.assignment.highs import PyomoModel, solve_model
from apportion.router.errors import InfeasibleError

Counts = Counter[tuple[ReplicaType, int]]


@dataclass(frozen=True, eq=False)
class Solution:
    """One solve. counts: replicas by (type, class); gpus, nodes: how many follow a pattern, by (class, pattern).

    x: (n_requests, n_models) shares of requests; None (and counts empty) when there is no solution.
    """

    x: FloatArray | None
    counts: Counts
    gpus: Counter[tuple[int, int]]
    nodes: Counter[tuple[int, int]]
    objective: float
    bound: float
    infeasible: bool
    timed_out: bool


def joint_program(problem: AllocationProblem, packings: Sequence[Packing]) -> PyomoModel:
    """The whole problem as one Pyomo model."""
    import pyomo.environ as pyo

    model = constraints(problem, packings)
    quality = _linear(problem.success * problem.share[:, None], model)
    model.quality = pyo.Objective(expr=quality - _price(model, problem, packings), sense=pyo.maximize)
    return model


def constraints(problem: AllocationProblem, packings: Sequence[Packing]) -> PyomoModel:
    """The whole problem without its objective."""
    import pyomo.environ as pyo

    model = pyo.ConcreteModel()
    add_packing(model, packings)
    _add_replica_limits(model, problem, packings)
    _add_assignment(model, problem, *_capacity(model, problem))
    _add_bill(model, problem, packings)
    return model


def add_packing(model: PyomoModel, packings: Sequence[Packing]) -> None:
    """Variables y, w, v, the packing rows, and the expressions gpus_used of every class."""
    import pyomo.environ as pyo

    model.y = pyo.Var(
        [(r, c) for c, packing in enumerate(packings) for r in packing.replicas], domain=pyo.NonNegativeIntegers
    )
    model.w = pyo.Var(
        [(c, p) for c, k in enumerate(packings) for p in range(len(k.gpu_patterns))], domain=pyo.NonNegativeIntegers
    )
    model.v = pyo.Var(
        [(c, q) for c, k in enumerate(packings) for q in range(len(k.node_patterns))], domain=pyo.NonNegativeIntegers
    )
    for variable, most in _upper_bounds(packings, model):
        variable.setub(most)

    def of_share(_: PyomoModel, c: int, share: int) -> Any:
        packing = packings[c]
        place = packing.shares.index(share)
        taken = sum(model.y[r, c] for r in packing.replicas if r.tensor_parallel == 1 and r.units == share)
        return taken <= sum(
            parts[place] * model.w[c, p] for p, parts in enumerate(packing.gpu_patterns) if parts[place]
        )

    def of_group(_: PyomoModel, c: int, size: int) -> Any:
        packing = packings[c]
        place = packing.groups.index(size)
        if size == 1:
            taken = sum(model.w[c, p] for p in range(len(packing.gpu_patterns)))
        else:
            taken = sum(model.y[r, c] for r in packing.replicas if r.tensor_parallel == size)
        return taken <= sum(
            parts[place] * model.v[c, q] for q, parts in enumerate(packing.node_patterns) if parts[place]
        )

    model.shares = pyo.Constraint([(c, s) for c, k in enumerate(packings) for s in k.shares], rule=of_share)
    model.groups = pyo.Constraint([(c, t) for c, k in enumerate(packings) for t in k.groups], rule=of_group)
    model.nodes = pyo.Constraint(
        [c for c, packing in enumerate(packings) if packing.node_patterns],
        rule=lambda _, c: (
            sum(model.v[c, q] for q in range(len(packings[c].node_patterns))) <= len(packings[c].node_class.nodes)
        ),
    )
    sparing = [model.w[c, p] for c, p in model.w if packings[c].spares(p)]
    if sparing:
        model.reserved = pyo.Constraint(expr=sum(sparing) == 1)

    def used(_: PyomoModel, c: int) -> Any:
        whole = [r.tensor_parallel * model.y[r, c] for r in packings[c].replicas if r.tensor_parallel > 1]
        return sum(whole) + sum(model.w[c, p] for p in range(len(packings[c].gpu_patterns)))

    model.gpus_used = pyo.Expression(range(len(packings)), rule=used)


def _add_replica_limits(model: PyomoModel, problem: AllocationProblem, packings: Sequence[Packing]) -> None:
    """Rows on how many replicas a model has, on how many nodes, and how far from the running ones."""
    import pyomo.environ as pyo

    of_model = replicas_by_model(model, problem)
    limited = [
        j for j, s in enumerate(problem.models) if of_model[j] and (s.min_replicas or s.max_replicas is not None)
    ]
    model.replicas = pyo.Constraint(
        limited,
        rule=lambda _, j: (problem.models[j].min_replicas, sum(of_model[j].values()), problem.models[j].max_replicas),
    )
    most = problem.requirements.at_most
    if most is not None:
        of_type = replicas_by_type(model)
        model.of_type = pyo.Constraint(list(of_type), rule=lambda _, r: sum(of_type[r]) <= most.get(r, 0))
    least = problem.requirements.at_least
    if least:
        of_type = replicas_by_type(model)
        model.least_of_type = pyo.Constraint(list(least), rule=lambda _, r: sum(of_type[r]) >= least[r])
    if problem.requirements.high_availability:
        _add_availability(model, problem, [packing.node_class for packing in packings])
    if problem.requirements.move_price:
        _add_moves(model, problem)


def _add_assignment(
    model: PyomoModel, problem: AllocationProblem, slots: Sequence[Any], tokens_per_s: Sequence[Any]
) -> None:
    """Variables x of the allowed pairs and the rows concurrency, throughput, requests, budget and one_model.

    slots, tokens_per_s: of every model, expressions in y, or numbers.
    """
    import pyomo.environ as pyo

    allowed = deployable(problem)
    model.x = pyo.Var(list(map(tuple, np.argwhere(allowed).tolist())), bounds=(0, 1))
    in_batch = [np.flatnonzero(problem.batch == k) for k in range(problem.n_batches)]
    everyone = np.arange(problem.n_requests)
    # Tokens and money are counted in units of their size, so that a solver's tolerance is small beside them.
    unit = float(problem.tokens.mean()) or 1.0
    target = problem.requirements.target_utilisation

    def throughput(_: PyomoModel, j: int) -> Any:
        need = problem.rate_per_s * problem.share * problem.tokens[:, j] / unit
        return _total(model, everyone, j, need, allowed) <= target / unit * tokens_per_s[j]

    def requests(_: PyomoModel, j: int) -> Any:
        need = problem.rate_per_s * problem.share
        return _total(model, everyone, j, need, allowed) <= target * float(problem.requests_per_s[j])

    some = np.flatnonzero(allowed.any(axis=0)).tolist()
    unbounded = [j for j, tokens in enumerate(tokens_per_s) if isinstance(tokens, float) and math.isinf(tokens)]
    used = [(k, j) for k, rows in enumerate(in_batch) for j in np.flatnonzero(allowed[rows].any(axis=0)).tolist()]
    model.concurrency = pyo.Constraint(
        used, rule=lambda _, k, j: _total(model, in_batch[k], j, problem.weight, allowed) <= slots[j]
    )
    model.throughput = pyo.Constraint([j for j in some if j not in unbounded], rule=throughput)
    model.requests = pyo.Constraint([j for j in some if math.isfinite(problem.requests_per_s[j])], rule=requests)
    if math.isfinite(problem.requirements.budget_usd):
        unit_usd = cost_unit_usd(problem)
        spent = _linear(problem.cost_usd * problem.share[:, None] / unit_usd, model)
        model.budget = pyo.Constraint(expr=spent <= problem.requirements.budget_usd / unit_usd)
    model.one_model = pyo.Constraint(range(problem.n_requests), rule=lambda _, i: _one_model(model, i, allowed))


def cost_unit_usd(problem: AllocationProblem) -> float:
    """What the budget row counts money in: the most that one request adds to the mean cost of a request, USD."""
    return float((problem.cost_usd * problem.share[:, None]).max()) or 1.0


def _capacity(model: PyomoModel, problem: AllocationProblem) -> tuple[list[Any], list[Any]]:
    """Slots and tokens/s of every model: expressions in y, or what a quota allows."""
    profile, of_model = problem.profile_of, replicas_by_model(model, problem)
    slots, tokens_per_s = ([float(v) for v in values] for values in (problem.slots({}), problem.tokens_per_s({})))
    return (
        [sum((profile[r].max_num_seqs * y for (r, _), y in own.items()), slots[j]) for j, own in enumerate(of_model)],
        [sum((problem.planned_tokens_per_s[r] * y for (r, _), y in own.items()), tokens_per_s[j])
         for j, own in enumerate(of_model)],
    )  # fmt: skip


def _add_bill(model: PyomoModel, problem: AllocationProblem, packings: Sequence[Packing]) -> None:
    """The expression bought_usd_per_hour, and the rows bill and of_gpus where there are such limits."""
    import pyomo.environ as pyo

    classes = [packing.node_class for packing in packings]
    bought = _linear(problem.bought_usd_per_hour, model) if problem.bought.any() else 0.0
    model.bought_usd_per_hour = pyo.Expression(expr=bought)
    most_usd = problem.requirements.budget_usd_per_hour
    if math.isfinite(most_usd):
        spent = sum(c.price.usd_per_hour * model.gpus_used[i] for i, c in enumerate(classes) if c.price is not None)
        unit_usd = most_usd or 1.0  # so that a solver's tolerance is small beside it
        model.bill = pyo.Constraint(expr=(spent + model.bought_usd_per_hour) / unit_usd <= most_usd / unit_usd)
    limits = list((problem.requirements.gpus or {}).items())

    def within(_: PyomoModel, number: int) -> Any:
        kind, (least, most) = limits[number]
        return least, sum(model.gpus_used[i] for i, c in enumerate(classes) if c.kind == kind), most

    model.of_gpus = pyo.Constraint(range(len(limits)), rule=within)


def _price(model: PyomoModel, problem: AllocationProblem, packings: Sequence[Packing]) -> Any:
    """What GPUs, bought tokens and moves cost, in mean success."""
    gpus = sum(problem.gpu_price(k.node_class.price) * model.gpus_used[c] for c, k in enumerate(packings))
    price = gpus + problem.usd_per_hour_price * model.bought_usd_per_hour
    if not problem.requirements.move_price:
        return price
    # Running replicas of types that may not be deployed any more are stopped whatever the solution.
    lost = sum(n for r, n in problem.requirements.running.items() if r not in problem.profile_of)
    return price + problem.requirements.move_price * (sum(model.moved.values()) + lost)


def gpus_by_class(counts: Counts, gpus: Counter[tuple[int, int]]) -> Counter[int]:
    """GPUs that a solution uses, by class."""
    used: Counter[int] = Counter()
    for (c, _), number in gpus.items():
        used[c] += number
    for (replica, c), number in counts.items():
        if replica.tensor_parallel > 1:
            used[c] += replica.tensor_parallel * number
    return used


def replicas_in(counts: Counts) -> Counter[ReplicaType]:
    """Replicas of each type over all classes."""
    total: Counter[ReplicaType] = Counter()
    for (replica, _), number in counts.items():
        total[replica] += number
    return total


def moves_of(problem: AllocationProblem, counts: Counts) -> int:
    """Replicas that are started or stopped, against those that run."""
    total = replicas_in(counts)
    running = problem.requirements.running
    return sum(abs(total[replica] - running.get(replica, 0)) for replica in total.keys() | running.keys())


def deployable(problem: AllocationProblem) -> BoolArray:
    """(n_requests, n_models) pairs of a request and a model, from outside or with replicas, that could answer it.

    Raises InfeasibleError when a request has none.
    """
    has_replicas = np.array([bool(problem.replicas_of(j)) for j in range(problem.n_models)])
    allowed: BoolArray = problem.allowed & (has_replicas | problem.bought)
    homeless = int((~allowed.any(axis=1)).sum())
    if homeless:
        raise InfeasibleError(
            f"{homeless} of {problem.n_requests} sampled requests are too long for every model that fits this cluster; "
            "raise max_model_len (and profile again), or leave them out of the workload"
        )
    return allowed


def replicas_by_model(model: PyomoModel, problem: AllocationProblem) -> list[dict[tuple[ReplicaType, int], Any]]:
    """For every model its variables y by (type, class)."""
    column = {spec.name: j for j, spec in enumerate(problem.models)}
    by_model: list[dict[tuple[ReplicaType, int], Any]] = [{} for _ in problem.models]
    for key, variable in model.y.items():
        by_model[column[key[0].model]][key] = variable
    return by_model


def replicas_by_type(model: PyomoModel) -> dict[ReplicaType, list[Any]]:
    """For every type its variables y."""
    by_type: dict[ReplicaType, list[Any]] = {}
    for (replica, _), variable in model.y.items():
        by_type.setdefault(replica, []).append(variable)
    return by_type


def solve(model: PyomoModel, shape: tuple[int, int], *, gap: float, time_limit_s: float | None) -> Solution:
    """Hands the model to HiGHS; values that all its variables have already are its start. shape: of x."""
    integer, x = [*model.y.values(), *model.w.values(), *model.v.values()], list(model.x.values())
    found = solve_model(model, gap=gap, time_limit_s=time_limit_s, variables=[*integer, *x])
    if found.values is None:
        empty: Counter[Any] = Counter()
        return Solution(None, empty, empty, empty, -math.inf, found.bound, found.infeasible, found.timed_out)
    whole = np.rint(found.values[: len(integer)]).astype(int).tolist()
    ends = np.cumsum([len(model.y), len(model.w), len(model.v)]).tolist()
    return Solution(
        x=shares_of_requests(model, found.values[len(integer) :], shape),
        counts=_positive(model.y, whole[: ends[0]]),
        gpus=_positive(model.w, whole[ends[0] : ends[1]]),
        nodes=_positive(model.v, whole[ends[1] : ends[2]]),
        objective=found.objective,
        bound=found.bound,
        infeasible=False,
        timed_out=found.timed_out,
    )


def shares_of_requests(model: PyomoModel, values: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """(n_requests, n_models) from the values of `model.x`."""
    pairs = np.array(list(model.x))
    x = np.zeros(shape)
    x[pairs[:, 0], pairs[:, 1]] = np.clip(values, 0.0, 1.0)
    return x


def _positive(keys: Iterable[Any], values: Iterable[int]) -> Counter[Any]:
    return Counter({key: value for key, value in zip(keys, values, strict=True) if value > 0})


def _one_model(model: PyomoModel, i: int, allowed: BoolArray) -> Any:
    choices = [model.x[i, j] for j in np.flatnonzero(allowed[i]).tolist()]
    return sum(choices) == 1


def _total(model: PyomoModel, rows: IntArray, j: int, coefficient: FloatArray, allowed: BoolArray) -> Any:
    from pyomo.core.expr import LinearExpression

    rows = rows[allowed[rows, j]].tolist()
    return LinearExpression(linear_coefs=coefficient[rows].tolist(), linear_vars=[model.x[i, j] for i in rows])


def _linear(coefficient: FloatArray, model: PyomoModel) -> Any:
    from pyomo.core.expr import LinearExpression

    pairs = np.array(list(model.x))
    return LinearExpression(
        linear_coefs=coefficient[pairs[:, 0], pairs[:, 1]].tolist(), linear_vars=list(model.x.values())
    )


def _upper_bounds(packings: Sequence[Packing], model: PyomoModel) -> Iterable[tuple[Any, int]]:
    for (replica, c), variable in model.y.items():
        yield variable, most_replicas(replica, packings[c].node_class)
    for (c, _), variable in model.w.items():
        yield variable, packings[c].node_class.n_gpus * len(packings[c].node_class.nodes)
    for (c, _), variable in model.v.items():
        yield variable, len(packings[c].node_class.nodes)


def most_replicas(replica: ReplicaType, node_class: NodeClass) -> int:
    """Replicas of one type that a class can hold at most."""
    on_one = node_class.n_gpus // replica.tensor_parallel * (SHARE_UNITS // replica.units)
    return on_one * len(node_class.nodes)


def _add_availability(model: PyomoModel, problem: AllocationProblem, classes: Sequence[NodeClass]) -> None:
    import pyomo.environ as pyo

    of_model = replicas_by_model(model, problem)
    pairs = [(j, c) for j, own in enumerate(of_model) for c in sorted({key[1] for key in own})]
    model.z = pyo.Var([j for j, own in enumerate(of_model) if own], domain=pyo.Binary)
    model.spread = pyo.Var(pairs, domain=pyo.NonNegativeReals)
    for j, c in pairs:
        model.spread[j, c].setub(len(classes[c].nodes))
    model.deployed = pyo.Constraint(
        [(j, *key) for j, own in enumerate(of_model) for key in own],
        rule=lambda _, j, r, c: model.y[r, c] <= most_replicas(r, classes[c]) * model.z[j],
    )
    model.present = pyo.Constraint(
        pairs,
        rule=lambda _, j, c: model.spread[j, c] <= sum(y for key, y in of_model[j].items() if key[1] == c),
    )
    model.available = pyo.Constraint(
        list(model.z), rule=lambda _, j: sum(model.spread[j, c] for a, c in pairs if a == j) >= 2 * model.z[j]
    )


def _add_moves(model: PyomoModel, problem: AllocationProblem) -> None:
    import pyomo.environ as pyo

    by_type = replicas_by_type(model)
    running: Mapping[ReplicaType, int] = problem.requirements.running
    model.moved = pyo.Var(list(by_type), domain=pyo.NonNegativeReals)
    model.started = pyo.Constraint(
        list(by_type), rule=lambda _, r: model.moved[r] >= sum(by_type[r]) - running.get(r, 0)
    )
    stopped = [r for r in by_type if running.get(r)]
    model.stopped = pyo.Constraint(stopped, rule=lambda _, r: model.moved[r] >= running[r] - sum(by_type[r]))
