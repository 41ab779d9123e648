"""Simulated signals have the strength that is asked for, and go with the answers."""

from __future__ import annotations

import httpx
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from apportion.deployments.config.models import ModelConfig
from apportion.deployments.config.simulated import SimulatedSignals
from apportion.deployments.engine.simulated import SimulatedEngine
from apportion.deployments.engine.simulated_signals import simulated_confidence
from apportion.deployments.wire.engine_headers import SIGNALS_ASKED_HEADER
from apportion.deployments.wire.settlement import SettledStream, settled_of
from apportion.router.signals import wrong_signals
from tests.deployments.ingress.dispatching import PATH

PLAYED = {"auc": 0.8, "success": 0.3, "wrong_answer": "no"}


@pytest.mark.parametrize("auc", [0.5, 0.7, 0.9])
def test_signals_tell_right_from_wrong_as_well_as_is_said(auc: float) -> None:
    drawn = [simulated_confidence(SimulatedSignals(auc=auc, success=0.3), "m", f"{i}") for i in range(20_000)]
    right, signals = (np.array(one) for one in zip(*drawn, strict=True))
    assert right.mean() == pytest.approx(0.3, abs=0.015)
    assert not wrong_signals(signals).any()
    for column in signals.T:
        assert roc_auc_score(right, column) == pytest.approx(auc, abs=0.015)


@pytest.mark.parametrize("played", [PLAYED, None])
async def test_answers_are_right_or_wrong_and_ingresses_that_ask_hear_how_sure(played: dict[str, float] | None) -> None:
    simulated = {"answer": "yes", "signals": played}
    stated = {"name": "m", "source": "x", "engine": "simulated", "simulated": simulated, "max_model_len": 1000}
    model = ModelConfig.model_validate(stated | {"input_usd_per_million": 1, "output_usd_per_million": 1})
    body = {"messages": [{"role": "user", "content": "hm?"}], "max_tokens": 2}
    played_app = httpx.ASGITransport(SimulatedEngine(model).app)
    async with httpx.AsyncClient(transport=played_app, base_url="http://m") as engine:
        quiet = await engine.post(PATH, json=body)
        asked = await engine.post(PATH, json=body, headers={SIGNALS_ASKED_HEADER: "1"})
        stream = await engine.post(PATH, json=body | {"stream": True}, headers={SIGNALS_ASKED_HEADER: "1"})
    passed = SettledStream(told=False)
    passed.passed(stream.content)
    told = [settled_of(quiet.headers), settled_of(asked.headers), passed.settled]
    if played is None:
        right, expected = True, [None] * 3
    else:
        right, signals = simulated_confidence(
            SimulatedSignals.model_validate(played), "m", '[{"role": "user", "content": "hm?"}]'
        )
        expected = [None, pytest.approx(signals, rel=1e-5), pytest.approx(signals, rel=1e-5)]
    assert asked.json()["choices"] == quiet.json()["choices"]
    assert asked.json()["choices"][0]["message"]["content"] == ("yes" if right else "no")
    assert [one and one.signals for one in told] == expected
