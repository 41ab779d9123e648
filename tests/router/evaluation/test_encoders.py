"""Which encoder pays: the cheapest, unless a dearer one is shown to add area."""

from __future__ import annotations

import numpy as np
import pytest

from apportion.router.errors import OutcomesTableError
from apportion.router.evaluation.batches import Setting
from apportion.router.evaluation.encoders import Candidate, Comparison, compare_encoders
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.encoder import Encoder
from apportion.router.prediction.encoders import Encoders
from apportion.router.prediction.knn import KnnEstimator

RECIPE = KnnEstimator(20, members=2)


def comparison(**areas: list[float]) -> Comparison:
    cpu_ms = {"static": 0.1, "own": 10.0, "both": 10.1}
    return Comparison(400, tuple(Candidate(n, tuple(a), 0.02, 0.1, cpu_ms[n]) for n, a in areas.items()))


def test_the_cheapest_is_chosen_where_nothing_dearer_is_shown_to_add_area() -> None:
    little = comparison(static=[0.7, 0.6, 0.65], own=[0.7015, 0.6014, 0.6516], both=[0.7, 0.6, 0.65])
    assert little.chosen.encoder == "static"
    assert little.why.startswith("own adds 0.0015 ± 0.0002 of area, which is not shown to be more than 0.002, for 100")
    by_luck = comparison(static=[0.7, 0.6, 0.65], own=[0.75, 0.57, 0.66], both=[0.7, 0.6, 0.65])
    assert by_luck.gain(by_luck.candidates[1]).mean > 0.002
    assert by_luck.chosen.encoder == "static"


def test_a_dearer_one_is_chosen_where_it_is_shown_to_add_area() -> None:
    found = comparison(static=[0.7, 0.6, 0.65], own=[0.711, 0.610, 0.659], both=[0.712, 0.612, 0.661])
    assert found.chosen.encoder == "both"
    assert found.why == "it adds 0.0117 ± 0.0014 of area to static, for 101 times its CPU"


def test_candidates_are_measured_on_the_rows_that_may_be_seen(encoder: Encoder, outcomes: OutcomesTable) -> None:
    seen: list[tuple[str, int, int]] = []
    found = compare_encoders(
        outcomes,
        Encoders(encoder),
        RECIPE,
        rows=200,
        seeds=2,
        setting=Setting(batch_size=20),
        progress=lambda *step: seen.append(step),
    )
    source = encoder.source
    assert [one.encoder for one in found.candidates] == [f"static:{source}", source, f"both:{source}"]
    assert found.rows == 200
    assert all(len(one.areas) == 2 and min(one.areas) > 0.2 and one.cpu_ms > 0 for one in found.candidates)
    assert len({one.areas for one in found.candidates}) == 3
    assert seen[-1] == ("compare: train", 6, 6)
    told = found.as_json()
    assert told["chosen"] == found.chosen.encoder
    assert told["candidates"][0]["area"] == pytest.approx(np.mean(found.candidates[0].areas))


def test_without_costs_there_is_no_area_to_compare(encoder: Encoder, outcomes: OutcomesTable) -> None:
    with pytest.raises(OutcomesTableError, match="100 are needed"):
        compare_encoders(outcomes, Encoders(encoder), RECIPE, rows=90)
