"""Profiles beside the numbers of vLLM that are kept, and beside published speeds."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from benchmarks.experiments.report import to_json
from benchmarks.load.report import page
from benchmarks.profiles import report
from benchmarks.profiles.models import MODELS
from benchmarks.profiles.published import STEPS, THROUGHPUTS
from benchmarks.profiles.run import (
    ABOVE,
    BELOW,
    MANY_SEQUENCES,
    ONE_SEQUENCE,
    architectures,
    compare_sizes,
    step_ms,
    throughput,
)
from tests.paths import ROOT

RESULT = ROOT / "docs" / "results" / "profiles.json"
# One of each family, small ones: the others are on the page.
QUICK = (
    "Qwen2.5-0.5B",
    "Llama-3.1-8B",
    "Llama-3.1-8B w4a16",
    "Mistral-7B-v0.1",
    "Qwen3-0.6B FP8",
    "Gemma-3-1B",
    "gpt-oss-20b",
    "DeepSeek-V2-Lite",
    "Granite-4.0-H-Tiny",
    "Nemotron-H-8B",
    "LFM2-1.2B",
)


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RESULT.read_text())
    return found


def test_sizes_are_those_of_vllm(result: dict[str, Any]) -> None:
    found = architectures({name: MODELS[name] for name in QUICK})
    rows = compare_sizes(found, result["engine"])
    assert {row["model"] for row in rows} == set(QUICK)
    for row in rows:
        for ours, theirs in (("weight_bytes", "engine_weight_bytes"), ("cache_bytes", "engine_cache_bytes")):
            assert (1 - BELOW) * row[theirs] <= row[ours] <= (1 + ABOVE) * row[theirs], (
                row["model"],
                row["gpus"],
                ours,
            )


def test_speeds_are_within_what_is_promised() -> None:
    names = ("Llama-3.1-8B", "Qwen2.5-0.5B", "Qwen3-8B", "Qwen3-8B FP8-dynamic", "Mistral-7B-v0.3", "Llama-3.1-8B FP8")
    found = architectures({name: MODELS[name] for name in names})
    steps = [step_ms(found[one.model], one) / one.ms for one in STEPS if one.model in found]
    many = [throughput(found[one.model], one) / one.tokens_per_s for one in THROUGHPUTS if one.model in found]
    assert len(steps) >= 5
    assert len(many) >= 15
    assert all(1 / ONE_SEQUENCE <= ratio <= ONE_SEQUENCE for ratio in steps), steps
    assert all(1 / MANY_SEQUENCES <= ratio <= MANY_SEQUENCES for ratio in many), many


def test_the_kept_result_holds_what_is_promised(result: dict[str, Any]) -> None:
    assert len(MODELS) >= 40
    assert {row["model"] for row in result["fits"]} == set(MODELS)
    assert Counter(row["gpus"] for row in result["sizes"]).most_common()[-1][1] >= 40
    for row in result["sizes"]:
        assert -BELOW <= row["weight_bytes"] / row["engine_weight_bytes"] - 1 <= ABOVE, row
        assert -BELOW <= row["cache_bytes"] / row["engine_cache_bytes"] - 1 <= ABOVE, row
    assert len(result["steps"]) + len(result["throughputs"]) >= 20
    assert all(1 / ONE_SEQUENCE <= row["ratio"] <= ONE_SEQUENCE for row in result["steps"])
    assert all(1 / MANY_SEQUENCES <= row["ratio"] <= MANY_SEQUENCES for row in result["throughputs"])


def test_the_page_is_that_of_the_result(result: dict[str, Any]) -> None:
    assert RESULT.with_suffix(".md").read_text() == page(json.loads(to_json(result)), report, "profiles")
