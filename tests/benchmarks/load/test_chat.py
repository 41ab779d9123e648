import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from apportion.deployments.config.models import ModelConfig
from apportion.deployments.config.simulated import SimulatedConfig
from apportion.deployments.engine.server import EngineServer
from apportion.deployments.engine.simulated import SimulatedEngine
from benchmarks.load.chat import PATH, Answer, ask, ask_all, chat_session, greedy_chat, spans_ms, time_only

BODY = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}
MODEL = ModelConfig(
    name="small",
    source="none",
    input_usd_per_million=1,
    output_usd_per_million=2,
    engine="simulated",
    max_model_len=64,
    simulated=SimulatedConfig(answer="fine", tokens=4, first_token_s=0.03, token_s=0.01),
)


@contextlib.asynccontextmanager
async def answering(app: Starlette) -> AsyncIterator[str]:
    server = EngineServer(app, "127.0.0.1")
    await server.start()
    try:
        yield server.url + PATH
    finally:
        await server.stop()


async def asked(app: Starlette, **fields: object) -> Answer:
    async with answering(app) as url, aiohttp.ClientSession() as session:
        return await ask(session, url, BODY | fields)


def app_of(endpoint) -> Starlette:
    return Starlette(routes=[Route(PATH, endpoint, methods=["POST"])])


async def test_a_whole_answer_has_text_tokens_model_and_dollars() -> None:
    answer = await asked(SimulatedEngine(MODEL).app)
    assert answer.error == ""
    assert (answer.text, answer.output_tokens, answer.model) == ("fine", 4, "small")
    assert answer.cost_usd is not None
    assert answer.cost_usd > 4 * 2e-6
    assert answer.latency_s >= 0.06
    assert answer.first_token_s is None
    assert answer.gaps_s == []


async def test_a_stream_has_the_times_of_its_tokens_too() -> None:
    answer = await asked(SimulatedEngine(MODEL).app, stream=True)
    assert answer.error == ""
    assert answer.text == "word0 word1 word2 word3 "
    assert answer.output_tokens == 4
    assert answer.cost_usd is not None
    assert answer.first_token_s is not None
    assert 0.03 <= answer.first_token_s < answer.latency_s
    assert len(answer.gaps_s) == 3
    assert all(gap >= 0.005 for gap in answer.gaps_s)
    assert answer.first_token_s + sum(answer.gaps_s) <= answer.latency_s


async def test_what_the_router_says_is_kept() -> None:
    async def endpoint(_: Request) -> Response:
        body = {
            "model": "m",
            "choices": [{"message": {"content": "42"}}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 1},
        }
        headers = {"x-router-model": "finch", "server-timing": "queue;dur=1.25, solve;dur=0.5"}
        return JSONResponse(body, headers=headers)

    answer = await asked(app_of(endpoint))
    assert answer.model == "finch"
    assert answer.spans_ms == {"queue": 1.25, "solve": 0.5}
    assert answer.headers["X-Router-Model"] == "finch"
    assert (answer.status, answer.input_tokens) == (200, 3)
    assert answer.cost_usd is None


async def _refuse(_: Request) -> Response:
    return JSONResponse({"error": {"message": "no slots"}}, status_code=429)


async def _break(_: Request) -> Response:
    async def events() -> AsyncIterator[str]:
        yield 'data: {"choices": [{"delta": {"content": "half"}}]}\n\n'

    return StreamingResponse(events(), media_type="text/event-stream")


async def _fail_late(_: Request) -> Response:
    async def events() -> AsyncIterator[str]:
        yield 'data: {"choices": [{"delta": {"content": "half"}}]}\n\n'
        yield 'data: {"error": {"message": "engine broke off"}}\n\n'
        yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


async def _talk_nonsense(_: Request) -> Response:
    return Response("not JSON")


async def _count_nothing(_: Request) -> Response:
    return JSONResponse({"choices": [{"message": {"content": "42"}}]})


@pytest.mark.parametrize(
    ("endpoint", "stream", "said"),
    [
        (_refuse, False, "429"),
        (_refuse, True, "429"),
        (_break, True, "[DONE]"),
        (_fail_late, True, "broke off"),
        (_talk_nonsense, False, "JSON"),
        (_count_nothing, False, "usage"),
    ],
)
async def test_a_failure_is_an_answer_that_says_so(endpoint, stream: bool, said: str) -> None:
    assert said in (await asked(app_of(endpoint), stream=stream)).error


async def test_a_server_that_is_not_there_is_an_answer_too() -> None:
    async with answering(app_of(_refuse)) as url:
        pass
    async with aiohttp.ClientSession() as session:
        answer = await asyncio.wait_for(ask(session, url, BODY), 5)
    assert answer.error


async def test_many_are_answered_in_their_order_and_so_many_at_a_time() -> None:
    running, most = 0, 0

    async def endpoint(request: Request) -> Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        prompt = (await request.json())["messages"][0]["content"]
        await asyncio.sleep(0.02 if prompt == "0" else 0.0)
        running -= 1
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        return JSONResponse({"choices": [{"message": {"content": prompt}}], "usage": usage})

    async with answering(app_of(endpoint)) as url:
        bodies = [greedy_chat(str(number), "small", 4) for number in range(20)]
        answers = await ask_all(url.removesuffix(PATH), bodies, concurrency=3, timeout_s=5)
    assert [answer.text for answer in answers] == [str(number) for number in range(20)]
    assert most == 3


@pytest.mark.parametrize("stream", [False, True])
async def test_the_cheap_way_tells_times_and_whether_it_went_well(stream: bool) -> None:
    body = json.dumps(BODY | {"stream": stream}).encode()
    async with answering(SimulatedEngine(MODEL).app) as url, chat_session(5) as session:
        sample = await time_only(session, url, body)
    assert sample.ok
    assert 0 < sample.first_byte_s <= sample.latency_s
    assert sample.latency_s >= 0.06
    async with answering(app_of(_refuse)) as url, chat_session(5) as session:
        assert not (await time_only(session, url, body)).ok
    async with chat_session(5) as session:
        assert not (await time_only(session, url, body)).ok


def test_spans_of_no_header() -> None:
    assert spans_ms("") == {}
