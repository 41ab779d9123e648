"""An engine that cannot do what is said of its model does not start to serve."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from apportion.deployments import zoo
from apportion.deployments.config.models import ModelConfig
from apportion.deployments.engine.capabilities import EngineAbilities
from apportion.router.batch.capabilities import Capabilities
from apportion.router.errors import ConfigurationError
from tests.deployments.vision import SQUARE_TOKENS, save_vision_model

PLAIN = Capabilities(chat=1, completions=1, structured_outputs=1, logprobs=20, prompt_logprobs=1)


def model(arguments: dict[str, Any] | None = None, **stated: Any) -> ModelConfig:
    values = {"name": "m", "source": "zoo:wren", "input_usd_per_million": 1, "output_usd_per_million": 0}
    return ModelConfig.model_validate(values | {"engine_args": arguments or {}, "capabilities": stated})


def test_an_engine_that_can_do_more_is_right() -> None:
    EngineAbilities(PLAIN).check(model())
    EngineAbilities(PLAIN._replace(tools=1, images=99), {"image": 5000}).check(model(completions=False))


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"tools": True}, "tools: it parses no tool calls; set engine_args.enable_auto_tool_choice and"),
        ({"embeddings": True, "chat": False, "completions": False}, "embeddings: the model makes none; correct"),
        ({"reasoning": True}, "reasoning_parser, or set capabilities.reasoning: false"),
        ({"images": 2, "tokens_per_image": 9}, "images: it takes 1 of a request; .* set capabilities.images: 1"),
        ({"images": 1, "tokens_per_image": 8}, "tokens_per_image: one is up to 9 tokens, not 8; raise it to 9"),
        ({"audio": 1, "tokens_per_audio": 9}, "audio: it takes 0 of a request"),
    ],
)
def test_what_it_cannot_do_is_named_with_what_to_do(stated: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        EngineAbilities(PLAIN._replace(images=1), {"image": 9}).check(model(**stated))


def test_a_picture_counts_with_what_stands_around_it_where_that_was_measured() -> None:
    engine = EngineAbilities(PLAIN._replace(images=1), {"image": 9, "audio": 5})
    engine.with_pictures_of(None).check(model(images=1, tokens_per_image=9))
    engine.with_pictures_of(8).check(model(images=1, tokens_per_image=8))
    with pytest.raises(ConfigurationError, match="one is up to 12 tokens, not 9"):
        engine.with_pictures_of(12).check(model(images=1, tokens_per_image=9))
    assert engine.with_pictures_of(12).media_tokens["audio"] == 5


def test_a_guessed_chat_template_may_be_missing_and_a_stated_one_may_not() -> None:
    engine = EngineAbilities(PLAIN._replace(chat=0))
    engine.check(model())
    with pytest.raises(ConfigurationError, match="chat: the model has no chat template"):
        engine.check(model(chat=True))


SCRIPT = """
import asyncio, json, sys
from apportion.deployments.config.models import ModelConfig
from apportion.deployments.engine.replica import start_backend
from apportion.deployments.engine.settings import with_defaults
from apportion.router.errors import ConfigurationError

async def main():
    values = {"name": "m", "source": "zoo:wren", "input_usd_per_million": 1, "output_usd_per_million": 1}
    said = {"max_model_len": 256, "capabilities": {"tools": True}}
    narrow = {"count": 1, "width": 80, "height": 40}  # which no client need keep to
    sees = {"source": sys.argv[1], "engine_args": {"limit_mm_per_prompt": {"image": narrow}}}
    too_few = {"capabilities": {"tools": True, "tokens_per_image": 1}}
    try:
        await start_backend(with_defaults(ModelConfig.model_validate(values | said | sees | too_few)))
    except ConfigurationError as error:
        print("REFUSED", error)
    parser = {"enable_auto_tool_choice": True, "tool_call_parser": "hermes", "reasoning_parser": "qwen3"}
    engine = await start_backend(with_defaults(ModelConfig.model_validate(values | said | {"engine_args": parser})))
    print("STARTED")
    engine.close()

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.slow  # starts two engines
def test_a_real_engine_is_looked_at(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    from apportion.deployments.engine.settings import environment

    save_vision_model(tmp_path, zoo.folder_of("zoo:wren"), max_model_len=256)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    ran = subprocess.run(command, env=os.environ | environment(model()), capture_output=True, text=True, timeout=300)
    assert "REFUSED the engine of 'm' differs from its capabilities: tools: it parses no tool calls" in ran.stdout
    assert f"tokens_per_image: one is up to {SQUARE_TOKENS - 1} tokens, not 1" in ran.stdout
    assert "STARTED" in ran.stdout, ran.stderr[-3000:]
