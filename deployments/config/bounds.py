"""The configuration's bounds of a request's size, beyond those of the body."""

from __future__ import annotations

from pydantic import Field

from apportion.router.checked import Section


class InputBounds(Section):
    """Larger requests are answered with 400."""

    max_messages: int = Field(2048, ge=1, description="Messages of a chat.")
    max_prompts: int = Field(256, ge=1, description="Prompts of a completion.")
    max_inputs: int = Field(2048, ge=1, description="Texts of a request for embeddings.")
    max_sequences: int = Field(256, ge=1, description="Answers of a request: `n` times its prompts.")
    max_stop: int = Field(16, ge=1, description="Stop sequences.")
    max_stop_chars: int = Field(1024, ge=1, description="Characters of a stop sequence.")
    max_tools: int = Field(128, ge=0, description="Tools.")
    max_logit_bias: int = Field(1024, ge=0, description="Entries of `logit_bias`.")
    max_models: int = Field(256, ge=1, description="Names in `routing.models`.")


DEFAULT_BOUNDS = InputBounds()
