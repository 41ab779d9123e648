"""Every experiment, once, at its smoke size, on a small outcomes table with a tiny real encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.quality.cache import Cache
from benchmarks.quality.context import Context
from benchmarks.quality.registry import available
from benchmarks.quality.report import experiment
from tests.router.conftest import make_outcomes, save_encoder


@pytest.fixture(scope="session")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder = tmp_path_factory.mktemp("experiments")
    make_outcomes(240, seed=3).save(folder / "data" / "toy")
    (folder / "encoder").mkdir()
    encoder = save_encoder(folder / "encoder", seed=0)
    return Context(folder / "data", Cache(folder / "cache"), str(encoder), seeds=2, smoke=True)


@pytest.fixture(scope="session")
def results(context: Context, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all experiments wrote to."""
    folder = tmp_path_factory.mktemp("docs") / "results"
    for name in available():
        experiment(name, context, folder)
    return folder


@pytest.fixture(scope="session")
def found(results: Path) -> dict[str, dict[str, Any]]:
    """The results by name, as they are on disk."""
    return {name: json.loads((results / f"{name}.json").read_text()) for name in available()}
