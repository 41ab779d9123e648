"""`apportion collect --signals`: what tells log-probabilities is recorded with how sure it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apportion.router.outcomes import read_outcomes
from tests.deployments.collect.command import run
from tests.deployments.collect.openai_server import FakeOpenAI

FIRST, SECOND = [-0.5, -1.0, -0.9, 2.0], [-1.0, -2.0, -1.8, 2.0]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
@pytest.mark.parametrize("completions", [[], ["--completions"]])
def test_answers_are_recorded_with_how_sure_their_models_were(
    server: FakeOpenAI, prompts: Path, tmp_path: Path, suffix: str, completions: list[str]
) -> None:
    out = tmp_path / f"o{suffix}"
    result = run(server, prompts, out, "good,bad", "--signals", *completions)
    table = read_outcomes(out)
    assert table.signals is not None
    np.testing.assert_allclose(table.signals[:, table.models.index("good")], [FIRST] * 5)
    assert np.isnan(table.signals[:, table.models.index("bad")]).all()
    assert "'bad' told no log-probabilities with any answer" in " ".join(result.stderr.split())
    assert "'good' told" not in result.stderr


def test_several_samples_have_their_mean_and_nothing_is_asked_that_is_not_wanted(
    server: FakeOpenAI, prompts: Path, tmp_path: Path
) -> None:
    run(server, prompts, tmp_path / "plain.jsonl", "good")
    assert read_outcomes(tmp_path / "plain.jsonl").signals is None
    assert not [body for body in server.asked if "logprobs" in body]
    server._answered.clear()
    run(server, prompts, tmp_path / "o.jsonl", "good", "--signals", "--samples", "2")
    signals = read_outcomes(tmp_path / "o.jsonl").signals
    assert signals is not None
    np.testing.assert_allclose(signals[:, 0], [np.mean([FIRST, SECOND], axis=0)] * 5)


def test_what_was_answered_before_stays_as_it_was(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    run(server, prompts, out, "good")
    result = run(server, prompts, out, "good,odd", "--signals")
    table = read_outcomes(out)
    assert len(server.asked) == 10
    assert table.signals is not None
    assert np.isnan(table.signals[:, table.models.index("good")]).all()
    assert np.isfinite(table.signals[:, table.models.index("odd")]).all()
    assert "'good' told no log-probabilities" in " ".join(result.stderr.split())
