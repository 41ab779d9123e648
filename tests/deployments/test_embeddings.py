"""Embeddings end to end: OpenAI's own client, the real ingress, Router and predictor, and vLLM with a tiny encoder.

The encoder's weights are random: what is proved is the way, not the vectors.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from apportion.deployments.config.models import ModelConfig
from apportion.deployments.config.service import ServiceConfig, parse_config
from apportion.deployments.control.predictor import Predictor
from apportion.deployments.engine.settings import environment
from apportion.deployments.engine.simulated import SimulatedEngine
from apportion.router.batch.messages import EngineReplica
from tests.deployments.ingress.dispatching import serving
from tests.deployments.ingress.front import Front
from tests.deployments.ingress.whole import whole_service
from tests.samples import save_encoder

CHATS = ("wren", "finch")
USD_PER_TOKEN = 3e-6
TEXTS = ["what is 1 plus 2", "spell a word backwards", "x"]
pytestmark = pytest.mark.timeout(420)  # an engine starts

ENGINE = """
import asyncio, sys
from apportion.deployments.config.models import ModelConfig
from apportion.deployments.engine.replica import start_backend
from apportion.deployments.engine.server import EngineServer
from apportion.deployments.engine.settings import with_defaults

async def main():
    engine = await start_backend(with_defaults(ModelConfig.model_validate_json(sys.argv[1])))
    server = EngineServer(engine.app, "127.0.0.1")
    await server.start()
    await engine.probe()
    print("URL", server.url, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()
    engine.close()

if __name__ == "__main__":
    asyncio.run(main())
"""


def embedder(source: str, **fields: Any) -> dict[str, Any]:
    model = {"name": "bert", "source": source, "max_model_len": 64, "engine_args": {"runner": "pooling"}}
    return model | {"input_usd_per_million": 1e6 * USD_PER_TOKEN, "output_usd_per_million": 0} | fields


def configuration(tmp_path: Path, *embedders: dict[str, Any], **sections: Any) -> ServiceConfig:
    chats = [
        {"name": n, "source": f"zoo:{n}", "input_usd_per_million": 1, "output_usd_per_million": 2, "max_model_len": 256}
        for n in CHATS
    ]
    budget = {"database": f"sqlite:///{tmp_path / 'b.db'}", "limits": sections.pop("limits", [])}
    models = [*chats, *embedders]
    fixed = {"predictor": {"artefact": "zoo:predictor"}, "router": {"host": "127.0.0.1"}, "budget": budget}
    return parse_config({"models": models} | fixed | sections)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_encoder(tmp_path_factory.mktemp("bert"), 0, heads=1))


@pytest.fixture(scope="module")
def engine_url(encoder: str) -> Iterator[str]:
    """A real engine in a process of its own."""
    pytest.importorskip("vllm")
    model = ModelConfig.model_validate(embedder(encoder))
    command = [sys.executable, "-c", ENGINE, model.model_dump_json()]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=os.environ | environment(model), text=True, **pipes) as process:
        lines: list[str] = []
        while not (lines and lines[-1].startswith("URL ")):
            line = process.stdout.readline()
            assert line, process.stderr.read()[-3000:]
            lines.append(line)
        yield lines[-1].split()[1]
        process.stdin.close()


@asynccontextmanager
async def service(config: ServiceConfig, urls: dict[str, str]) -> AsyncIterator[Front]:
    """The service's own parts, with these engines."""
    replicas = [EngineReplica(f"{name}#1", name, url, 64) for name, url in urls.items()]
    async with whole_service(config, replicas, Predictor.func_or_class(config)) as front:
        yield front


def client_of(front: Front) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{front.server.url}/v1", api_key="none", max_retries=0, timeout=60)


async def spent_usd(front: Front) -> float:
    """What the ledger says once nothing is held."""
    async with asyncio.timeout(10):
        while True:
            state = await front.router.router.state()
            if state["in_flight"] == 0 and state["budget"]["reserved_usd"] == 0:
                return float(state["budget"]["spent_usd"])
            await asyncio.sleep(0.05)


async def test_a_real_engine_embeds_what_it_is_paid_for(engine_url: str, encoder: str, tmp_path: Path) -> None:
    config = configuration(tmp_path, embedder(encoder))
    async with service(config, {"bert": engine_url}) as front, client_of(front) as client:
        raw = await client.embeddings.with_raw_response.create(model="bert", input=TEXTS)
        told, headers = raw.parse(), raw.headers
        assert headers["x-router-model"] == told.model == "bert"
        assert "x-router-success" not in headers
        assert told.usage.prompt_tokens == told.usage.total_tokens > len(TEXTS)
        settled_usd = float(headers["x-router-settled-cost-usd"])
        assert settled_usd == pytest.approx(told.usage.prompt_tokens * USD_PER_TOKEN, rel=1e-9)
        assert float(headers["x-router-cost-usd"]) == pytest.approx(settled_usd, rel=1e-5), "counted as its engine does"
        assert await spent_usd(front) == pytest.approx(settled_usd, abs=1e-9)

        vectors = np.array([one.embedding for one in told.data])
        assert vectors.shape == (3, 32)
        assert [one.index for one in told.data] == [0, 1, 2]
        alone = await client.embeddings.create(model="auto", input=TEXTS[0], encoding_format="float")
        assert np.allclose(alone.data[0].embedding, vectors[0], atol=1e-5)
        ids = await client.embeddings.create(model="bert", input=[[2, 5, 3], [2, 6, 3]])
        assert (len(ids.data), ids.usage.prompt_tokens) == (2, 6)

        with pytest.raises(openai.BadRequestError, match="dimensions"):
            await client.embeddings.create(model="bert", input="x", dimensions=16)
        with pytest.raises(openai.BadRequestError, match="maximum context length is 64 tokens"):
            await client.embeddings.create(model="bert", input="a b c d " * 20)
        many = await client.embeddings.create(model="bert", input=["a b c d"] * 100)
        assert len(many.data) == 100, "each has to fit, not all together"
        with pytest.raises(openai.BadRequestError, match="bert: makes embeddings and answers nothing"):
            await client.chat.completions.create(model="bert", messages=[{"role": "user", "content": "hi"}])
        with pytest.raises(openai.BadRequestError, match="wren: makes no embeddings"):
            await client.embeddings.create(model="wren", input="x")
        await spent_usd(front)  # nothing is held


def simulated(name: str = "bert", **timings: Any) -> dict[str, Any]:
    timings = {"tokens": 1, **timings}
    return embedder("zoo:wren", name=name, max_model_len=256, engine="simulated", simulated=timings)


def played(config: ServiceConfig, name: str = "bert") -> Any:
    return SimulatedEngine(next(model for model in config.models if model.name == name)).app


async def test_a_simulated_engine_plays_them_in_both_encodings(tmp_path: Path) -> None:
    config = configuration(tmp_path, simulated())
    async with (
        serving(played(config)) as engine,
        service(config, {"bert": engine.url}) as front,
        client_of(front) as client,
    ):
        packed = await client.embeddings.create(model="auto", input=["ab", "c"], dimensions=4)  # base64, by itself
        plain = await client.embeddings.create(model="auto", input="abc", encoding_format="float", dimensions=4)
        assert packed.data[1].embedding == plain.data[0].embedding == [1.0, 0.0, 0.0, 0.0]
        assert packed.usage.prompt_tokens == plain.usage.prompt_tokens == 3
        assert await spent_usd(front) == pytest.approx(6 * USD_PER_TOKEN)


async def test_one_that_fails_is_tried_elsewhere(tmp_path: Path) -> None:
    config = configuration(tmp_path, simulated())
    async with (
        serving(played(config)) as engine,
        service(config, {"bert": "http://127.0.0.1:1"}) as front,
        client_of(front) as client,
    ):
        await front.router.router.announce(EngineReplica("bert#2", "bert", engine.url, 1))
        assert (await client.embeddings.create(model="bert", input="x")).data
        assert await spent_usd(front) == pytest.approx(USD_PER_TOKEN)


async def test_what_is_too_much_is_refused_in_openais_words(tmp_path: Path) -> None:
    limit = {"scope": "service", "window": "total", "usd": 50 * USD_PER_TOKEN}
    bounds = {"bounds": {"max_inputs": 3}, "max_body_bytes": 2048}
    config = configuration(tmp_path, simulated(), simulated("other"), limits=[limit], ingress=bounds)
    async with (
        serving(played(config)) as engine,
        service(config, {"bert": engine.url}) as front,
        client_of(front) as client,
    ):
        with pytest.raises(openai.BadRequestError, match="input: 4 texts in one request; at most 3"):
            await client.embeddings.create(model="bert", input=["x"] * 4)
        with pytest.raises(openai.APIStatusError, match="larger than 2048 bytes"):
            await client.embeddings.create(model="bert", input="x" * 2048)
        with pytest.raises(openai.BadRequestError, match=r"name the one .* bert, other"):
            await client.embeddings.create(model="auto", input="x")
        with pytest.raises(openai.APIStatusError) as dear:
            await client.embeddings.create(model="bert", input=["what is 1 plus 2? " * 6] * 2)
        assert (dear.value.status_code, dear.value.code) == (402, "budget_exceeded")
        one_of_two = {"routing": {"models": ["bert", "wren"]}}
        assert (await client.embeddings.create(model="auto", input="x", extra_body=one_of_two)).model == "bert"
        await spent_usd(front)
