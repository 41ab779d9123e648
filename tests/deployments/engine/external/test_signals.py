"""How sure somebody else's model was: asked of providers that tell it, and told to ingresses alone."""

from __future__ import annotations

import re
from typing import Any

import pytest

from apportion.deployments.wire.engine_headers import SIGNALS_ASKED_HEADER
from apportion.deployments.wire.settlement import SettledStream, settled_of
from apportion.router.signals import Signals, signals_of
from tests.deployments.engine.external.asking import CHAT, Answer, asker, external_model
from tests.deployments.fake_provider import KEY, Running

MARK = {SIGNALS_ASKED_HEADER: "1"}
EXPECTED = signals_of([0.0, -1.0, -2.0, -3.0], [1.0] * 4)
ASKED: list[tuple[str, dict[str, Any]]] = [(CHAT, {}), ("/v1/completions", {"prompt": "one two"})]
WANTED = {CHAT: {"logprobs": True, "top_logprobs": 2}, "/v1/completions": {"logprobs": 2}}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_KEY", KEY)


def heard(answer: Answer, *, stream: bool) -> tuple[str, Signals | None]:
    """What an ingress passes on, however it is spaced, and the signals that it keeps."""
    assert answer.status == 200
    if not stream:
        passed, settled = answer.body, settled_of({name.lower(): value for name, value in answer.headers.items()})
    else:
        taken = SettledStream(told=False)
        passed, settled = taken.passed(answer.body), taken.settled
    assert settled is not None
    return re.sub(r'"id": ?"req-\d+"|(?<=[,:]) ', "", passed.decode()), settled.signals


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "fields"), ASKED)
@pytest.mark.parametrize("wanted", [False, True])
async def test_signals_are_told_and_answers_stay_what_clients_asked_for(
    provider: Running, path: str, fields: dict[str, Any], stream: bool, wanted: bool
) -> None:
    provider.behave(tokens=4)
    body = fields | {"stream": stream} | (WANTED[path] if wanted else {})
    async with asker(external_model(provider, signals=True)) as model:
        quiet = heard(await model.ask(path, **body), stream=stream)
        asked = heard(await model.ask(path, MARK, **body), stream=stream)
    assert quiet[1] is None
    assert asked[1] == pytest.approx(EXPECTED)
    assert asked[0] == quiet[0]
    told = provider.report()["bodies"]
    assert [bool(one.get("logprobs")) for one in told] == [wanted, True]


@pytest.mark.parametrize("signals", [False, True])
@pytest.mark.parametrize("path", [CHAT, "/v1/responses", "/v1/messages"])
async def test_a_provider_is_not_asked_for_what_it_may_refuse(provider: Running, path: str, signals: bool) -> None:
    body = {"input": "one"} if path == "/v1/responses" else {"messages": [{"role": "user", "content": "one"}]}
    async with asker(external_model(provider, signals=signals)) as model:
        answer = heard(await model.ask(path, MARK, max_tokens=5, **body), stream=False)
    expected = signals and path == CHAT
    assert (answer[1] is not None) == expected
    assert ("logprobs" in provider.report()["bodies"][0]) == expected
