"""One model never decides for another: four models whose chat templates differ, and what clients send them."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apportion.deployments import zoo
from apportion.deployments.config.capabilities import CapabilitiesConfig
from apportion.deployments.config.models import ModelConfig
from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.ingress.forecasting import forecaster_of
from apportion.deployments.ingress.openai import ParsedRequest, parse
from apportion.deployments.ingress.rules import Rules
from apportion.deployments.wire.headers import verdict_json
from apportion.router.assignment import Mip
from apportion.router.batch.messages import Decision, Refusal, Verdict
from apportion.router.batch.policy import Policy
from apportion.router.batch.prompt import Prompt
from apportion.router.errors import InvalidRequestError
from apportion.router.prediction.estimation import RequestEstimator
from apportion.router.prediction.predictor import Predictor
from apportion.router.prediction.tokens import TokenCounter
from apportion.router.unpriced import Unpriced, concatenate
from tests.deployments.chat_styles import BY_ARGUMENT, SHAPES, STYLES, UNREADABLE
from tests.router.batch.plain_room import PlainRoom

NAMES = ("wren", "finch", "lark", "heron")


def model(name: str, style: str, folder: Path) -> ModelConfig:
    """The zoo's model with another chat template."""
    copy = folder / f"{name}-{style}"
    if not copy.exists():
        copy.mkdir()
        for file in zoo.folder_of(f"zoo:{name}").glob("tokenizer*"):
            shutil.copy(file, copy)
        if (template := STYLES[style]) is not None:
            (copy / "chat_template.jinja").write_text(template)
    arguments = {"chat_template": BY_ARGUMENT} if style == "by_argument" else {}
    price = 1.0 + NAMES.index(name)
    return ModelConfig(
        name=name,
        source=str(copy),
        input_usd_per_million=price,
        output_usd_per_million=price,
        max_model_len=256,
        engine_args=arguments,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("styles")


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.load(zoo.folder_of("zoo:predictor"), models=NAMES, device="cpu")


EYES = CapabilitiesConfig(images=2, tokens_per_image=90)
EARS = CapabilitiesConfig(audio=1, tokens_per_audio=70)
CLIP = {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}}


class MixedFleet:
    """The real predictor, the zoo's tokenizers with these templates, an ingress's forecaster, and the batch room."""

    def __init__(
        self,
        predictor: Predictor,
        folder: Path,
        *styles: str,
        seeing: tuple[str, ...] = (),
        hearing: tuple[str, ...] = (),
    ) -> None:
        models = [model(name, style, folder) for name, style in zip(NAMES, styles, strict=True)]
        senses = dict.fromkeys(seeing, EYES) | dict.fromkeys(hearing, EARS)
        models = [one.model_copy(update={"capabilities": senses.get(one.name, one.capabilities)}) for one in models]
        counter = TokenCounter.load({one.name: one.tokenizer_source for one in models}, download=False)
        estimator = RequestEstimator(predictor, counter, np.full(4, 256.0))

        async def predict(prompts: Sequence[Prompt], models: tuple[str, ...], bulk: bool) -> Unpriced:
            return estimator.forecast(prompts)

        config = ServiceConfig.model_validate({"models": models, "predictor": {"artefact": "x", "timeout_s": 60.0}})
        self._forecaster = forecaster_of(config, predict, np.full(4, 0.5))
        self.room = PlainRoom(policy=Policy(tuple(one.served for one in models), Mip()))
        self.room.join(**dict.fromkeys(NAMES, 100))

    async def ask(self, *asked: tuple[str, str]) -> dict[tuple[str, str], Verdict]:
        """Verdicts by shape and the model that the request names, all of one batch."""
        verdicts = await self.verdicts(*(parsed(shape, to) for shape, to in asked))
        return dict(zip(asked, verdicts, strict=True))

    async def forecast(self, *read: ParsedRequest) -> Unpriced:
        return concatenate(await asyncio.gather(*(self._forecaster.forecast(one.item, one.prompt) for one in read)))

    async def verdicts(self, *read: ParsedRequest) -> list[Verdict]:
        forecast = await self.forecast(*read)
        self.room.forecast = lambda _: forecast
        return await self.room.verdicts(*(one.item for one in read))


def parsed(shape: str, to: str = "auto") -> ParsedRequest:
    return asked(f"{shape}-{to}", to, **SHAPES[shape])


def asked(name: str, to: str = "auto", **fields: Any) -> ParsedRequest:
    found = parse("chat", json.dumps({"model": to, "max_tokens": 8, **fields}).encode(), {}, Rules(NAMES))
    found.item = replace(found.item, id=name)
    return found


READABLE_SHAPES = [shape for shape in SHAPES if shape != "picture"]


@pytest.mark.parametrize("style", STYLES)
async def test_each_shape_goes_to_a_model_that_reads_it(style: str, predictor: Predictor, folder: Path) -> None:
    names = list(STYLES)
    styles = [names[(names.index(style) + step) % len(names)] for step in (0, 1, 3, 6)]
    fleet = MixedFleet(predictor, folder, *styles)
    pairs = [(shape, to) for shape in READABLE_SHAPES for to in ("auto", *NAMES)]
    for (shape, to), verdict in (await fleet.ask(*pairs)).items():
        able = {name for name, own in zip(NAMES, styles, strict=True) if shape not in UNREADABLE[own]}
        assert able
        if to == "auto" or to in able:
            assert isinstance(verdict, Decision), (shape, to, verdict)
            assert (verdict.model in able, verdict.rung) == (True, "mip"), (shape, to)
        else:  # in its own words, and nobody else's
            assert isinstance(verdict, Refusal), (shape, to)
            assert type(verdict.error) is InvalidRequestError
            assert to in verdict.error.message
            assert not any(other in verdict.error.message for other in NAMES if other != to)


@pytest.mark.parametrize("style", STYLES)
async def test_what_no_model_reads_is_refused_with_all_reasons(style: str, predictor: Predictor, folder: Path) -> None:
    fleet = MixedFleet(predictor, folder, style, style, "no_template", style)
    for (shape, _), verdict in (await fleet.ask(*((shape, "auto") for shape in READABLE_SHAPES))).items():
        assert isinstance(verdict, Refusal) == (shape in UNREADABLE[style]), (shape, verdict)
        if isinstance(verdict, Refusal):
            assert (verdict.error.status, verdict.error.param) == (400, "messages")
            assert all(name in verdict.error.message for name in NAMES)


@pytest.mark.parametrize("style", [style for style in STYLES if style != "no_template"])
async def test_a_picture_goes_where_it_is_seen_and_counts_at_its_most(
    style: str, predictor: Predictor, folder: Path
) -> None:
    fleet = MixedFleet(predictor, folder, "mapping", style, "no_template", "thinking", seeing=("finch", "lark"))
    told = await fleet.ask(("picture", "auto"), ("picture", "finch"), ("picture", "wren"), ("plain", "finch"))
    plain, seen = told["plain", "finch"], told["picture", "finch"]
    assert isinstance(told["picture", "auto"], Decision)
    assert told["picture", "auto"].model == seen.model == "finch"
    assert seen.cost_usd > plain.cost_usd + 80 * 2e-6 * 0.9, "a picture is 90 tokens at 2 USD a million, its text less"
    assert isinstance(told["picture", "wren"], Refusal)
    assert told["picture", "wren"].error.message.endswith("wren: takes no pictures")


async def test_a_clip_goes_where_it_is_heard_and_counts_at_its_most(predictor: Predictor, folder: Path) -> None:
    fleet = MixedFleet(predictor, folder, *["mapping"] * 4, seeing=("finch",), hearing=("lark",))

    def clips(n: int, to: str, text: str) -> ParsedRequest:
        content = [{"type": "text", "text": text}, *[CLIP] * n]
        return asked(f"{n}{to}{text}", to, messages=[{"role": "user", "content": content}])

    plain, one, two, deaf, long = await fleet.verdicts(
        *(clips(n, to, "Who?") for n, to in ((0, "lark"), (1, "auto"), (2, "auto"), (1, "finch"))),
        clips(1, "auto", "who " * 90),
    )
    assert isinstance(plain, Decision)
    assert isinstance(one, Decision)
    assert one.model == "lark"
    assert one.cost_usd > plain.cost_usd + 60 * 3e-6 * 0.9, "a clip is 70 tokens at 3 USD a million, its text less"
    assert "wren, finch, heron: takes no audio; lark: takes at most 1 audio clips in a request" in two.error.message
    assert deaf.error.message.endswith("finch: takes no audio")
    assert long.error.code == "context_length_exceeded"


async def test_what_no_model_sees_is_refused_with_all_reasons(predictor: Predictor, folder: Path) -> None:
    fleet = MixedFleet(predictor, folder, "mapping", "mapping", "no_template", "mapping", seeing=("lark",))
    (told,) = (await fleet.ask(("picture", "auto"))).values()
    assert isinstance(told, Refusal)
    assert (told.error.status, told.error.param) == (400, "messages")
    assert "wren, finch, heron: takes no pictures; lark: has no chat template" in told.error.message


async def test_pictures_that_no_context_holds_are_too_long(predictor: Predictor, folder: Path) -> None:
    fleet = MixedFleet(predictor, folder, *["mapping"] * 4, seeing=NAMES)
    pictures = [SHAPES["picture"]["messages"][0]] * 3
    told = await fleet.verdicts(*(asked(f"p{n}", messages=pictures[:n]) for n in (1, 2, 3)))
    assert [type(verdict) for verdict in told] == [Decision, Decision, Refusal]
    assert "takes at most 2 pictures in a request" in told[2].error.message
    words = [{"role": "user", "content": "count " * 120}, *pictures[:2]]
    (told,) = await fleet.verdicts(asked("long", messages=words))
    assert told.error.code == "context_length_exceeded"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "text", "text": "x", "uuid": "1", "image_url": "http://inside/secret"},  # vLLM would fetch it
        {"image_url": "http://inside/secret"},
        {"type": "file", "file": {}},
        {"type": "text", "text": {"a": 1}},
        {"text": "x"},
        {"type": "image"},  # what stands in for a picture inside
        {"type": "image_url", "image_url": {"url": "http://inside/secret"}},
        {"type": "image_url", "image_url": None, "uuid": "somebody-elses"},
        {"type": "image_url", "image_url": {"url": "data:text/html;base64,QQ=="}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,no"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}},
        {"type": "input_audio", "input_audio": {"data": "QQ==", "format": "x;base64,http://a"}},
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,QQ=="}},
    ],
)
def test_parts_that_nobody_reads_are_refused_by_place(part: dict[str, Any]) -> None:
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, part]}]}
    with pytest.raises(InvalidRequestError) as caught:
        parse("chat", json.dumps(body).encode(), {}, Rules(NAMES))
    assert caught.value.param == "messages[0].content[1]"


async def test_candidates_say_why_a_model_may_not_answer(predictor: Predictor, folder: Path) -> None:
    fleet = MixedFleet(predictor, folder, "no_system", "no_template", "mapping", "mapping")
    system = parsed("system")
    verdicts = await fleet.room.scheduler.preview([system.item], await fleet.forecast(system))
    told = {one["model"]: (one["allowed"], one["reason"]) for one in verdict_json(0, verdicts[0])["candidates"]}
    assert told["lark"] == told["heron"] == (True, None)
    assert told["wren"] == (False, "its chat template refuses these messages: no system turns here")
    assert told["finch"] == (False, "has no chat template; send a prompt to /v1/completions instead")


async def test_a_limit_that_the_readers_exceed_names_the_others_too(predictor: Predictor, folder: Path) -> None:
    fleet = MixedFleet(predictor, folder, "no_system", "no_system", "no_system", "mapping")
    system = parsed("system")
    long = [system.prompt.content[0], {"role": "user", "content": "count " * 300}]
    system.prompt = replace(system.prompt, content=long)
    (verdict,) = await fleet.verdicts(system)
    assert isinstance(verdict, Refusal)
    assert verdict.error.code == "context_length_exceeded"
    assert "maximum context length is 256 tokens" in verdict.error.message
    assert "wren, finch, lark: its chat template refuses" in verdict.error.message


TOOLS = [{"type": "function", "function": {"name": "stock", "parameters": {"type": "object"}, "x": 1}}]


@pytest.mark.slow  # imports vLLM
@pytest.mark.parametrize("style", [style for style in STYLES if style != "no_template"])
def test_the_engine_renders_the_same(style: str, folder: Path) -> None:
    """vLLM's own request, parser of messages and renderer, without an engine."""
    protocol = pytest.importorskip("vllm.entrypoints.openai.chat_completion.protocol")
    hf = pytest.importorskip("vllm.renderers.hf")
    chat_utils = pytest.importorskip("vllm.renderers.chat_utils")
    config = pytest.importorskip("vllm.config")
    own = model("wren", style, folder)
    counter = TokenCounter.load({"wren": own.tokenizer_source}, download=False)
    tokenizer = counter._groups[0].counted.tokenizer
    engine = config.ModelConfig(model=str(zoo.folder_of("zoo:wren")))
    for shape in READABLE_SHAPES:
        for tools in (None, TOOLS):
            body = SHAPES[shape] | ({"tools": tools} if tools else {}) | {"reasoning_effort": "low"}
            read = parse("chat", json.dumps({"model": "wren", **body}).encode(), {}, Rules(NAMES))
            request = protocol.ChatCompletionRequest.model_validate_json(read.engine_body("wren"))
            dumped = [tool.model_dump() for tool in request.tools] if request.tools else None
            params = request.build_chat_params(own.engine_args.get("chat_template"), "auto")
            format_ = hf.resolve_chat_template_content_format(
                params.chat_template, dumped, "auto", tokenizer, model_config=engine
            )
            turns, _, _ = chat_utils.parse_chat_messages(request.messages, engine, content_format=format_)
            arguments = params.get_apply_chat_template_kwargs() | {"tools": dumped, "tokenize": False}
            try:
                expected = hf.safe_apply_chat_template(engine, tokenizer, turns, **arguments)
            except Exception:
                expected = None
            try:
                seen = read.prompt
                ours = counter._groups[0]._render(seen.content, seen.tools, seen.template_variables)
            except Exception:
                ours = None
            assert ours == expected, (shape, tools)
