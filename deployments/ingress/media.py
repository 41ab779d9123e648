"""Pictures and audio clips in a chat: they reach the engine as data that came with the request, or not at all.

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
from apportion.router.prediction.conversation import check_text

_IMAGE = re.compile(r"data:image/[a-z0-9.+-]+;base64,", re.IGNORECASE)
_FORMAT = re.compile(r"[a-z0-9.+-]{1,32}", re.IGNORECASE)


class Media(NamedTuple):
    """Messages with placeholders for their pictures and clips (`content`), and with these as engines read them."""

    content: list[dict[str, Any]]
    messages: list[dict[str, Any]]
    images: int = 0
    audio: int = 0


def read_media(messages: Sequence[Mapping[str, Any]]) -> Media:
    """Takes pictures and clips out of the messages.

    Raises:
        InvalidRequestError: a part is neither text nor data of a picture or a clip; names its place.
    """
    content, kept, kinds = [], [], []
    for i, message in enumerate(messages):
        parts = message.get("content")
        if not isinstance(parts, list):
            content.append(dict(message))
            kept.append(dict(message))
            continue
        read = [_part(part, f"messages[{i}].content[{k}]") for k, part in enumerate(parts)]
        kinds += [kind for kind, _ in read if kind is not None]
        kept.append({**message, "content": [part for _, part in read]})
        content.append({**message, "content": [part if kind is None else {"type": kind} for kind, part in read]})
    return Media(content, kept, kinds.count("image"), kinds.count("audio"))


def _part(part: Any, place: str) -> tuple[str | None, Any]:
    """What kind of item a part is, None of text; and the part, of an item no more than its data."""
    named = part.get("type") if isinstance(part, Mapping) else None
    if named == "image_url":
        return "image", {"type": named, named: _image(part.get(named), place)}
    if named == "input_audio":
        return "audio", {"type": named, named: _clip(part.get(named), place)}
    check_text(part, place)
    return None, part


def _image(given: Any, place: str) -> dict[str, Any]:
    url, detail = (given.get("url"), given.get("detail")) if isinstance(given, Mapping) else (None, None)
    head = _IMAGE.match(url) if isinstance(url, str) else None
    if not isinstance(url, str) or head is None:
        raise InvalidRequestError(
            f"{place}.image_url.url is no picture's data, and nothing is fetched here; send the picture itself, in "
            "a URL that begins with data:image/png;base64",
            param=place,
        )
    _check_base64(url[head.end() :], f"{place}.image_url.url", place)
    return {"url": url} | ({"detail": detail} if isinstance(detail, str) else {})


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
