"""Whether Hugging Face's hub is within reach, found out in a moment: its own client tries for half a minute."""

from __future__ import annotations

import os
import socket
from functools import lru_cache
from urllib.parse import urlsplit

_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


@lru_cache(maxsize=1)
def out_of_reach() -> bool:
    """Whether the hub's name leads nowhere, so that only what was downloaded before can be had."""
    if any(os.environ.get(name) for name in _PROXIES):
        return False  # which looks names up itself
    host = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co").hostname
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return True
    return False
