"""`train` and `evaluate` on outcomes as people have them: chats, prompts that occur again, failures left out."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from apportion.deployments.cli import app

PRICES = {"small": (0.1, 0.1), "large": (1.0, 3.0)}
QUICK = ("--members", "2", "--compare-rows", "0")


def _row(query_id: str, prompt: Any, model: str, score: float | None) -> dict[str, Any]:
    usd_in, usd_out = PRICES[model]
    return {
        "query_id": query_id,
        "prompt": prompt,
        "model": model,
        "score": score,
        "input_tokens": 12,
        "output_tokens": 4,
        "input_price_per_1M": usd_in,
        "output_price_per_1M": usd_out,
    }


def _save(rows: Sequence[dict[str, Any]], file: Path) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def _sums(n: int = 160) -> list[tuple[str, float, float]]:
    """Prompts with the scores of both models: the small one manages few digits, the large one most."""
    rng = np.random.default_rng(0)
    digits = rng.integers(1, 6, n)
    return [
        (f"What is {i}{'7' * d} plus {d}?", float(d < 3), float(d < 5 or i % 3 == 0))
        for i, d in enumerate(digits.tolist())
    ]


def _run(command: str, file: Path, encoder: Path, *more: str) -> Result:
    result = CliRunner().invoke(
        app, [command, "--data", str(file), "--encoder", str(encoder), "--device", "cpu", *more]
    )
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.parametrize("form", ["chat", "printed chat", "printed list"])
def test_a_predictor_of_chats_is_the_one_of_the_same_prompts(tmp_path: Path, encoder_folder: Path, form: str) -> None:
    forms: dict[str, Any] = {
        "plain": lambda text: text,
        "chat": lambda text: [{"role": "user", "content": text}],
        "printed chat": lambda text: repr([{"role": "user", "content": text}]),
        "printed list": lambda text: repr([text]),
    }
    predicted = []
    for name in ("plain", form):
        rows = [
            _row(f"q{i}", forms[name](text), model, score)
            for i, (text, *scores) in enumerate(_sums())
            for model, score in zip(PRICES, scores, strict=True)
        ]
        out = tmp_path / name.replace(" ", "_")
        _run("train", _save(rows, tmp_path / "x.jsonl"), encoder_folder, *QUICK, "--out", str(out))
        found = CliRunner().invoke(app, ["predict", str(out), "What is 19 plus 7?", "--json", "-", "--device", "cpu"])
        predicted.append(json.loads(found.stdout))
    assert predicted[0] == predicted[1]


def test_failures_that_were_recorded_as_gaps_are_told(tmp_path: Path, encoder_folder: Path) -> None:
    rows = [
        row
        for i, (text, small, large) in enumerate(_sums())
        for row in (_row(f"q{i}", text, "small", small), _row(f"q{i}", text, "large", large or None))
    ]
    file = _save(rows, tmp_path / "x.jsonl")
    result = _run("train", file, encoder_folder, *QUICK, "--out", str(tmp_path / "a"), "--json", "-")
    told, unseen = json.loads(result.stdout)["warnings"]
    assert "hardly any of the" in unseen
    assert told.startswith("all that is known of 'large' is success, and ")
    assert "score 0" in told
    assert f"Warning: {told}" in result.stderr


def test_prompts_that_occur_again_are_named_and_teach_nothing(tmp_path: Path, encoder_folder: Path) -> None:
    """Scores are coin tosses a prompt, each prompt four times: nothing can be learnt, so nothing must be gained."""
    rng = np.random.default_rng(1)
    words = ["".join(rng.choice(list(string.ascii_lowercase), 12)) for _ in range(150)]
    tosses = (rng.random((150, 2)) < [0.4, 0.6]).astype(float)
    rows = [
        _row(f"d{copy}-{i}", word, model, float(score))
        for copy in range(4)
        for i, word in enumerate(words)
        for model, score in zip(PRICES, tosses[i], strict=True)
    ]
    file = _save(rows, tmp_path / "x.jsonl")
    gains = []
    for group in ([], ["--group", "query_id"]):
        options = ("--compare-rows", "0", "--estimator", "knn-1", "--arm", "mip", "--seeds", "4", "--json", "-", *group)
        result = _run("evaluate", file, encoder_folder, *options)
        assert "600 of 600 requests have a prompt that another one has too (150 prompts" in result.stderr
        assert ("too good" in result.stderr) == bool(group)
        half = [row for row in json.loads(result.stdout) if row["arm"] == "mip" and row["budget_fraction"] == 0.5]
        gains.append(np.mean([row["score"] - row["best_single_score"] for row in half]))
    assert gains[0] < 0
    assert gains[1] > gains[0] + 0.08  # what neighbours with the same prompt pretend
