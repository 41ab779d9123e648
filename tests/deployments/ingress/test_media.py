from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from apportion.deployments.ingress.openai import parse
from apportion.deployments.ingress.rules import Rules
from apportion.router.batch.capabilities import Capabilities

PIXELS = base64.b64encode(bytes(range(256)) * 2000).decode()
TEXT = {"type": "text", "text": "What is shown?"}
CLIP = {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}}


def picture(data: str = PIXELS, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}", **more}}


def read(*parts: Any):
    body = {"messages": [{"role": "system", "content": "Look."}, {"role": "user", "content": list(parts)}]}
    return parse("chat", json.dumps(body).encode(), {}, Rules(("m",)))


def test_the_router_counts_what_the_engine_gets() -> None:
    parsed = read(TEXT, picture(detail="low"), picture("QUJD"), CLIP)
    assert parsed.item.needs == Capabilities(chat=1, images=2, audio=1)
    kinds = [TEXT, {"type": "image"}, {"type": "image"}, {"type": "audio"}]
    assert parsed.prompt.content == [{"role": "system", "content": "Look."}, {"role": "user", "content": kinds}]
    assert parsed.prompt.chars < 50, "no pixel goes to the predictor"
    sent = json.loads(parsed.engine_body("m"))["messages"]
    assert sent[1]["content"] == [TEXT, picture(detail="low"), picture("QUJD"), CLIP]


def test_of_a_part_the_engine_gets_no_more_than_its_data() -> None:
    tricky = picture() | {"uuid": "somebody-elses", "image_embeds": "x", "image_pil": None}
    tricky["image_url"] |= {"path": "/etc/passwd", "detail": 5}
    (sent,) = json.loads(read(tricky).engine_body("m"))["messages"][1]["content"]
    assert sent == picture()


def test_other_pictures_are_other_requests() -> None:
    one, other = read(TEXT, picture("QUJD")), read(TEXT, picture("QUJE"))
    assert one.prompt.content == other.prompt.content
    assert one.digest() != other.digest()
    before = one.digest()
    one.forget()
    assert one.digest() == before
    assert one.prompt.content == ""


def body_of(kind: str, data: str) -> dict[str, Any]:
    """A request that shows a picture, in the words of each API."""
    source = {"type": "base64", "media_type": "image/png", "data": data}
    url = picture(data)["image_url"]["url"]
    return {
        "response": {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]},
        "message": {"messages": [{"role": "user", "content": [{"type": "image", "source": source}]}], "max_tokens": 8},
        "tokenize": {"messages": [{"role": "user", "content": [picture(data)]}], "model": "m"},
    }[kind]


@pytest.mark.parametrize("kind", ["response", "message", "tokenize"])
def test_pictures_count_in_every_api(kind: Any) -> None:
    one, same, other = (
        parse(kind, json.dumps(body_of(kind, data)).encode(), {}, Rules(("m",))) for data in ("QUJD", "QUJD", "QUJE")
    )
    assert one.item.needs.images == 1
    assert one.digest() == same.digest() != other.digest()


def test_what_a_model_is_told_first_makes_another_request() -> None:
    body = body_of("message", "QUJD")
    one, other = (
        parse("message", json.dumps(body | {"system": text}).encode(), {}, Rules(("m",))) for text in ("Look.", "Wait.")
    )
    assert one.digest() != other.digest()


def test_what_could_make_pictures_larger_is_not_counted() -> None:
    body = {"messages": [{"role": "user", "content": [picture()]}], "mm_processor_kwargs": {"max_pixels": 10**9}}
    assert parse("chat", json.dumps(body).encode(), {}, Rules(("m",))).item.unread_prompt
