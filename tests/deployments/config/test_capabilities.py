"""What a model can do is stated, or told by its engine's arguments."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from apportion.deployments import zoo
from apportion.deployments.config.models import ModelConfig
from apportion.router.batch.capabilities import UNLIMITED, Capabilities

MODEL = {"name": "m", "source": "org/m", "input_usd_per_million": 1.0, "output_usd_per_million": 1.0}
PLAIN = Capabilities(chat=1, completions=1, structured_outputs=1, logprobs=20, responses=1, messages=1, tokenize=1)
NO_CHAT = {"chat": 0, "responses": 0, "messages": 0}
POOLS = {**NO_CHAT, "completions": 0, "structured_outputs": 0, "logprobs": 0}


def read(arguments: dict[str, Any], source: str = "org/m", **stated: Any) -> ModelConfig:
    return ModelConfig.model_validate(MODEL | {"source": source, "engine_args": arguments, "capabilities": stated})


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        ({}, {}),
        ({"tool_call_parser": "hermes"}, {}),  # vLLM needs both
        (
            {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"},
            {"tools": 1, "tool_choice": 1, "parallel_tool_calls": 1},
        ),
        ({"reasoning_parser": "qwen3"}, {"reasoning": 1}),
        ({"max_logprobs": 5}, {"logprobs": 5}),
        ({"max_logprobs": -1}, {"logprobs": UNLIMITED}),
        ({"runner": "pooling"}, {**POOLS, "embeddings": 1}),
        ({"runner": "pooling", "convert": "classify"}, POOLS),
    ],
)
def test_arguments_tell(arguments: dict[str, Any], changes: dict[str, int]) -> None:
    price = 0.0 if changes.get("embeddings") else 1.0
    given = MODEL | {"engine_args": arguments, "output_usd_per_million": price}
    assert ModelConfig.model_validate(given).all_capabilities == PLAIN._replace(**changes)


def test_what_is_stated_wins() -> None:
    parser = {"enable_auto_tool_choice": True, "tool_call_parser": "hermes", "limit_mm_per_prompt": {"image": 4}}
    said = read(parser, tools=False, structured_outputs=False, logprobs=False, images=0, reasoning=True, audio=2,
                tokens_per_audio=9)  # fmt: skip
    assert said.all_capabilities == Capabilities(
        chat=1, completions=1, reasoning=1, audio=2, responses=1, messages=1, tokenize=1
    )
    assert read({}, tools=True, parallel_tool_calls=False).all_capabilities == PLAIN._replace(tools=1, tool_choice=1)
    assert read({}, tool_choice=True).all_capabilities.tools == 1


@pytest.mark.parametrize("limit", [3, {"count": 3, "width": 640, "height": 480}])
def test_pictures_are_as_many_as_the_engine_takes(limit: Any) -> None:
    arguments = {"limit_mm_per_prompt": {"image": limit, "video": 1}}
    model = read(arguments, tokens_per_image=1500)
    assert (model.all_capabilities.images, model.all_capabilities.audio) == (3, 0)
    assert model.served.media_tokens == (1500, 0)
    with pytest.raises(ValidationError, match="tokens_per_image: say how many tokens"):
        read(arguments)


def test_a_folder_without_a_chat_template_answers_no_chats(tmp_path: Path) -> None:
    for file in zoo.folder_of("zoo:wren").glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    assert read({}, source="zoo:wren").all_capabilities == PLAIN._replace(prompt_logprobs=1)
    assert read({}, source=str(tmp_path)).all_capabilities == PLAIN._replace(**NO_CHAT)
    assert read({"chat_template": "{{ messages }}"}, source=str(tmp_path)).all_capabilities == PLAIN
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert read({}, source=str(tmp_path)).all_capabilities == PLAIN


@pytest.mark.parametrize(
    ("config", "arguments", "told"),
    [
        ({"vocab_size": 1035}, {}, True),
        ({"vocab_size": 65536}, {}, True),  # 1 GiB to the byte
        ({"vocab_size": 65537}, {}, False),
        ({"vocab_size": 262144}, {"max_num_batched_tokens": 512}, True),
        ({"text_config": {"vocab_size": 262144}}, {"max_num_batched_tokens": 513}, False),
        ({"vocab_size": "many"}, {}, False),
    ],
)
def test_prompts_are_scored_where_a_steps_table_is_small(
    tmp_path: Path, config: dict[str, Any], arguments: dict[str, Any], told: bool
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert bool(read(arguments, source=str(tmp_path)).all_capabilities.prompt_logprobs) == told
    assert read(arguments, source=str(tmp_path), prompt_logprobs=True).all_capabilities.prompt_logprobs == 1
    assert read(arguments, source=str(tmp_path), prompt_logprobs=False).all_capabilities.prompt_logprobs == 0


def test_the_longest_step_of_all_groups_counts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"vocab_size": 262144}')
    groups = [{"name": str(n), "engine_args": {"max_num_batched_tokens": n}} for n in (256, 4096)]
    values = MODEL | {"source": str(tmp_path), "replica_groups": groups}
    assert ModelConfig.model_validate(values | {"max_model_len": 512}).all_capabilities.prompt_logprobs == 1
    assert ModelConfig.model_validate(values).all_capabilities.prompt_logprobs == 0


def test_kinds_of_calls_are_calls() -> None:
    with pytest.raises(ValidationError, match="kinds of tool calls"):
        read({}, tools=False, tool_choice=True)


def test_groups_of_a_model_can_do_the_same() -> None:
    parser = {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"}
    groups = [{"name": "a", "engine_args": parser}, {"name": "b"}]
    with pytest.raises(ValidationError, match="tool_call_parser of all groups must be the same"):
        ModelConfig.model_validate(MODEL | {"replica_groups": groups})
    groups[1]["engine_args"] = parser
    assert ModelConfig.model_validate(MODEL | {"replica_groups": groups}).all_capabilities.tools == 1


def test_a_simulated_engine_has_the_endpoints_that_it_plays() -> None:
    played = MODEL | {"engine": "simulated", "simulated": {}}
    can = ModelConfig.model_validate(played).all_capabilities
    assert can == PLAIN._replace(responses=0, messages=0, tokenize=0)
    played |= {"engine_args": {"runner": "pooling"}, "output_usd_per_million": 0}
    assert ModelConfig.model_validate(played).all_capabilities == Capabilities(embeddings=1)


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"engine_args": {"runner": "pooling"}}, "set output_usd_per_million: 0"),
        ({"engine_args": {"runner": "pooling"}, "output_usd_per_million": 0, "prior_success": 0.5}, "no prior_success"),
        ({"capabilities": {"embeddings": True}}, "set engine_args.runner: pooling"),
    ],
)
def test_a_model_that_makes_embeddings_answers_nothing(fields: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValidationError, match=wrong):
        ModelConfig.model_validate(MODEL | fields)
