"""Plans over the day: few moves from one to the next, and changes that begin in time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from apportion.allocation.day import Part, StartUp, load_hours, plan_day
from apportion.allocation.planner import PlanOptions
from apportion.allocation.problem import Requirements
from apportion.router.errors import ConfigurationError
from tests.allocation.instances import cluster, profiles, specs, workload

PARTS = (Part(7 * 60, 20.0), Part(10 * 60, 60.0), Part(20 * 60, 4.0))


def test_each_part_of_the_day_follows_from_the_one_before() -> None:
    options = PlanOptions(Requirements(gpu_price=1e-3, move_price=1e-4), batch_size=20, n_batches=2)
    turns = plan_day(cluster(), specs(), profiles(), workload(), PARTS, options, StartUp(90.0, 0.5))
    plans = [turn.planned.plan for turn in turns]
    assert [plan.rate_per_s for plan in plans] == [20.0, 60.0, 4.0]
    gpus = [sum(r.gpus * n for r, n in plan.counts.items()) for plan in plans]
    assert gpus[2] < gpus[1]
    for number, turn in enumerate(turns):
        before, after = Counter(plans[number - 1].placements), Counter(plans[number].placements)
        assert before - Counter(turn.moves.stopped) + Counter(turn.moves.started) == after
    # A GiB of weights takes two seconds here, and the engine 90 more; quieter parts need nothing ahead.
    assert [turn.ahead_s for turn in turns] == [92.0 if turn.moves.started else 0.0 for turn in turns[:2]] + [0.0]
    assert turns[1].begin == "09:58"
    assert turns[2].begin == "20:00"
    assert [bool(plan.bounds) for plan in plans] == [False, True, False]
    for one in plans[1].bounds:
        assert one.max_replicas == plans[1].counts[one.replica]
        assert one.min_replicas == min(plan.counts[one.replica] for plan in plans)
    assert 0 in {one.min_replicas for one in plans[1].bounds}, "some model is not needed at night"


def test_a_file_of_hours_is_in_order(tmp_path: Path) -> None:
    file = tmp_path / "hours.yaml"
    file.write_text('hours:\n  - {begins: "07:00", rate_per_s: 2}\n  - {begins: "20:30", rate_per_s: 1.5}\n')
    assert load_hours(file) == (Part(420, 2.0), Part(1230, 1.5))
    for wrong, message in (
        ('{begins: "06:00", rate_per_s: 1}', "line 3: hours.1.begins: 06:00 is not after 07:00; sort them"),
        ('{begins: "25:00", rate_per_s: 1}', "line 3: hours.1.begins"),
        ('{begins: "08:00", rate_per_s: 0}', "line 3: hours.1.rate_per_s"),
    ):
        file.write_text(f'hours:\n  - {{begins: "07:00", rate_per_s: 2}}\n  - {wrong}\n')
        with pytest.raises(ConfigurationError, match=message.replace(".", r"\.")):
            load_hours(file)
