"""Pages that need nothing from elsewhere, and that browsers are told to let have nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from starlette.responses import HTMLResponse

_ELEMENT = r"<{0}>(.*?)</{0}>"


@cache
def console_page() -> str:
    """The page, which holds nothing of the service."""
    return (files(__package__) / "console.html").read_text(encoding="utf-8")


def page_response(page: str) -> HTMLResponse:
    """A page that may run and look as it is written, and may ask this service only."""
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hashes(page, 'script')}",
            f"style-src {_hashes(page, 'style')}",
            "img-src data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
    headers = {
        "content-security-policy": policy,
        "cache-control": "no-cache",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
    return HTMLResponse(page, headers=headers)


def _hashes(page: str, element: str) -> str:
    found = re.findall(_ELEMENT.format(element), page, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found)
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
