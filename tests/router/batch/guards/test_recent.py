import asyncio

from apportion.router.batch.guards.recent import Recent
from tests.router.batch.plain_room import Clock


class Question:
    """Answers how often it was asked, once it may."""

    def __init__(self) -> None:
        self.asked = 0
        self.may = asyncio.Event()
        self.may.set()

    async def __call__(self) -> int:
        self.asked += 1
        await self.may.wait()
        if self.asked == 4:
            raise RuntimeError("text of a request")
        return self.asked


async def test_many_who_want_to_know_ask_once_and_a_recent_answer_serves_them() -> None:
    clock, question = Clock(), Question()
    recent = Recent("the time", question, clock)
    assert await asyncio.gather(*(recent.within(1.0, 5.0) for _ in range(20))) == [1] * 20
    clock.now_s += 0.9
    assert await recent.within(1.0, 5.0) == 1
    clock.now_s += 0.1
    assert await recent.within(1.0, 5.0) == 2


async def test_who_has_no_patience_gets_the_old_answer_and_its_age() -> None:
    clock, question = Clock(), Question()
    recent = Recent("the time", question, clock)
    await recent.within(0.0, 5.0)
    question.may.clear()
    clock.now_s += 7
    assert await recent.within(1.0, 0.01) == 1
    assert await recent.within(1.0, 0.01) == 1
    assert (recent.age_s, question.asked) == (7, 2), "the first question is still open"
    question.may.set()
    assert await recent.within(1.0, 5.0) == 2


async def test_a_failure_is_remembered_until_there_is_an_answer(caplog: object) -> None:
    recent = Recent("the time", Question(), Clock())
    for _ in range(4):
        await recent.within(0.0, 5.0)
    assert (recent.answer, str(recent.error)) == (3, "text of a request")
    assert "text of a request" not in caplog.text  # type: ignore[attr-defined]
    await recent.within(0.0, 5.0)
    assert (recent.answer, recent.error) == (5, None)


async def test_who_leaves_does_not_end_the_question_of_the_others() -> None:
    question = Question()
    question.may.clear()
    recent = Recent("the time", question, Clock())
    leaves, stays = (asyncio.create_task(recent.within(1.0, 5.0)) for _ in range(2))
    await asyncio.sleep(0)
    leaves.cancel()
    await asyncio.sleep(0)
    question.may.set()
    assert await stays == 1
