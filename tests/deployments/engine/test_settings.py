"""What engines are started with."""

from __future__ import annotations

from typing import Any

import pytest

from apportion.deployments.config.models import ModelConfig
from apportion.deployments.engine.settings import environment, with_defaults


def model(**fields: Any) -> ModelConfig:
    values = {"name": "m", "source": "zoo:wren", "input_usd_per_million": 1, "output_usd_per_million": 1}
    return ModelConfig.model_validate(values | {"max_model_len": 256} | fields)


@pytest.mark.parametrize("num_gpus", [0, 1])
def test_an_engine_fetches_nothing_that_a_client_names(num_gpus: int) -> None:
    started = with_defaults(model(num_gpus=num_gpus))
    assert started.engine_args["allowed_media_domains"] == ["nowhere.invalid"]
    assert environment(started)["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"


def test_a_small_file_cannot_be_a_huge_picture_unless_the_user_says_so() -> None:
    assert environment(model())["VLLM_MAX_IMAGE_PIXELS"] == str(8192 * 8192)
    assert environment(model(env={"VLLM_MAX_IMAGE_PIXELS": "100"}))["VLLM_MAX_IMAGE_PIXELS"] == "100"


def test_what_the_user_sets_stays() -> None:
    started = with_defaults(model(engine_args={"allowed_media_domains": ["pictures.example"], "dtype": "bfloat16"}))
    assert started.engine_args["allowed_media_domains"] == ["pictures.example"]
    assert started.engine_args["dtype"] == "bfloat16"


@pytest.mark.slow  # imports vLLM
def test_vllm_reads_lists_and_leaves_out_what_is_null() -> None:
    engine = pytest.importorskip("apportion.deployments.engine.vllm_engine")
    given = {
        "allowed_media_domains": ["a.example", "b.example"],
        "tokenizer": None,
        "limit_mm_per_prompt": {"image": 0},
    }
    args = engine.parse_engine_args(model(engine_args=given))
    assert args.allowed_media_domains == ["a.example", "b.example"]
    assert args.tokenizer is None
    assert args.limit_mm_per_prompt == {"image": 0}


@pytest.mark.slow  # imports vLLM
def test_vllm_refuses_urls_then() -> None:
    media = pytest.importorskip("vllm.multimodal.media")
    engine = pytest.importorskip("apportion.deployments.engine.vllm_engine")
    args = engine.parse_engine_args(with_defaults(model()))
    connector = media.MediaConnector(allowed_media_domains=args.allowed_media_domains)
    with pytest.raises(ValueError, match="allowed domains"):
        connector.fetch_image("http://127.0.0.1:9/secret.png")
