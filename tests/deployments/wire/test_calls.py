import asyncio
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import DeploymentUnavailableError

from apportion.deployments.wire.calls import answer_of
from apportion.router.errors import DeadlineError, RateLimitError, UnavailableError


async def answer(value: Any) -> Any:
    if isinstance(value, BaseException):
        raise value
    return value


async def test_an_answer_is_passed_on() -> None:
    assert await answer_of(answer([1]), 5) == [1]


async def test_a_router_that_is_late_is_a_deadline() -> None:
    with pytest.raises(DeadlineError, match=r"within 0\.01 s"):
        await answer_of(asyncio.sleep(10), 0.01)


@pytest.mark.parametrize(
    "error", [ActorDiedError(), DeploymentUnavailableError("Router"), asyncio.CancelledError()], ids=repr
)
async def test_a_router_that_is_gone_is_unavailable(error: BaseException) -> None:
    with pytest.raises(UnavailableError) as caught:
        await answer_of(answer(error), 5)
    assert caught.value.retry_after_s == 5.0


async def test_what_the_router_raises_is_its_own_error() -> None:
    error = RayTaskError("route", "traceback", RateLimitError("too often", retry_after_s=3.0)).as_instanceof_cause()
    with pytest.raises(RateLimitError) as caught:
        await answer_of(answer(error), 5)
    assert caught.value.retry_after_s == 3.0
    with pytest.raises(ValueError, match="broken"):
        await answer_of(answer(RayTaskError("route", "broken", ValueError()).as_instanceof_cause()), 5)


async def test_a_client_that_leaves_is_not_an_error_of_the_router() -> None:
    task = asyncio.create_task(answer_of(asyncio.sleep(10), 5))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
