"""Pictures and audio clips in a request: they reach the engine as data that came with it, or not at all.

An engine stands inside the network and would fetch what a URL points to, so nothing but data passes. The router sees
placeholders: it counts items, and never carries their bytes.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from apportion.router.errors import InvalidRequestError
from apportion.router.prediction.conversation import CLIP, PICTURE, check_text

_IMAGE = re.compile(r"data:image/[a-z0-9.+-]+;base64,", re.IGNORECASE)
_FORMAT = re.compile(r"[a-z0-9.+-]{1,32}", re.IGNORECASE)


class Media(NamedTuple):
    """Messages with placeholders for their pictures and clips (`content`), and with these as engines read them."""

    content: list[dict[str, Any]]
    messages: list[dict[str, Any]]
    images: int = 0
    audio: int = 0


def read_media(messages: Sequence[Mapping[str, Any]]) -> Media:
    """Takes pictures and clips out of a chat's messages.

    Raises:
        InvalidRequestError: a part is neither text nor data of a picture or a clip; names its place.
    """
    content, kept = [], []
    for i, message in enumerate(messages):
        parts = message.get("content")
        if not isinstance(parts, list):
            content.append(dict(message))
            kept.append(dict(message))
            continue
        read = [_part(part, f"messages[{i}].content[{k}]") for k, part in enumerate(parts)]
        kept.append({**message, "content": [part for _, part in read]})
        content.append({**message, "content": [seen for seen, _ in read]})
    return counted(content)._replace(messages=kept)


def counted(messages: list[dict[str, Any]]) -> Media:
    """Messages that hold placeholders already."""
    parts = [part for message in messages if isinstance(message.get("content"), list) for part in message["content"]]
    return Media(messages, messages, parts.count(PICTURE), parts.count(CLIP))


def picture_url(url: Any, field: str, place: str) -> str:
    """The URL, which is a picture's data.

    Args:
        field: that holds the URL.
        place: of the part that it is a field of.

    Raises:
        InvalidRequestError: it points to something, or is no picture.
    """
    head = _IMAGE.match(url) if isinstance(url, str) else None
    if not isinstance(url, str) or head is None:
        raise InvalidRequestError(
            f"{field} is no picture's data, and nothing is fetched here; send the picture itself, in "
            "a URL that begins with data:image/png;base64",
            param=place,
        )
    _check_base64(url[head.end() :], field, place)
    return url


def picture_source(source: Any, place: str) -> dict[str, str]:
    """The source of a picture as Anthropic's API has it, which is the picture's data.

    Args:
        place: of the block that it is a field of.

    Raises:
        InvalidRequestError: it points to something, or is no picture.
    """
    kind, media_type, data = (
        source.get(name) if isinstance(source, Mapping) else None for name in ("type", "media_type", "data")
    )
    if kind != "base64" or not isinstance(data, str) or not _IMAGE.fullmatch(f"data:{media_type};base64,"):
        raise InvalidRequestError(
            f"{place}.source is no picture's data, and nothing is fetched here; send the picture itself, as "
            '{"type": "base64", "media_type": "image/png", "data": BASE64}',
            param=place,
        )
    _check_base64(data, f"{place}.source.data", place)
    return {"type": "base64", "media_type": str(media_type), "data": data}


def _part(part: Any, place: str) -> tuple[Any, Any]:
    """What the router sees of a part, and what the engine gets: of a picture or a clip no more than its data."""
    named = part.get("type") if isinstance(part, Mapping) else None
    if named == "image_url":
        return dict(PICTURE), {"type": named, named: _image(part.get(named), place)}
    if named == "input_audio":
        return dict(CLIP), {"type": named, named: _clip(part.get(named), place)}
    check_text(part, place)
    return part, part


def _image(given: Any, place: str) -> dict[str, Any]:
    url, detail = (given.get("url"), given.get("detail")) if isinstance(given, Mapping) else (None, None)
    read = {"url": picture_url(url, f"{place}.image_url.url", place)}
    return read | ({"detail": detail} if isinstance(detail, str) else {})


def _clip(given: Any, place: str) -> dict[str, Any]:
    data, form = (given.get("data"), given.get("format")) if isinstance(given, Mapping) else (None, None)
    if not (isinstance(data, str) and isinstance(form, str) and _FORMAT.fullmatch(form)):
        raise InvalidRequestError(
            f'{place}.input_audio: send {{"data": BASE64, "format": "wav"}}, or another format', param=place
        )
    _check_base64(data, f"{place}.input_audio.data", place)
    return {"data": data, "format": form}


def _check_base64(data: str, what: str, place: str) -> None:
    try:
        decoded = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if not decoded:
        raise InvalidRequestError(f"{what} is not in base64, or empty; encode the bytes so", param=place)
