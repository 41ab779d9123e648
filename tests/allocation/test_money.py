"""What GPUs and bought tokens cost: prices of a cluster, plans by them against brute force, bill and trades."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy.optimize import linprog

from apportion.allocation.cluster import Cluster, Node
from apportion.allocation.gpu_prices import GpuPrice
from apportion.allocation.gpus import CPU
from apportion.allocation.infeasible import diagnose
from apportion.allocation.models import ModelSpec, Quota
from apportion.allocation.optimise import optimise
from apportion.allocation.plan import Plan, load_plan, save_plan
from apportion.allocation.planner import Planned, PlanOptions, make_plan, options_of
from apportion.allocation.problem import HOUR_S, AllocationProblem, Requirements
from apportion.allocation.replay import replay
from apportion.allocation.report import show
from apportion.allocation.simulate import simulate
from apportion.allocation.trim import trim
from apportion.router.errors import ConfigurationError, InfeasibleError, InvalidRequestError
from tests.allocation.instances import GPU, cluster, profile, profiles, specs, workload

RESERVED, SPOT = GpuPrice("reserved", 2.0), GpuPrice("spot", 0.5)
FEW = (
    profile("small", 0.4, 1, 6, 300), profile("small", 1.0, 1, 20, 900),
    profile("mid", 0.4, 1, 4, 200),
)  # fmt: skip


def two_prices() -> Cluster:
    """Two nodes of equal GPUs, one at a quarter of the other's price."""
    return Cluster((Node("dear", "gpu", 2, RESERVED), Node("cheap", "gpu", 1, SPOT)), {"gpu": GPU})


def given(
    requirements: Requirements, quota: Quota | None, on: Cluster | None = None, rate_per_s: float = 6.0
) -> AllocationProblem:
    """12 requests at once for small and mid on GPUs, and large from outside or nowhere."""
    work = workload(rate_per_s=rate_per_s)
    return AllocationProblem.of(
        on or two_prices(), outside(quota), FEW, work, work.batches(12, 2), requirements
    )  # fmt: skip


def outside(quota: Quota | None) -> tuple[ModelSpec, ...]:
    return specs(large={"quota": quota})


def best_worth(problem: AllocationProblem, counts: Counter, gpus_usd: float) -> float:
    """Mean success less what bought tokens have to earn, by an independent solver; -inf where nothing is possible."""
    n, m = problem.success.shape
    target, quota = problem.requirements.target_utilisation, problem.models[2].quota
    slots, tokens = np.zeros(m), np.zeros(m)
    for replica, number in counts.items():
        j = [spec.name for spec in problem.models].index(replica.model)
        slots[j] += number * problem.profile_of[replica].max_num_seqs
        tokens[j] += number * problem.profile_of[replica].tokens_per_s
    rows, limits = [], []

    def row(values: np.ndarray, limit: float) -> None:
        rows.append(values.ravel())
        limits.append(limit)

    for j in range(m):
        only = np.zeros((n, m))
        only[:, j] = 1
        bound = quota if j == 2 else None
        for k in range(problem.n_batches):
            row(only * (problem.batch == k)[:, None], bound.max_at_once if bound else slots[j])
        each = problem.rate_per_s * problem.share[:, None] * only
        if bound is None:
            row(each * problem.tokens, target * tokens[j])
        else:
            if bound.tokens_per_minute is not None:
                row(each * problem.all_tokens, target * bound.tokens_per_minute / 60)
            if bound.requests_per_minute is not None:
                row(each, target * bound.requests_per_minute / 60)
    bought = HOUR_S * problem.rate_per_s * problem.share[:, None] * problem.cost_usd * (np.arange(m) == 2)
    if np.isfinite(problem.requirements.budget_usd_per_hour):
        row(bought, problem.requirements.budget_usd_per_hour - gpus_usd)
    value = problem.share[:, None] * problem.success - problem.usd_per_hour_price * bought
    found = linprog(-value.ravel(), np.array(rows), limits, np.kron(np.eye(n), np.ones(m)), np.ones(n), bounds=(0, 1))
    return -found.fun if found.status == 0 else -np.inf


def cheapest_usd(units: list[int]) -> float:
    """The least USD an hour of GPUs of `two_prices` that hold these shares, by trying all; inf where none do."""
    best = np.inf
    for places in itertools.product(range(3), repeat=len(units)):
        used = [sum(u for u, place in zip(units, places, strict=True) if place == gpu) for gpu in range(3)]
        if max(used, default=0) <= 10_000:
            best = min(best, sum(usd for usd, u in zip((2.0, 2.0, 0.5), used, strict=True) if u))
    return best


@pytest.mark.parametrize(
    ("quota", "money"),
    [
        (Quota(12), {"success_usd": 2e-4}),
        (Quota(12), {"success_usd": 4e-3}),
        (Quota(3), {"success_usd": 2e-3}),
        (Quota(12, requests_per_minute=100), {"success_usd": 5e-3}),
        (Quota(12, tokens_per_minute=20_000), {"success_usd": 5e-3}),
        (Quota(12), {"budget_usd_per_hour": 3.0}),
        (Quota(12), {"budget_usd_per_hour": 6.0}),
        (Quota(12), {"budget_usd_per_hour": 4.0, "success_usd": 3e-3}),
    ],
)
def test_one_plan_for_gpus_and_bought_tokens_is_that_of_brute_force(quota: Quota, money: dict[str, float]) -> None:
    problem = given(Requirements(**money), quota)
    best = -np.inf
    for numbers in itertools.product(range(7), range(4), range(7)):
        units = [p.replica.units for p, n in zip(FEW, numbers, strict=True) for _ in range(n)]
        usd = cheapest_usd(units) if sum(units) <= 30_000 and len(units) <= 6 else np.inf
        if usd <= problem.requirements.budget_usd_per_hour and np.isfinite(usd):
            counts = Counter({p.replica: n for p, n in zip(FEW, numbers, strict=True) if n})
            best = max(best, best_worth(problem, counts, usd) - problem.usd_per_hour_price * usd)
    found = optimise(problem, gap=1e-7)
    assert found.objective == pytest.approx(best, abs=1e-6)
    assert trim(problem, found).objective >= found.objective - 1e-9


def test_dear_gpus_are_left_out_where_they_earn_too_little() -> None:
    def used(success_usd: float | None, on: Cluster) -> int:
        plan = planned(Requirements(success_usd=success_usd), on=on, quota=None, rate_per_s=3.0).plan
        return len({(p.node, gpu) for p in plan.placements for gpu in p.gpus})

    priced = cluster().priced({"gpu": 2.5})
    assert used(1e-4, priced) < used(1.0, priced) == used(None, cluster())
    # Unless said otherwise a good answer is worth a cent.
    assert used(None, priced) == used(0.01, priced) < used(1.0, priced)


def planned(requirements: Requirements, quota: Quota | None, **changes: object) -> Planned:
    on, rate = changes.pop("on", two_prices()), changes.pop("rate_per_s", 6.0)
    options = PlanOptions(requirements, batch_size=40, n_batches=4, **changes)
    known = profiles() if quota is None else tuple(p for p in profiles() if p.replica.model != "large")
    return make_plan(on, outside(quota), known, workload(rate_per_s=rate), options)


@pytest.fixture(scope="module")
def mixed() -> Plan:
    requirements = Requirements(budget_usd_per_hour=8.0)
    return planned(requirements, Quota(64, requests_per_minute=300), on=two_prices(), trades=True).plan


def test_the_bill_is_what_gpus_and_tokens_cost(mixed: Plan) -> None:
    bill = mixed.bill
    assert bill is not None
    by_node = Counter(node for node, _ in {(p.node, gpu) for p in mixed.placements for gpu in p.gpus})
    assert bill.gpus_usd_per_hour == pytest.approx(2.0 * by_node["dear"] + 0.5 * by_node["cheap"])
    assert sum(cost.used + cost.idle for cost in bill.gpus) == 3
    assert bill.bought_usd_per_hour > 0
    assert bill.usd_per_hour <= 8.0 * (1 + 1e-6)
    assert bill.usd_per_million_tokens == pytest.approx(bill.usd_per_hour / bill.tokens_per_hour * 1e6)
    large = next(load for load in mixed.loads if load.model == "large")
    assert large.slots == 64
    assert large.share * mixed.rate_per_s <= 0.8 * 5 * (1 + 1e-6)
    assert 0 < large.utilisation <= 0.8 * (1 + 1e-6)


def test_held_out_requests_buy_no_more_than_the_hour_allows(mixed: Plan) -> None:
    scarce = planned(Requirements(budget_usd_per_hour=1.0), Quota(64)).plan
    plenty = planned(Requirements(budget_usd_per_hour=50.0), Quota(64)).plan
    for one in scarce.assessments:
        assert one.refused > 0 or one.cost_usd * HOUR_S * scarce.rate_per_s * one.load < 50
    assert scarce.assessments[0].quality < plenty.assessments[0].quality


def test_a_gpu_more_and_a_gpu_less_are_planned_anew(mixed: Plan) -> None:
    assert [(cost.price, cost.used) for cost in mixed.bill.gpus] == [(RESERVED, 0), (SPOT, 1)]
    by_change = {(trade.price, trade.more): trade for trade in mixed.trades}
    assert set(by_change) == {(RESERVED, 1), (SPOT, -1), (SPOT, 1)}
    # The quota alone does not serve the rate.
    assert not by_change[SPOT, -1].possible
    for price in (RESERVED, SPOT):
        more = by_change[price, 1]
        assert more.success >= -1e-3
        assert more.usd_per_hour <= price.usd_per_hour + 1e-6


def test_a_plan_with_bought_models_is_kept_and_planned_again(mixed: Plan, tmp_path: Path) -> None:
    save_plan(mixed, tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == mixed
    assert options_of(mixed).requirements.budget_usd_per_hour == 8.0
    again = planned(options_of(mixed).requirements, Quota(64, requests_per_minute=300)).plan
    assert again.expected_quality == pytest.approx(mixed.expected_quality, abs=2e-3)


def test_the_report_tells_the_bill_and_what_is_not_known(mixed: Plan) -> None:
    def told(plan: Plan) -> str:
        console = Console(width=140, record=True, file=StringIO())
        show(plan, console)
        return " ".join(console.export_text().split())

    text = told(mixed)
    assert f"an hour costs {mixed.bill.usd_per_hour:,.2f} of 8.00 USD" in text
    assert "for bought tokens; a million tokens of this mix" in text
    assert "A GPU more, a GPU less" in text
    assert "from outside" in text
    assert "counts as" not in text
    assert "one more good answer counts as 0.01 USD" in told(planned(Requirements(), Quota(64)).plan)
    unpriced = planned(Requirements(), Quota(64), on=cluster(1, 2)).plan
    assert "no price is known of GPUs of type gpu" in told(unpriced)
    assert unpriced.bill.usd_per_hour is None


def test_all_may_be_bought() -> None:
    everything = tuple(replace(spec, quota=Quota(100)) for spec in specs())
    work = workload()
    options = PlanOptions(batch_size=40, n_batches=2)
    plan = make_plan(cluster(1, 1).priced({"gpu": 1.0}), everything, (), work, options)
    assert plan.plan.placements == ()
    assert plan.bill.usd_per_hour == pytest.approx(plan.plan.expected_cost_usd * HOUR_S * 10.0)


def test_what_leaves_takes_its_quota_and_has_no_times(mixed: Plan) -> None:
    found = simulate(mixed, replay(mixed, workload(), requests=2000, load=4.0))
    outside = found.model == [model.name for model in mixed.models].index("large")
    assert 0 < outside.sum() < len(found.model)
    assert np.isnan(found.latency_s[outside]).all()
    assert found.latency_s[~outside].min() > 0
    minutes = (found.arrival_s + found.waited_s)[outside].max() / 60
    assert outside.sum() <= 300 * (minutes + 1) + 2
    assert found.summary([model.name for model in mixed.models], 60.0)["within_deadline"] <= 1
    everything = replace(mixed, models=tuple(replace(spec, quota=Quota(100)) for spec in specs()), placements=())
    with pytest.raises(InvalidRequestError, match="all requests go to models from outside"):
        replay(everything, workload())


def test_the_least_budget_per_hour_is_told_and_suffices() -> None:
    problem = given(Requirements(budget_usd_per_hour=0.1), Quota(4))
    with pytest.raises(InfeasibleError):
        optimise(problem)
    told = {one.kind: one for one in diagnose(problem).relaxations}
    assert "raise the budget per hour from 0.1 to" in told["bill"].message
    least = told["bill"].amount
    assert optimise(problem.under(Requirements(budget_usd_per_hour=least))).quality > 0
    with pytest.raises(InfeasibleError):
        optimise(problem.under(Requirements(budget_usd_per_hour=0.99 * least)))


def test_a_budget_per_hour_needs_every_price() -> None:
    with pytest.raises(ConfigurationError, match=r"no price is known of GPUs of type gpu.*--gpu-usd-per-hour"):
        given(Requirements(budget_usd_per_hour=5.0), None, on=cluster())
    for wrong in ({"budget_usd_per_hour": -1.0}, {"success_usd": 0.0}):
        with pytest.raises(InvalidRequestError, match=next(iter(wrong))):
            Requirements(**wrong)


def written(folder: Path, text: str) -> Path:
    (folder / "cluster.yaml").write_text(text)
    return folder / "cluster.yaml"


def test_prices_come_from_the_clusters_file(tmp_path: Path) -> None:
    own = "{purchase_usd: 17532, years: 4, power_kw: 0.5, usd_per_kwh: 0.2, usd_per_hour: 0.1}"
    text = f"""
gpu_prices:
  H100: {{reserved: 2.1, spot: 1.3}}
  L4: {{own: {own}}}
nodes:
  - {{name: a, gpu_type: H100, n_gpus: 8, price: spot, count: 2}}
  - {{name: b, gpu_type: L4, n_gpus: 1}}
  - {{name: c, gpu_type: A100-80GB, n_gpus: 4}}
"""
    found = Cluster.load(written(tmp_path, text))
    assert [node.price for node in found.nodes[:2]] == [GpuPrice("spot", 1.3)] * 2
    assert found.node("b").price.kind == "own"
    assert found.node("b").price.usd_per_hour == pytest.approx(0.5 + 0.1 + 0.1)
    assert found.unpriced == ("A100-80GB",)
    assert found.priced({"A100-80GB": 1.2}).unpriced == ()
    with pytest.raises(ConfigurationError, match="no node has GPUs of type"):
        found.priced({CPU: 1.0})


@pytest.mark.parametrize(
    ("prices", "node", "message"),
    [
        ("H100: {reserved: 2.1, spot: 1.3}", "", "line 3: nodes.0.price: .* name one of them"),
        ("H100: {reserved: 2.1}", ", price: spto", "line 3: nodes.0.price: .* no 'spto'"),
        ("", ", price: spot", "no 'spot' of H100"),
        ("H10O: {reserved: 2.1}", "", "line 1: gpu_prices.H10O: .*no GPU type"),
        ("H100: {reserved: -1}", "", "gpu_prices.H100.reserved"),
        ("H100: {own: {purchase_usd: 1, years: 0}}", "", "years"),
    ],
)
def test_wrong_prices_are_told_with_their_line(tmp_path: Path, prices: str, node: str, message: str) -> None:
    text = f"gpu_prices: {{{prices}}}\nnodes:\n  - {{name: a, gpu_type: H100, n_gpus: 8{node}}}\n"
    with pytest.raises(ConfigurationError, match=message):
        Cluster.load(written(tmp_path, text))
