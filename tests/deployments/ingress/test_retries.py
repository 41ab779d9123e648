from dataclasses import replace

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from apportion.deployments.ingress.client import Client
from apportion.deployments.ingress.retries import RETRY_BURST, SUSPECTS, RetryBudget, Suspects
from apportion.router.budget import Account
from apportion.router.errors import UnavailableError
from tests.deployments.ingress.dispatching import PATH, Browser, StubLink, dispatching, parsed, serving, simulated


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def fail(request: Request) -> Response:
    return JSONResponse({"error": {"message": "engine dead"}}, status_code=500)


def failing() -> Starlette:
    return Starlette(routes=[Route(PATH, fail, methods=["POST"])])


async def test_a_request_that_engines_die_of_meets_two_and_is_then_refused_for_every_model() -> None:
    async with serving(failing()) as bad, serving(simulated()) as good:
        link = StubLink(bad.url, bad.url, good.url)
        async with dispatching(link, retries=5) as dispatcher:
            with pytest.raises(UnavailableError, match="2 replicas were tried"):
                await dispatcher.serve(parsed(), PATH, Client(Browser().send))
            with pytest.raises(UnavailableError, match="2 engines failed while they worked on this content"):
                await dispatcher.serve(parsed(model="small", temperature=0.5), PATH, Client(Browser().send))
            assert len(link.asked) == 2
            other = Browser()
            message = {"role": "user", "content": "something else"}
            await dispatcher.serve(parsed(messages=[message]), PATH, Client(other.send))
            assert other.status == 200


async def test_retries_of_begun_work_end_with_their_budget() -> None:
    async with serving(failing()) as bad:
        link = StubLink(bad.url)
        async with dispatching(link, retry_share=0.0) as dispatcher:
            dispatcher._retries._left = 1.0
            for tried in (2, 3):
                message = {"role": "user", "content": f"question {tried}"}
                with pytest.raises(UnavailableError):
                    await dispatcher.serve(parsed(messages=[message]), PATH, Client(Browser().send))
                assert len(link.asked) == tried


def test_a_budget_is_a_share_of_the_requests_and_some_a_second() -> None:
    clock = Clock()
    budget = RetryBudget(0.1, clock)
    assert sum(budget.take() for _ in range(1000)) == RETRY_BURST
    for _ in range(105):
        budget.request()
    assert sum(budget.take() for _ in range(1000)) == 10
    clock.now_s += 3.0
    assert sum(budget.take() for _ in range(1000)) == 3


def test_a_suspect_is_refused_for_a_while_then_tried_and_forgotten_when_it_is_answered() -> None:
    clock = Clock()
    suspects = Suspects(clock)
    for replica in ("a", "a", "a"):
        suspects.lost(b"x", replica)
    suspects.check(lambda: b"x")  # one sick replica says nothing of the content
    suspects.lost(b"x", "b")
    with pytest.raises(UnavailableError):
        suspects.check(lambda: b"x")
    suspects.check(lambda: b"y")
    clock.now_s += 60
    suspects.check(lambda: b"x")
    suspects.lost(b"x", "c")
    clock.now_s += 119
    with pytest.raises(UnavailableError):
        suspects.check(lambda: b"x")
    clock.now_s += 1
    suspects.check(lambda: b"x")
    suspects.answered(lambda: b"x")
    suspects.lost(b"x", "a")
    suspects.check(lambda: b"x")


def test_suspects_are_bounded() -> None:
    suspects = Suspects(Clock())
    for number in range(SUSPECTS + 5):
        for replica in ("a", "b"):
            suspects.lost(number.to_bytes(4), replica)
    suspects.check(lambda: (0).to_bytes(4))
    with pytest.raises(UnavailableError):
        suspects.check(lambda: (SUSPECTS).to_bytes(4))


def test_nobody_has_anothers_prompt_refused_by_what_engines_failed_with() -> None:
    mine = parsed()
    assert mine.digest() == parsed(seed=7).digest()
    assert mine.digest() != parsed(structured_outputs={"regex": "a"}).digest(), "the engine may have failed at the form"
    strangers = parsed()
    strangers.item = replace(strangers.item, account=Account(key="stranger"))
    assert strangers.digest() != mine.digest()
