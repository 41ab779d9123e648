"""Every experiment, once, at its smoke size, on a small outcomes table with a tiny real encoder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from apportion.router.outcomes import write_outcomes
from benchmarks.experiments.cache import Cache
from benchmarks.experiments.context import Context
from benchmarks.experiments.report import experiment
from tests.samples import make_outcomes, save_encoder


@pytest.fixture(scope="session")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder = tmp_path_factory.mktemp("experiments")
    write_outcomes(make_outcomes(240, seed=3), folder / "data" / "toy")
    (folder / "encoder").mkdir()
    encoder = save_encoder(folder / "encoder", seed=0)
    return Context(folder / "data", Cache(folder / "cache"), str(encoder), seeds=2, smoke=True)


@dataclass(frozen=True)
class Results:
    """The folder that the experiments write to; each runs when it is first asked for."""

    context: Context
    folder: Path

    def of(self, name: str) -> dict[str, Any]:
        """The result, as it is on disk."""
        file = self.folder / f"{name}.json"
        if not file.exists():
            experiment(name, self.context, self.folder)
        found: dict[str, Any] = json.loads(file.read_text())
        return found


@pytest.fixture(scope="session")
def results(context: Context, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return Results(context, tmp_path_factory.mktemp("docs") / "results")
