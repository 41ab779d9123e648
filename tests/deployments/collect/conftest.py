"""What `apportion collect` is tried with: an endpoint on this machine and a file of prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deployments.collect.openai_server import FakeOpenAI, serving


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with serving() as started:
        yield started


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    rows: list[dict[str, Any]] = [
        {"query_id": f"q{i}", "task": "sum", "prompt": f"What is {i} plus 2?", "expected": i + 2} for i in range(4)
    ]
    chat = [{"role": "system", "content": "Add."}, {"role": "user", "content": "4 and 2"}]
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    body = {"model": "ignored", "messages": chat, "max_tokens": 7, "temperature": 0.5, "tools": [tool]}
    rows.append({"custom_id": "batch", "url": "/v1/chat/completions", "body": body, "expected": "6", "prompt": None})
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + "".join(json.dumps(row) + "\n" for row in rows).encode())
    return file
