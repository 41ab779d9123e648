"""Keeps what was asked, where the configuration says so: from the ingress straight into the store of records.

The Router, which writes the rest, never sees a text.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from apportion.deployments.config.records import RecordsConfig
from apportion.router.batch.messages import RouteItem
from apportion.router.batch.prompt import Prompt
from apportion.router.chat import request_text
from apportion.router.records.schema import PROMPTS


class Prompts:
    """The ingress's own writer.

    Args:
        config: None, or without `prompts`: nothing is kept.
    """

    def __init__(self, config: RecordsConfig | None) -> None:
        self._writer = None
        if config is not None and config.prompts:
            self._writer = config.writer(PROMPTS)
            self._writer.start()

    def keep(self, item: RouteItem, prompt: Prompt) -> None:
        """Keeps what a request that is being answered is predicted from; embeddings teach nothing."""
        if self._writer is None or not item.needs.text:
            return
        text, traits, now = request_text(prompt.content), prompt.traits, datetime.now(UTC)

        def row() -> dict[str, Any]:
            return {"id": item.id, "time": now, "prompt": text, **traits._asdict()}

        self._writer.put(PROMPTS, row)

    def close(self) -> None:
        """Writes what waits."""
        if self._writer is not None:
            self._writer.close()
