import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from apportion.router.assignment import Prices
from benchmarks.load.report import write
from benchmarks.sharding import report, run
from benchmarks.sharding.shares import UNSERVED, Share, between, equal, in_proportion, lent, plan, planned_apart, priced
from benchmarks.sharding.traffic import Period

SUCCESS = np.array([[0.2, 0.9], [0.3, 0.8], [0.4, 0.6], [0.5, 0.6]])
PERIOD = Period(np.arange(4), SUCCESS, np.tile([1.0, 4.0], (4, 1)))
SLOTS = np.array([2, 2])


def test_shares_are_all_there_is() -> None:
    whole = Share(np.array([7, 1]), 10.0)
    for shares in (
        equal(whole, 3),
        in_proportion(whole, np.array([[5, 0], [1, 1], [0, 0]]), np.array([3.0, 1.0, 0.0])),
    ):
        np.testing.assert_array_equal(sum(share.slots for share in shares), whole.slots)
        assert sum(share.usd for share in shares) == pytest.approx(whole.usd)
    assert shares[0].slots[0] > shares[1].slots[0]
    assert shares[1].slots[1] == 1


def test_what_one_router_lacks_another_has_left_over() -> None:
    owner, whole = np.array([0, 0, 0, 1]), Share(SLOTS, np.inf)
    joint, _ = plan(PERIOD.problem(SLOTS, np.inf))
    assert joint.tolist() == [1, 1, 0, 0]
    apart = planned_apart(PERIOD, owner, equal(whole, 2))
    assert np.count_nonzero(apart == UNSERVED) == 1  # the first has two slots for three, the second two for one
    helped = lent(PERIOD, whole, apart)
    assert np.count_nonzero(helped == UNSERVED) == 0
    np.testing.assert_array_equal(helped[apart != UNSERVED], apart[apart != UNSERVED])


def test_prices_keep_slots_and_money() -> None:
    free = Prices(0.0, np.zeros(2))
    assert priced(PERIOD, Share(SLOTS, np.inf), free).tolist() == [1, 1, 0, 0]
    assert priced(PERIOD, Share(SLOTS, 7.0), free).tolist() == [1, 0, 0, UNSERVED]  # 4 + 1 + 1, and 4 is too dear
    assert priced(PERIOD, Share(np.array([4, 4]), 16.0), Prices(0.2, np.zeros(2))).tolist() == [1, 0, 0, 0]


def test_money_lies_between_what_the_slots_allow() -> None:
    assert between(PERIOD, SLOTS, 0.5) == pytest.approx(10.0)  # two have to go to the dear model
    assert between(PERIOD, np.array([4, 4]), 0.5) == pytest.approx((4 + 16) / 2)


def test_a_small_run(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run, "SHARDS", (2,))
    console = Console(width=200, record=True)
    result = run.run(requests=64, seeds=2, console=console)
    assert {record["source"] for record in result["records"]} == {"synthetic", "recorded"}
    assert all(-1 < record["loss"] < 1 for record in result["records"])
    lost = [record["loss"] for record in result["records"] if record["arm"] == "equal shares"]
    assert max(lost) > 0
    report.show(result, console)
    write(result, report, tmp_path / "sharding.json")
    assert "| money | equal shares |" in (tmp_path / "sharding.md").read_text()
    assert len(json.loads((tmp_path / "sharding.json").read_text())["records"]) == 2 * 2 * 3 * 5
