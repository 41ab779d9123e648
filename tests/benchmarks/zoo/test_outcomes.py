from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from apportion.router.outcomes import OutcomesTable, read_outcomes, write_outcomes
from benchmarks.zoo.outcomes import collect
from benchmarks.zoo.tasks import generate
from tests.deployments.collect.openai_server import FakeOpenAI, serving
from tests.paths import ROOT

PROMPTS = 20
ANSWERS = {example.prompt: example.answer for example in generate("predictor", PROMPTS, 0)}


@dataclass
class Zoo(FakeOpenAI):
    """Only the models of `right` answer rightly, in as many tokens as they are."""

    right: tuple[str, ...] = ()

    def _answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any], list[tuple[bytes, bytes]]]:
        said = ANSWERS[body["messages"][-1]["content"]] if body["model"] in self.right else "?"
        usage = {"prompt_tokens": 9, "completion_tokens": len(self.right)}
        return 200, {"choices": [{"message": {"role": "assistant", "content": said}}], "usage": usage}, []


def collected(zoo: Zoo, out: Path, *only: str, prompts: int = PROMPTS) -> OutcomesTable:
    url, config = zoo.url.removesuffix("/v1"), ROOT / "serve_config.yaml"
    how = {"prompts": prompts, "seed": 0, "concurrency": 4}
    return collect(config, url, out, split="predictor", console=Console(quiet=True), only=only, **how)


def test_one_column_can_be_replaced(tmp_path: Path) -> None:
    with serving(Zoo(right=("wren",))) as zoo:
        assert isinstance(zoo, Zoo)
        np.testing.assert_array_equal(collected(zoo, tmp_path).scores, [[1, 0, 0, 0]] * PROMPTS)
        zoo.right = ("finch", "lark")
        zoo.asked.clear()
        collected(zoo, tmp_path, "finch")
        assert {body["model"] for body in zoo.asked} == {"finch"}
        table = read_outcomes(tmp_path)
        np.testing.assert_array_equal(table.scores, [[1, 1, 0, 0]] * PROMPTS)
        np.testing.assert_array_equal(table.output_tokens, [[1, 2, 1, 1]] * PROMPTS)
        np.testing.assert_allclose(table.cost_usd[0], np.array([0.23 * 10, 1.42 * 11, 1.42 * 10, 1.82 * 10]) / 1e6)
        with pytest.raises(ValueError, match="other prompts or models"):
            collected(zoo, tmp_path, "finch", prompts=PROMPTS + 1)
        write_outcomes(table.select_models(["heron", "finch", "wren"]), tmp_path)
        with pytest.raises(ValueError, match="other prompts or models"):
            collected(zoo, tmp_path, "finch")
        np.testing.assert_array_equal(collected(zoo, tmp_path, "lark").scores, [[1, 1, 1, 0]] * PROMPTS)
        with pytest.raises(ValueError, match="no model robin"):
            collected(zoo, tmp_path, "robin")
