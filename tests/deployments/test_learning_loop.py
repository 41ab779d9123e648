"""The loop closes: what was served and judged trains the predictor that the recorded outcomes train.

Requests of the zoo's recorded table go through ingress and Router; an engine plays the models' recorded answers, and
callers judge them by the recorded scores. The table that comes out is the recorded one but for the cells that nobody
saw, so what is trained on it differs from the zoo's predictor by nothing but which answers were sampled.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from apportion.deployments.config.models import resolve_source
from apportion.deployments.wire.engine_headers import REQUEST_HEADER
from apportion.deployments.wire.settlement import Settled, price_of, settled_headers
from apportion.router.calibration import brier_score
from apportion.router.outcomes.files import read_outcomes
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.head_training import HeadEstimator
from apportion.router.prediction.predictor import Predictor
from apportion.router.prediction.training import train_predictor
from apportion.router.prices import ModelPrice
from apportion.router.records.join import join
from apportion.router.records.store import Store
from tests.deployments.test_feedback import Served
from tests.paths import ROOT

SERVED, HELD_OUT = 500, 400
AT_ONCE = 8
RECIPE = HeadEstimator(members=2, max_epochs=100)


@pytest.fixture(scope="module")
def recorded() -> OutcomesTable:
    """Different prompts that are nothing beside their words, with every model's outcome."""
    table = read_outcomes(ROOT / "benchmarks/zoo/recorded")
    plain = np.array([traits == (0, 0, 0, 0, 1, 0) for traits in table.traits]) & np.isfinite(table.scores).all(axis=1)
    first = np.zeros(len(table), dtype=bool)
    first[np.unique(table.prompt_groups, return_index=True)[1]] = True
    return table.subset(np.random.default_rng(0).permutation(np.flatnonzero(plain & first))[: SERVED + HELD_OUT])


def playing(table: OutcomesTable) -> Starlette:
    """An engine of all models, which answers with as many tokens as were recorded."""
    rows = {prompt: row for row, prompt in enumerate(table.prompts)}

    async def answer(request: Request) -> Response:
        body = await request.json()
        row, column = rows[body["messages"][0]["content"]], table.models.index(body["model"])
        tokens = int(table.input_tokens[row, column]), int(table.output_tokens[row, column])
        cost_usd = price_of(request.headers, ModelPrice(0, 0)).cost_usd(*tokens)
        told = {"id": f"chatcmpl-{request.headers[REQUEST_HEADER]}", "choices": []}
        return JSONResponse(told, headers=settled_headers(Settled(cost_usd, *tokens)))

    return Starlette(routes=[Route("/v1/chat/completions", answer, methods=["POST"])])


async def serve(client: httpx.AsyncClient, table: OutcomesTable) -> np.ndarray[Any, Any]:
    """Asks every prompt, each of some model, and judges each answer by what is recorded; where each went."""
    places, chosen = asyncio.Semaphore(AT_ONCE), np.zeros(len(table), dtype=np.int64)
    wanted = np.random.default_rng(1).choice(table.models, len(table)).tolist()

    async def ask(row: int) -> None:
        async with places:
            body: dict[str, Any] = {"messages": [{"role": "user", "content": table.prompts[row]}], "max_tokens": 64}
            body["routing"] = {"models": [wanted[row]]}
            answer = await client.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            chosen[row] = table.models.index(answer.headers["x-router-model"])
            said = {"id": answer.json()["id"], "key": "rating", "value": float(table.scores[row, chosen[row]])}
            told = await client.post("/v1/feedback", json=said)
            assert told.status_code == 202, told.text

    await asyncio.gather(*(ask(row) for row in range(len(table))))
    return chosen


def masked(table: OutcomesTable, chosen: np.ndarray[Any, Any]) -> OutcomesTable:
    """The recorded outcomes of the cells that were served."""
    seen = chosen[:, None] == np.arange(len(table.models))
    cells = {name: np.where(seen, getattr(table, name), np.nan) for name in ("scores", "input_tokens", "output_tokens")}
    return replace(table, cost_usd=np.where(seen, table.cost_usd, np.nan), **cells)


async def test_what_was_served_and_judged_trains_what_the_recorded_outcomes_train(
    recorded: OutcomesTable, tmp_path: Path
) -> None:
    asked, held_out = recorded.subset(range(SERVED)), recorded.subset(range(SERVED, SERVED + HELD_OUT))
    served = Served(tmp_path)
    async with served.running(playing(asked)) as client:
        chosen = await serve(client, asked)
    joined = join(Store.open(str(served.records)), "rating")

    assert joined.judged == joined.answered == SERVED
    order = [asked.prompts.index(prompt) for prompt in joined.table.prompts]
    assert sorted(order) == list(range(SERVED))
    # In the order of the questions: what is trained depends on it a little, and which answers came first is luck.
    found, same = joined.table.select_models(asked.models).subset(np.argsort(order)), masked(asked, chosen)
    for name in ("scores", "input_tokens", "output_tokens"):
        np.testing.assert_array_equal(getattr(found, name), getattr(same, name))
    assert found.traits == same.traits

    encoder = Predictor.load(resolve_source("zoo:predictor"), device="cpu").encoder
    learned, expected = (train_predictor(table, encoder, estimator=RECIPE) for table in (found, same))
    predicted = [one.predict(held_out.prompts).calibrated_success for one in (learned, expected)]
    np.testing.assert_allclose(predicted[0], predicted[1], atol=1e-6)
    # And it has learned: better than every model's mean, on prompts that it has not seen.
    means = np.tile(np.nanmean(found.scores, axis=0), (HELD_OUT, 1))
    assert brier_score(predicted[0], held_out.scores) < 0.93 * brier_score(means, held_out.scores)
