"""Another Apportion is somebody else's model like any other: the real service, asked by an external model's port."""

from __future__ import annotations

import json
from typing import Any

import pytest

from apportion.deployments.config.models import ModelConfig
from apportion.router.prices import ModelPrice
from tests.deployments.engine.external.asking import CHAT, asker
from tests.deployments.service import Service

pytestmark = [pytest.mark.ray, pytest.mark.timeout(420)]

ASKED: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"max_tokens": 5, "top_k": 1}),
    (CHAT, {"max_tokens": 5, "stream": True}),
    ("/v1/completions", {"prompt": "2 + 3 =", "max_tokens": 3}),
    ("/v1/completions", {"prompt": "2 + 3 =", "max_tokens": 3, "stream": True}),
    ("/v1/responses", {"input": "What is 2 plus 3?", "max_output_tokens": 5}),
    ("/v1/responses", {"input": "What is 2 plus 3?", "max_output_tokens": 5, "stream": True}),
    ("/v1/messages", {"messages": [{"role": "user", "content": "What is 2 plus 3?"}], "max_tokens": 5}),
    ("/v1/messages", {"messages": [{"role": "user", "content": "What is 2 plus 3?"}], "max_tokens": 5, "stream": True}),
]


def there(service: Service, model: str, **fields: Any) -> ModelConfig:
    served = next(one for one in service.document["applications"][0]["args"]["models"] if one["name"] == "finch")
    prices = {name: served[name] for name in served if name.endswith("_usd_per_million")}
    endpoints = ["chat", "completions", "responses", "messages"]
    external = {"base_url": f"{service.url}/v1", "model": model, "fields": "vllm", "endpoints": endpoints}
    return ModelConfig.model_validate({"name": "big", "engine": "external", **prices, "external": external | fields})


async def test_it_answers_everywhere_and_costs_what_it_counts(service: Service) -> None:
    model = there(service, "finch")
    assert isinstance(model.price, ModelPrice)
    async with asker(model) as asking:
        for path, fields in ASKED:
            answer = await asking.ask(path, **fields)
            assert answer.status == 200, (path, answer.body)
            assert answer.nano > 0, path
            assert "estimated" not in str(answer.headers) + answer.body.decode()
            assert answer.headers["x-router-upstream-id"]
        told = json.loads((await asking.ask(max_tokens=5)).body)["usage"]
        answer = await asking.ask(max_tokens=5)
        cached = answer.told["usage"]["prompt_tokens_details"]["cached_tokens"]
        cost_usd = model.price.cost_usd(told["prompt_tokens"], told["completion_tokens"], cached)
        assert answer.nano == pytest.approx(1e9 * cost_usd, abs=1)


async def test_its_errors_are_this_services_errors(service: Service) -> None:
    async with asker(there(service, "finch")) as asking:
        answer = await asking.ask(messages=[])
        assert (answer.status, answer.told["error"]["param"]) == (400, "messages")
    async with asker(there(service, "nothing")) as asking:
        answer = await asking.ask()
        assert (answer.status, asking.engine.trouble) == (503, "credentials refused")
