"""Requests as bytes, for clients that no library would be: slow ones, and those that leave or never read."""

from __future__ import annotations


def head(length: int, **headers: str) -> bytes:
    """The head of a chat request whose body has this many bytes; a header's `_` is a `-`."""
    lines = {"host": "x", "content-type": "application/json", "content-length": str(length)} | headers
    text = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return f"POST /v1/chat/completions HTTP/1.1\r\n{text}\r\n".encode()
