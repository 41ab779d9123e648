"""The Predictor takes another artefact while it answers, and goes back; what cannot take its place does not."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from apportion.deployments.config.models import resolve_source
from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.control.artefacts import Artefacts
from apportion.router.prediction.predictor import Predictor
from tests.deployments.local_router import configuration

PROMPT = ["What is 12 plus 30?"]


@pytest.fixture
def config() -> ServiceConfig:
    return configuration(None)


@pytest.fixture
def other(tmp_path: Path) -> str:
    """The zoo's predictor, sure of nothing."""
    folder = tmp_path / "other"
    shutil.copytree(resolve_source("zoo:predictor"), folder)
    arrays = load_file(str(folder / "weights.safetensors"))
    values = arrays["calibration.bucket_values"]
    arrays["calibration.bucket_values"] = np.ascontiguousarray(0.5 * values)
    save_file(arrays, str(folder / "weights.safetensors"))
    return str(folder)


async def taken(artefacts: Artefacts, name: str) -> None:
    for _ in range(500):
        if artefacts.name == name:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{name} was not taken")


async def test_another_artefact_predicts_as_soon_as_it_is_loaded_and_the_first_one_again(
    config: ServiceConfig, other: str
) -> None:
    artefacts, told = Artefacts(config), []
    first = artefacts.predictor.predict(PROMPT).success
    artefacts.want({"artefact": other}, told.append)
    assert artefacts.predictor.predict(PROMPT).success.tolist() == first.tolist()  # it is not loaded yet
    await taken(artefacts, other)
    second = artefacts.predictor.predict(PROMPT).success
    artefacts.want({"artefact": None}, told.append)
    await taken(artefacts, "zoo:predictor")

    assert (second < first).all()
    assert artefacts.predictor.predict(PROMPT).success.tolist() == first.tolist()
    assert [one.predict(PROMPT).success.tolist() for one in told] == [second.tolist(), first.tolist()]


async def test_the_last_wish_counts(config: ServiceConfig, other: str) -> None:
    artefacts = Artefacts(config)
    for wish in (other, "/nowhere", None, other):
        artefacts.want({"artefact": wish}, lambda _: None)
    await taken(artefacts, other)
    artefacts.want({"artefact": "/nowhere"}, lambda _: None)
    artefacts.want({}, lambda _: None)
    await taken(artefacts, "zoo:predictor")


def of_fewer_models(folder: Path) -> str:
    from dataclasses import replace

    from apportion.router.prediction.calibrated import select

    whole = Predictor.load(resolve_source("zoo:predictor"), device="cpu")
    replace(whole, calibrated=select(whole.calibrated, ["wren", "heron"]), reference=None).save(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (lambda _: {"artefact": "/nowhere"}, "has no artefact.json"),
        (lambda folder: {"artefact": of_fewer_models(folder)}, "it knows wren, heron"),
        (lambda _: {"artefacts": "x"}, "unknown field"),
        (lambda _: "x", "give the field artefact"),
    ],
)
async def test_what_cannot_take_its_place_does_not_and_the_log_says_why(
    config: ServiceConfig,
    tmp_path: Path,
    wish: Callable[[Path], Any],
    said: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    artefacts = Artefacts(config)
    with caplog.at_level(logging.ERROR):
        artefacts.want(wish(tmp_path), lambda _: pytest.fail("it was taken"))
        for _ in range(500):
            if caplog.records:
                break
            await asyncio.sleep(0.02)

    assert said in caplog.text
    assert artefacts.name == "zoo:predictor"
