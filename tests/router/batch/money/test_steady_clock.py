"""Jumps of the machine's clock, as the budget's windows see them."""

from __future__ import annotations

import pytest

from apportion.router.batch.money.steady_clock import CONFIRM_S, SteadyClock

DAY_S = 86_400.0
NOW_S = 1_700_000_000.0


class Machine:
    """Its two clocks."""

    def __init__(self) -> None:
        self.wall_s, self.mono_s = NOW_S, 50.0
        self.clock = SteadyClock(lambda: self.wall_s, lambda: self.mono_s)

    def run(self, seconds: float, *, drift: float = 0.0) -> float:
        """Time passes second by second; what the clock says at the end."""
        said = self.clock()
        for _ in range(round(seconds)):
            self.wall_s += 1 + drift
            self.mono_s += 1
            now_s = self.clock()
            assert now_s >= said
            said = now_s
        return said

    def jump(self, seconds: float) -> None:
        self.wall_s += seconds


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_a_steady_clock_is_the_machines(machine: Machine) -> None:
    assert machine.run(1000) == pytest.approx(machine.wall_s, abs=1e-3)
    assert machine.clock.steady_s() == pytest.approx(1000)


def test_a_clock_that_is_set_right_slowly_is_followed(machine: Machine) -> None:
    assert machine.run(5000, drift=5e-4) == pytest.approx(machine.wall_s, abs=1e-3)
    assert machine.clock.steady_s() == pytest.approx(5000)


@pytest.mark.parametrize("jump_s", [60.0, DAY_S, 400 * DAY_S])
def test_a_jump_that_is_set_right_again_changes_nothing(machine: Machine, jump_s: float) -> None:
    machine.jump(jump_s)
    assert machine.run(CONFIRM_S - 10) == pytest.approx(NOW_S + CONFIRM_S - 10, abs=1e-3)
    machine.jump(-jump_s)
    assert machine.run(2 * CONFIRM_S) == pytest.approx(machine.wall_s, abs=1e-3)


def test_a_jump_forward_that_lasts_is_followed_and_restarts_what_waits_for_a_steady_clock(machine: Machine) -> None:
    machine.jump(DAY_S)
    assert machine.run(CONFIRM_S - 1) < NOW_S + DAY_S
    assert machine.run(2) == pytest.approx(machine.wall_s, abs=1e-3)
    assert machine.clock.steady_s() < 5


@pytest.mark.parametrize("jump_s", [5.0, DAY_S])
def test_a_jump_backward_brings_no_window_twice(machine: Machine, jump_s: float) -> None:
    machine.run(10)
    machine.jump(-jump_s)
    assert machine.run(10 * CONFIRM_S) == pytest.approx(NOW_S + 10 + 10 * CONFIRM_S, abs=1e-3)
    machine.jump(jump_s)
    assert machine.run(10 * CONFIRM_S) == pytest.approx(machine.wall_s, abs=1e-3)
