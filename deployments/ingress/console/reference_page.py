"""`/docs`: what is served, in a page that loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --soft: #6a675f; --hair: #d8d4c8; }
@media (prefers-color-scheme: dark) { :root { --soft: #9a978f; --hair: #33373a; } }
body { max-width: 780px; margin: 32px auto; padding: 0 16px; font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 20px; }
dt { margin-top: 14px; padding-top: 12px; border-top: 1px solid var(--hair); font: 14px/1.5 ui-monospace, monospace; }
dt b { display: inline-block; min-width: 3.5em; }
dd { margin: 2px 0 0; color: var(--soft); }
dd code { overflow-wrap: anywhere; }
"""


def reference_page(document: dict[str, Any], root: str) -> str:
    """The page.

    Args:
        document: OpenAPI's.
        root: the path that the service is served under; empty: none.
    """
    info = document["info"]
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(info['title'])}</title>\n<style>{_STYLE}</style>\n<h1>{escape(info['title'])}</h1>\n"
        f'<p>{escape(info["description"])} <a href="{escape(root)}/openapi.json">openapi.json</a> says all of it.</p>\n'
        f"<dl>\n{''.join(_operations(document, root))}</dl>\n</html>\n"
    )


def _operations(document: dict[str, Any], root: str) -> Iterator[str]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            told = operation.get("description") or operation.get("summary", "")
            fields = ", ".join(_fields(operation))
            yield f"<dt><b>{method.upper()}</b> {escape(root + path)}</dt>\n<dd>{escape(told)}</dd>\n"
            if fields:
                yield f"<dd>Fields: <code>{escape(fields)}</code></dd>\n"


def _fields(operation: dict[str, Any]) -> list[str]:
    content = operation.get("requestBody", {}).get("content", {})
    return sorted(content.get("application/json", {}).get("schema", {}).get("properties", {}))
