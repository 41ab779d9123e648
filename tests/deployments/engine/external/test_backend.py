"""Answers through an external model's port: what they cost, what of them goes on, what is sent for them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from apportion.router.errors import ConfigurationError
from tests.deployments.engine.external.asking import CHAT, asker, external_model
from tests.deployments.fake_provider import KEY, Running

ASKED: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"max_tokens": 5}),
    (CHAT, {"stream": True}),
    (CHAT, {"stream": True, "stream_options": {"include_usage": True}}),
    ("/v1/completions", {"prompt": "one two three", "max_tokens": 4}),
    ("/v1/completions", {"prompt": "one two three", "stream": True}),
    ("/v1/responses", {"input": "one two"}),
    ("/v1/responses", {"input": "one two", "stream": True}),
    ("/v1/messages", {"messages": [{"role": "user", "content": "one two"}], "max_tokens": 20}),
    ("/v1/messages", {"messages": [{"role": "user", "content": "one two"}], "max_tokens": 20, "stream": True}),
]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_KEY", KEY)


@pytest.mark.parametrize(("path", "fields"), ASKED)
async def test_every_answer_costs_what_the_provider_charges(
    provider: Running, path: str, fields: dict[str, Any]
) -> None:
    provider.behave(cached_share=0.5, reasoning=7)
    async with asker(external_model(provider)) as model:
        answer = await model.ask(path, **fields)
        assert answer.status == 200
        assert answer.nano == provider.report()["bill_nano"] > 0
        assert model.engine.app.costs(["r1"]) == {"r1": pytest.approx(answer.nano / 1e9, abs=1e-12)}
        assert "estimated" not in str(answer.headers) + answer.body.decode()


async def test_thoughts_that_are_counted_in_the_total_only_cost_the_same(provider: Running) -> None:
    provider.behave(reasoning=100, reasoning_apart=True)
    async with asker(external_model(provider)) as model:
        assert (await model.ask()).nano == provider.report()["bill_nano"] > 100 * 10_000


@pytest.mark.parametrize("wanted", [False, True])
async def test_usage_is_always_asked_for_and_shown_to_who_asked(provider: Running, wanted: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if wanted else {}
    async with asker(external_model(provider)) as model:
        answer = await model.ask(stream=True, **options)
    assert provider.report()["bodies"][0]["stream_options"] == {"include_usage": True}
    assert (b'"usage"' in answer.body) is wanted
    events = [line[6:] for line in answer.body.decode().splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    shown = [json.loads(event)["choices"] for event in events[:-1]]
    assert "".join(c[0]["delta"]["content"] for c in shown if c) == "".join(f"word{i} " for i in range(8))
    assert ([] in shown) is wanted


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_nobody_counts_is_estimated_and_says_so(provider: Running, stream: bool) -> None:
    async with asker(external_model(provider)) as model:
        for _ in range(3):
            await model.ask()  # from which it learns how long a token is
        provider.behave(usage=False)
        answer = await model.ask(stream=stream)
        assert answer.nano == pytest.approx(provider.report()["bill_nano"], rel=0.6)
        if stream:
            assert answer.body.decode().splitlines()[-4].endswith(" estimated")
        else:
            assert answer.headers["x-router-settled"] == "estimated"


async def test_the_providers_names_and_fields(provider: Running) -> None:
    async with asker(external_model(provider, max_tokens_field="max_completion_tokens")) as model:
        answer = await model.ask(max_tokens=3, top_k=5, temperature=0.5, stream_options={"include_usage": True})
        assert answer.headers["x-router-ignored"] == "top_k"
        assert answer.headers["x-router-upstream-id"] == "req-1"
    (body,) = provider.report()["bodies"]
    assert body == {
        "model": "vendor-1",
        "messages": [{"role": "user", "content": "one two"}],
        "max_completion_tokens": 3,
        "temperature": 0.5,
    }


@pytest.mark.parametrize(
    ("taken", "ignored"), [("vllm", None), (["temperature"], "seed, top_k"), (["top_k", "seed"], "temperature")]
)
async def test_fields_by_list(provider: Running, taken: Any, ignored: str | None) -> None:
    async with asker(external_model(provider, fields=taken)) as model:
        answer = await model.ask(top_k=5, seed=1, temperature=0.5)
        assert answer.headers.get("x-router-ignored") == ignored
    refusing = external_model(provider, fields=["temperature"], unknown_fields="refuse")
    async with asker(refusing) as model:
        answer = await model.ask(top_k=5)
        assert (answer.status, answer.told["error"]["param"]) == (400, "top_k")
    assert len(provider.report()["bodies"]) == 1


@pytest.mark.parametrize("said", [
    {"error": {"message": f"bad {KEY}", "param": "seed", "code": "invalid_value"}},
    {"type": "error", "error": {"type": "invalid_request_error", "message": f"bad {KEY}"}},
    {"error": f"bad {KEY}"},
    {"object": "error", "message": f"bad {KEY}", "code": 400},
    {"detail": f"bad {KEY}"},
    [{"error": {"message": f"bad {KEY}", "code": 400, "status": "INVALID_ARGUMENT"}}],
])  # fmt: skip
async def test_an_error_keeps_its_words_but_not_the_key(provider: Running, said: Any) -> None:
    provider.behave(error=400, error_body=said)
    async with asker(external_model(provider)) as model:
        answer = await model.ask()
        assert answer.status == 400
        assert answer.told["error"]["message"] == "bad [hidden]"
        assert KEY not in answer.body.decode()
        assert model.engine.app.costs(["r1"]) == {"r1": 0.0}
        assert model.engine.trouble is None


@pytest.mark.parametrize(("status", "trouble"), [
    (401, "credentials refused"), (402, "quota exhausted"), (403, "credentials refused"), (404, "credentials refused"),
])  # fmt: skip
async def test_a_provider_that_refuses_the_key_is_left_alone_and_tried_again(
    provider: Running, status: int, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    provider.behave(error=status)
    async with asker(external_model(provider)) as model:
        answer = await model.ask()
        assert (answer.status, answer.headers["x-apportion-busy"]) == (503, "60.000")
        assert (model.engine.trouble, model.engine.slots) == (trouble, 0)
        await model.ask()
        assert provider.report()["asked"] == 1  # the second one was not even sent
        provider.behave(error=None)
        model.engine._account._trial_at_s = 0.0
        assert model.engine.slots == 1
        assert (await model.ask()).status == 200
        assert (model.engine.trouble, model.engine.slots > 1) == (None, True)
    assert KEY not in caplog.text
    assert trouble in caplog.text


async def test_what_is_wrong_with_a_request_is_no_trouble(provider: Running) -> None:
    async with asker(external_model(provider)) as model:
        for status, message in [
            (403, "your input was flagged"),
            (404, "no endpoints that support images"),
            (413, "too long"),
        ]:
            provider.behave(error=status, error_body={"error": {"message": message}})
            answer = await model.ask()
            assert (answer.status, answer.told["error"]["message"]) == (status, message)
        assert model.engine.trouble is None


@pytest.mark.parametrize("status", [500, 502, 503, 529, 408, 302])
async def test_a_failure_of_the_providers_is_one_of_the_engine(provider: Running, status: int) -> None:
    provider.behave(error=status)
    async with asker(external_model(provider)) as model:
        answer = await model.ask()
        assert answer.status == 502
        assert "x-apportion-busy" not in answer.headers


@pytest.mark.parametrize("said", [{"error": {"message": "overloaded", "code": 503}}, {"error": "no", "type": "error"}])
async def test_an_error_that_comes_as_an_answer_is_none(provider: Running, said: Any) -> None:
    provider.behave(error=200, error_body=said)
    async with asker(external_model(provider)) as model:
        assert (await model.ask()).status == 502
        provider.behave(error_in_stream=said)
        answer = await model.ask(stream=True, max_tokens=1)
        assert answer.status == 200


@pytest.mark.parametrize("fault", [{"cut_after": 3}, {"error_in_stream": {"error": {"message": "gone", "code": 500}}}])
async def test_a_stream_that_breaks_off_does_not_end_here_either(provider: Running, fault: dict[str, Any]) -> None:
    provider.behave(**fault)
    async with asker(external_model(provider)) as model:
        with pytest.raises(aiohttp.ClientPayloadError):
            await model.ask(stream=True)
        assert model.engine.app.costs(["r1"]) == {}  # nobody knows: the worst case is charged
        provider.behave(cut_after=0)
        assert (await model.ask(stream=True)).status == 502  # nothing was passed on: it may be tried elsewhere


async def test_nobody_listens(provider: Running) -> None:
    async with asker(external_model(provider, base_url="http://127.0.0.1:9/v1")) as model:
        assert (await model.ask()).status == 502
        assert model.engine.app.costs(["r1"]) == {"r1": 0.0}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_closes_the_providers_connection(provider: Running, stream: bool) -> None:
    provider.behave(token_s=0.1, first_token_s=0.1, tokens=100)
    async with asker(external_model(provider)) as model:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(model.ask(stream=stream), 0.5)
        async with asyncio.timeout(3):
            while not provider.report()["abandoned"]:
                await asyncio.sleep(0.02)
        async with asyncio.timeout(3):
            while model.engine.app.sequences:
                await asyncio.sleep(0.02)
        assert model.engine._account._quota.running == 0
        assert model.engine.app.costs(["r1"]) == {}


async def test_a_key_file_is_read_again_when_it_changes(provider: Running, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    model = external_model(provider, api_key_env=None, api_key_file=str(file))
    async with asker(model) as asking:
        assert (await asking.ask()).status == 200
        provider.behave(keys=["sk-rotated-123456"])
        file.write_text("sk-rotated-123456")
        assert (await asking.ask()).status == 200
        file.unlink()  # while it is replaced
        assert (await asking.ask()).status == 200
    with pytest.raises(ConfigurationError, match="cannot be read here"):
        async with asker(model):
            pass


async def test_headers_may_hold_secrets_of_the_environment(provider: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = {"Authorization": "env:OTHER", "x-title": "mine"}
    model = external_model(provider, api_key_env=None, headers=headers)
    with pytest.raises(ConfigurationError, match="OTHER is not set"):
        async with asker(model):
            pass
    monkeypatch.setenv("OTHER", f"Bearer {KEY}")
    async with asker(model) as asking:
        assert (await asking.ask()).status == 200
        provider.behave(error=422, reset=False)
        assert KEY not in (await asking.ask()).body.decode()


async def test_a_proxy_is_the_environments_and_passwords_of_others_are_not(
    provider: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with asker(external_model(provider)) as model:
        assert (await model.ask()).status == 200  # with the key
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "elsewhere")
    async with asker(external_model(provider)) as model:
        assert (await model.ask()).status == 502
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    async with asker(external_model(provider)) as model:
        assert (await model.ask()).status == 200


async def test_other_paths_are_not_there(provider: Running) -> None:
    async with asker(external_model(provider)) as model:
        async with model.session.get(f"{model.server.url}/metrics") as page:
            assert page.status == 200
        assert (await model.ask("/tokenize")).status == 404
