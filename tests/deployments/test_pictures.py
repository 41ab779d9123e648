"""Pictures on a real Ray Serve application: a vision model on a real engine beside one that reads text only.

The vision model is of Idefics3's architecture, tiny and with random weights: what it says of a picture means nothing.
"""

from __future__ import annotations

import http.server
import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image

from apportion.deployments import zoo
from apportion.deployments.cluster.launch import deploy
from tests.deployments.service import Service, holds_nothing, wait_for
from tests.deployments.vision import SQUARE_TOKENS, WIDE_TOKENS, png_base64, save_vision_model

pytestmark = [pytest.mark.ray, pytest.mark.timeout(420)]

PREFIX = "/pictures"
MOST = 3
USD_PER_TOKEN = 2e-6
CAPABILITIES = {"tokens_per_image": SQUARE_TOKENS - 1}  # beside the placeholder that the template writes
RED, BLUE, WIDE = png_base64("red"), png_base64("blue", 300, 300), png_base64("red", 300, 150)
WORDS = "What is shown?"


def application(source: str) -> dict[str, Any]:
    shape = {"max_model_len": 256, "max_num_seqs": 16, "num_cpus": 0.01, "output_usd_per_million": 0}
    vision = {
        "name": "seer",
        "source": source,
        "input_usd_per_million": USD_PER_TOKEN * 1e6,
        "prior_success": 0.01,
        "engine_args": {"limit_mm_per_prompt": {"image": MOST}},
        "capabilities": CAPABILITIES,
    }
    text = {
        "name": "wren",
        "source": "zoo:wren",
        "input_usd_per_million": 1.0,
        "engine": "simulated",
        "simulated": {"tokens": 2},
    }
    part = {"num_cpus": 0.01}
    args = {
        "models": [shape | vision, shape | text],
        "predictor": {"artefact": "zoo:predictor", **part},
        "solver": part,
        "router": part,
        "ingress": part,
        "dispatch": {"engine_host": "127.0.0.1"},
    }
    return {
        "name": "pictures",
        "route_prefix": PREFIX,
        "import_path": "apportion.deployments.app:build",
        "args": args,
    }


@pytest.fixture(scope="module")
def fleet(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = save_vision_model(tmp_path_factory.mktemp("seer"), zoo.folder_of("zoo:wren"), max_model_len=256)
    both = json.loads(json.dumps(service.document))
    both["applications"].append(application(str(folder)))
    deploy(both)
    found = Service(f"{service.url}{PREFIX}", both)
    wait_for(lambda: found.health().get("healthy") is True, 300, "both models have started")
    yield found
    wait_for(lambda: holds_nothing(found.health()), 20, "nothing is held")
    deploy(service.document)


def body_of(api: str, *pictures: str, model: str = "auto") -> tuple[str, dict[str, Any]]:
    """Where a question about pictures in base64 or by URL goes, and how it is asked, in the words of each API."""
    urls = [one if ":" in one else f"data:image/png;base64,{one}" for one in pictures]
    if api == "responses":
        content = [{"type": "input_text", "text": WORDS}, *({"type": "input_image", "image_url": url} for url in urls)]
        asked = {"input": [{"role": "user", "content": content}], "max_output_tokens": 4}
        return "/v1/responses", {"model": model, "temperature": 0, **asked}
    if api == "messages":
        sources = [
            {"type": "url", "url": one} if ":" in one else {"type": "base64", "media_type": "image/png", "data": one}
            for one in pictures
        ]
        content = [{"type": "text", "text": WORDS}, *({"type": "image", "source": source} for source in sources)]
        asked = {"messages": [{"role": "user", "content": content}], "max_tokens": 4}
        return "/v1/messages", {"model": model, "temperature": 0, **asked}
    content = [{"type": "text", "text": WORDS}, *({"type": "image_url", "image_url": {"url": url}} for url in urls)]
    asked = {"messages": [{"role": "user", "content": content}], "max_tokens": 4}
    return "/v1/chat/completions", {"model": model, "temperature": 0, **asked}


def input_tokens(answer: httpx.Response) -> int:
    """As the answer's usage tells them, in the words of each API."""
    used = answer.json()["usage"]
    if "prompt_tokens" in used:
        return int(used["prompt_tokens"])
    beside = (used.get(name) or 0 for name in ("cache_read_input_tokens", "cache_creation_input_tokens"))
    return int(used["input_tokens"]) + sum(beside)


APIS = ("chat", "responses", "messages")


@pytest.mark.parametrize("pictures", [1, MOST])
@pytest.mark.parametrize("api", APIS)
def test_pictures_go_to_the_model_that_sees_and_cost_what_was_counted(fleet: Service, api: str, pictures: int) -> None:
    answer = fleet.post(*body_of(api, *[RED, BLUE, RED][:pictures]))
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-router-model"] == "seer"
    text_tokens = input_tokens(fleet.post(*body_of(api, model="seer")))
    assert input_tokens(answer) == text_tokens + pictures * SQUARE_TOKENS
    expected_usd = input_tokens(answer) * USD_PER_TOKEN  # answers are free, so this was known before
    assert float(answer.headers["x-router-cost-usd"]) == pytest.approx(expected_usd)
    assert float(answer.headers["x-router-settled-cost-usd"]) == pytest.approx(expected_usd)


def test_a_picture_with_fewer_tokens_costs_less_than_was_set_aside(fleet: Service) -> None:
    square, wide = (fleet.post(*body_of("chat", one)) for one in (RED, WIDE))
    assert wide.headers["x-router-cost-usd"] == square.headers["x-router-cost-usd"]
    assert input_tokens(square) - input_tokens(wide) == SQUARE_TOKENS - WIDE_TOKENS
    expected_usd = input_tokens(wide) * USD_PER_TOKEN
    assert float(wide.headers["x-router-settled-cost-usd"]) == pytest.approx(expected_usd)


def test_what_has_no_picture_goes_to_the_better_model(fleet: Service) -> None:
    assert fleet.post(*body_of("chat")).headers["x-router-model"] == "wren"


def test_the_model_sees_them(fleet: Service) -> None:
    path, asked = body_of("chat", RED)
    probabilities = {"logprobs": True, "top_logprobs": 2, "max_tokens": 1}
    seen = [fleet.post(path, asked | probabilities), fleet.post(path, body_of("chat", BLUE)[1] | probabilities)]
    seen.append(fleet.post(path, asked | probabilities))
    red, blue, again = (one.json()["choices"][0]["logprobs"]["content"][0]["logprob"] for one in seen)
    assert abs(red - blue) > 1e-3
    assert again == pytest.approx(red, abs=1e-4)


def test_streams_are_settled_too(fleet: Service) -> None:
    path, asked = body_of("chat", RED)
    asked |= {"stream": True, "stream_options": {"include_usage": True}, "routing": {"stream_cost": True}}
    told = fleet.post(path, asked)
    *_, usage, settled, done, end = told.text.split("\n\n")
    tokens = json.loads(usage.removeprefix("data: "))["usage"]["prompt_tokens"]
    assert float(settled.split()[-1]) == pytest.approx(tokens * USD_PER_TOKEN)
    assert (done, end) == ("data: [DONE]", "")


@pytest.mark.parametrize("api", APIS)
def test_too_many_are_refused_with_what_each_model_takes(fleet: Service, api: str) -> None:
    answer = fleet.post(*body_of(api, *[RED] * (MOST + 1)))
    assert answer.status_code == 400
    assert f"seer: takes at most {MOST} pictures in a request; wren: takes no pictures" in answer.text


@pytest.mark.parametrize("api", APIS)
def test_a_model_that_reads_text_gets_none(fleet: Service, api: str) -> None:
    answer = fleet.post(*body_of(api, RED, model="wren"))
    assert (answer.status_code, "wren: takes no pictures" in answer.text) == (400, True)


def test_tokens_of_pictures_are_counted_without_an_answer(fleet: Service) -> None:
    path, asked = body_of("chat", RED, BLUE, model="seer")
    told = input_tokens(fleet.post(path, asked))
    assert fleet.post("/tokenize", {name: asked[name] for name in ("model", "messages")}).json()["count"] == told
    _, message = body_of("messages", RED, BLUE, model="seer")
    counted = fleet.post("/v1/messages/count_tokens", {name: message[name] for name in ("model", "messages")})
    assert counted.json()["input_tokens"] == told
    refused = fleet.post("/tokenize", {"model": "wren", "messages": asked["messages"]})
    assert (refused.status_code, "wren: takes no pictures" in refused.text) == (400, True)


@pytest.fixture
def inside() -> Iterator[tuple[str, list[str]]]:
    """A server of the network that the engines stand in, and what it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/secret.png", asked
        server.shutdown()


@pytest.mark.parametrize("api", APIS)
def test_nothing_is_fetched(fleet: Service, inside: tuple[str, list[str]], api: str) -> None:
    url, asked = inside
    for one in (url, "file:///etc/passwd"):
        answer = fleet.post(*body_of(api, RED, one, model="seer"))
        assert (answer.status_code, "nothing is fetched here" in answer.text) == (400, True)
    assert asked == []


@pytest.mark.parametrize("api", APIS)
def test_what_is_no_picture_is_the_clients_mistake(fleet: Service, api: str) -> None:
    assert fleet.post(*body_of(api, "QUJD")).status_code == 400
    assert fleet.post(*body_of(api, huge())).status_code == 400
    assert fleet.post(*body_of(api, RED)).status_code == 200


def huge() -> str:
    """A small file with more pixels than an engine takes."""
    file = io.BytesIO()
    Image.new("1", (9000, 9000)).save(file, "PNG")
    return png_base64(file.getvalue())


def test_the_models_words_for_a_picture_do_no_harm(fleet: Service) -> None:
    path, asked = body_of("chat", RED)
    asked["messages"][0]["content"][0]["text"] = "<image> What is <image>?"
    assert fleet.post(path, asked).status_code in {200, 400}
    assert fleet.post(*body_of("chat", RED)).status_code == 200


def test_models_tell_what_they_see(fleet: Service) -> None:
    listed = httpx.get(f"{fleet.url}/v1/models", timeout=30).json()["data"]
    told = {one["id"]: (one["input_modalities"], one["max_images"]) for one in listed}
    assert told == {"auto": (["text", "image"], MOST), "seer": (["text", "image"], MOST), "wren": (["text"], 0)}
    (auto,) = (one for one in listed if one["id"] == "auto")
    assert auto["guaranteed"]["input_modalities"] == ["text"]
