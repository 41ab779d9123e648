import itertools
from dataclasses import replace

import numpy as np
import pytest

from apportion.router.assignment import (
    BatchProblem,
    Limit,
    admission,
    assign,
    first_in_line,
    largest_feasible_subset,
    strategy_from,
)


def problem(allowed: np.ndarray, slots: list[int], sequences: list[int] | None = None) -> BatchProblem:
    shape = allowed.shape
    return BatchProblem(np.full(shape, 0.5), np.ones(shape), np.array(slots), allowed=allowed, sequences=sequences)


def seatable(batch: BatchProblem, rows: list[int]) -> bool:
    """By trying every choice of models."""
    for models in itertools.product(range(batch.n_models), repeat=len(rows)):
        use = np.bincount(models, weights=batch.load[rows], minlength=batch.n_models)
        if all(batch.allowed[r, m] for r, m in zip(rows, models, strict=True)) and (use <= batch.slots).all():
            return True
    return not rows


@pytest.mark.parametrize("seed", range(40))
def test_requests_of_one_slot_are_admitted_greedily_and_as_many_as_can_be(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 7)), int(rng.integers(1, 4))
    batch = problem(rng.random((n, m)) < 0.5, rng.integers(0, 3, m).tolist())
    greedy: list[int] = []
    for row in range(n):
        if seatable(batch, [*greedy, row]):
            greedy.append(row)
    admitted = first_in_line(batch)
    assert np.flatnonzero(admitted).tolist() == greedy
    assert admitted.sum() == largest_feasible_subset(batch).sum()


@pytest.mark.parametrize("seed", range(20))
def test_the_admitted_are_a_feasible_batch_whatever_they_take(seed: int) -> None:
    rng = np.random.default_rng(seed)
    allowed = rng.random((30, 3)) < 0.7
    allowed[:, 0] = True
    batch = problem(allowed, [4, 6, 9], rng.integers(1, 4, 30).tolist())
    admitted = first_in_line(batch)
    assert admitted.any()
    assert assign(batch.subset(admitted), strategy_from("greedy")).feasible


@pytest.mark.parametrize("seed", range(40))
def test_with_limits_the_admitted_are_a_feasible_batch_and_nearly_as_many_as_can_be(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(2, 8)), int(rng.integers(1, 4))
    batch = problem(rng.random((n, m)) < 0.7, rng.integers(1, 4, m).tolist(), rng.integers(1, 3, n).tolist())
    uses = [np.where(rng.random((n, m)) < 0.6, rng.integers(1, 4, (n, m)), 0) for _ in range(2)]
    batch = replace(batch, limits=tuple(Limit(f"l{k}", use, float(rng.integers(1, 6))) for k, use in enumerate(uses)))
    admitted = first_in_line(batch)
    assert not admitted.any() or assign(batch.subset(admitted), strategy_from("greedy")).feasible
    assert admitted.sum() >= largest_feasible_subset(batch).sum() - 1


def test_who_could_go_elsewhere_leaves_a_limit_to_who_cannot() -> None:
    limit = Limit("host", np.array([[1.0, 0.0]] * 3), 1.0)
    allowed = np.array([[True, True], [True, False], [True, False]])
    batch = replace(problem(allowed, [3, 3]), limits=(limit,))
    assert first_in_line(batch).tolist() == [True, True, False]
    assert first_in_line(replace(batch, slots=np.array([3, 0]))).tolist() == [True, False, False]
    full = replace(batch, slots=np.array([3, 1]), allowed=np.array([[True, True], [False, True], [True, False]]))
    assert first_in_line(full).tolist() == [True, True, False], "the first one moves over for the second"


def test_a_large_request_keeps_what_a_limit_has_left() -> None:
    limit = Limit("tokens", np.array([[30.0], [20.0], [20.0]]), 40.0)
    batch = replace(problem(np.ones((3, 1), bool), [3]), limits=(limit,))
    assert first_in_line(batch).tolist() == [True, False, False]
    asked = replace(limit, use=np.array([[50.0], [20.0], [1.0]]))
    assert first_in_line(replace(batch, limits=(asked,))).tolist() == [False, False, False]
    assert first_in_line(replace(batch, limits=(replace(asked, at_most=70.0),))).tolist() == [True, True, False]


def test_the_first_in_line_move_over_for_each_other() -> None:
    allowed = np.array([[True, True], [True, False], [True, True]])
    assert first_in_line(problem(allowed, [1, 1])).tolist() == [True, True, False]


def test_a_large_request_keeps_the_slots_that_it_waits_for() -> None:
    allowed = np.ones((3, 1), bool)
    assert first_in_line(problem(allowed, [2], [3, 1, 1])).tolist() == [False, False, False]
    assert first_in_line(problem(allowed, [2], [1, 3, 1])).tolist() == [True, False, False]


def test_those_who_can_pay_together_are_found_without_a_search_where_dear_slots_are_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "most_admitted", None)
    cost = np.random.default_rng(0).uniform(0.9, 1.1, (20, 3)) * [1.0, 10.0, 100.0]
    batch = BatchProblem(np.full((20, 3), 0.5), cost, np.array([8, 2, 4]), 8 * 1.1 + 2 * 11 + 110)
    admitted = largest_feasible_subset(batch)
    assert admitted.sum() == 11
    assert assign(batch.subset(admitted)).feasible
