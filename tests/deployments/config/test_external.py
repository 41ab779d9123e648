"""The section of a model that somebody else runs."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from apportion.allocation.models import Quota
from apportion.deployments.app import engine_name
from apportion.deployments.config.models import ModelConfig
from apportion.router.batch.capabilities import Capabilities
from apportion.router.prices import ModelPrice

EXTERNAL: dict[str, Any] = {"base_url": "https://api.example.com/v1/", "model": "vendor-1", "api_key_env": "VENDOR_KEY"}
MODEL: dict[str, Any] = {
    "name": "big",
    "engine": "external",
    "input_usd_per_million": 2.5,
    "output_usd_per_million": 10,
    "cached_input_usd_per_million": 1.25,
    "max_model_len": 128_000,
    "external": EXTERNAL,
}


def read(external: dict[str, Any] | None = None, **fields: Any) -> ModelConfig:
    return ModelConfig.model_validate(MODEL | {"external": EXTERNAL | (external or {})} | fields)


def test_what_a_model_of_somebody_elses_is() -> None:
    model = read()
    assert model.external is not None
    assert model.external.base_url == "https://api.example.com/v1"
    assert model.price == ModelPrice(2.5, 10, 1.25)
    assert model.all_capabilities == Capabilities(
        chat=1, tools=1, tool_choice=1, parallel_tool_calls=1, structured_outputs=1, logprobs=20
    )
    (group,) = model.groups
    assert (group.num_gpus, group.num_cpus, group.num_replicas, engine_name(model, group)) == (0, 0.2, 1, "Engine-big")
    assert model.tokenizer_source.source is None


def test_a_plan_knows_what_its_accounts_take_together() -> None:
    spec = read({"requests_per_minute": 60, "tokenizer": "org/tokens"}, max_num_seqs=8).spec()
    assert (spec.quota, spec.source) == (Quota(8, 60, None), "org/tokens")
    limits = {"requests_per_minute": 60, "tokens_per_minute": 1000}
    accounts = [{"name": "a", **limits}, {"name": "b", **limits, "tokens_per_minute": None}]
    external = {"base_url": "http://h/v1", "model": "v", "accounts": accounts}
    both = ModelConfig.model_validate(MODEL | {"max_num_seqs": 8, "external": external}).spec()
    assert (both.quota, both.source) == (Quota(16, 120, None), "")
    with pytest.raises(ValidationError, match="min_replicas"):
        read(min_replicas=1)


def test_where_it_answers_is_what_it_can_do() -> None:
    can = read({"endpoints": ["chat", "completions", "responses", "messages"]}).all_capabilities
    assert (can.completions, can.responses, can.messages, can.tokenize) == (1, 1, 1, 0)
    embeds = read({"endpoints": ["embeddings"]}, output_usd_per_million=0)
    assert embeds.all_capabilities == Capabilities(embeddings=1)
    assert read(capabilities={"tools": False, "images": 2, "tokens_per_image": 1000}).all_capabilities.images == 2


def test_each_account_is_a_replica_with_its_own_key_and_limits() -> None:
    accounts = [{"name": "a", "api_key_env": "A", "requests_per_minute": 60}, {"name": "b", "api_key_file": "/run/b"}]
    model = ModelConfig.model_validate(
        MODEL | {"external": {"base_url": "http://h/v1", "model": "v", "accounts": accounts}}
    )
    assert [engine_name(model, group) for group in model.groups] == ["Engine-big-a", "Engine-big-b"]
    own = [model.of_group(group).external for group in model.groups]
    assert [(one.api_key_env, str(one.api_key_file), one.requests_per_minute, one.accounts) for one in own if one] == [
        ("A", "None", 60, None),
        (None, "/run/b", None, None),
    ]
    assert model.external is not None
    assert model.external.variables == ("A",)


@pytest.mark.parametrize(
    ("external", "fields", "said"),
    [
        ({"base_url": "api.example.com"}, {}, "give the address before /chat/completions"),
        ({"base_url": "https://user:pass@h/v1"}, {}, "keys come by api_key_env"),
        ({"api_key_file": "/run/key"}, {}, "give one of them"),
        ({"accounts": [{"name": "a"}]}, {}, "belong into the accounts"),
        ({"headers": {"x-api-key": "sk-123"}}, {}, "put it into the environment"),
        ({"headers": {"content-length": "1"}}, {}, "cannot be set"),
        ({"tokenizer": "zoo:nobody"}, {}, "nobody"),
        ({}, {"source": "org/m"}, "source'] say nothing of an external model"),
        ({}, {"num_gpus": 1}, "num_gpus'] say nothing"),
        ({}, {"num_replicas": 2}, "num_replicas'] say nothing"),
        ({}, {"env": {"VENDOR_KEY": "sk-123"}}, "Ray's dashboard shows"),
        ({}, {"capabilities": {"completions": True}}, "external.endpoints says"),
        ({}, {"engine": "vllm", "source": "org/m"}, "go together"),
    ],
)
def test_what_cannot_be_meant_is_told(external: dict[str, Any], fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        read(external, **fields)


def test_no_error_shows_a_key() -> None:
    with pytest.raises(ValidationError) as found:
        read({"headers": {"authorization": "Bearer sk-secret"}})
    assert "sk-secret" not in str(found.value.errors()[0]["ctx"]["error"])


def test_other_engines_still_need_a_source() -> None:
    with pytest.raises(ValidationError, match="source: missing"):
        ModelConfig.model_validate({"name": "m", "input_usd_per_million": 1, "output_usd_per_million": 1})
