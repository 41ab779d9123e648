import pytest

from apportion.deployments.control.watch import HANGING_S, Watch
from apportion.router.errors import UnavailableError
from tests.router.batch.plain_room import Clock


def test_a_call_that_does_not_end_is_found_out_whatever_else_is_answered() -> None:
    clock = Clock()
    watch = Watch("predictor", clock)
    with watch.call():
        clock.now_s += HANGING_S
        with watch.call():
            watch.check()
        clock.now_s += 1
        with pytest.raises(UnavailableError, match="predictor has not ended for 31 s"):
            watch.check()
    watch.check()
