"""Prompts are counted as the engine's arguments say."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from apportion.deployments.config.models import ModelConfig
from apportion.router.prediction.tokens import TokenizerSource

MODEL = {"name": "m", "source": "org/m", "input_usd_per_million": 1.0, "output_usd_per_million": 1.0}


def read(**arguments: Any) -> ModelConfig:
    return ModelConfig.model_validate(MODEL | {"engine_args": arguments})


def test_the_engines_arguments_decide() -> None:
    assert read().tokenizer_source == TokenizerSource("org/m")
    source = read(
        tokenizer="org/other",
        tokenizer_revision="abc",
        revision="def",
        tokenizer_mode="hf",
        trust_remote_code=True,
        chat_template="/templates/x.jinja",
        chat_template_content_format="string",
        default_chat_template_kwargs={"enable_thinking": False},
    ).tokenizer_source
    assert source == TokenizerSource(
        "org/other", "abc", True, "/templates/x.jinja", "string", {"enable_thinking": False}
    )
    assert read(revision="def").tokenizer_source.revision == "def"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"tokenizer_mode": "mistral"}, "tokenizer_mode 'mistral'"),
        ({"skip_tokenizer_init": True}, "skip_tokenizer_init"),
        ({"chat_template_content_format": "x"}, "chat_template_content_format"),
        ({"default_chat_template_kwargs": [1]}, "default_chat_template_kwargs"),
    ],
)
def test_what_cannot_be_counted_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        read(**arguments)


def test_groups_of_a_model_count_alike() -> None:
    groups = [{"name": "a", "engine_args": {"tokenizer": "x"}}, {"name": "b"}]
    with pytest.raises(ValidationError, match="of all groups must be the same"):
        ModelConfig.model_validate(MODEL | {"replica_groups": groups})
    groups[1]["engine_args"] = {"tokenizer": "x"}
    assert ModelConfig.model_validate(MODEL | {"replica_groups": groups}).tokenizer_source.source == "x"
