"""What the predictor reads of a request, and which the router never sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from apportion.router.batch.size import chars_of
from apportion.router.traits import PLAIN, Traits

Content = list[dict[str, Any]] | str | list[str] | list[int] | list[list[int]]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request's words, and what else its forecast depends on.

    Args:
        content: a chat's messages, where pictures and clips are placeholders; a prompt, several, or their token ids.
        tools: that the model may call.
        template_variables: what it tells chat templates beside its content.
        traits: what its success is predicted from beside its text.
        max_tokens: of an answer; None: as many as fit.
        min_tokens: that each answer has at least, as far as they fit.
        sequences: answers that the engine writes for it.

    Attributes:
        chars: about how much text there is to read.
    """

    content: Content
    tools: list[dict[str, Any]] | None = None
    template_variables: Mapping[str, Any] = field(default_factory=dict)
    traits: Traits = PLAIN
    max_tokens: int | None = None
    min_tokens: int = 0
    sequences: int = 1

    chars: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "chars", chars_of([self.content, self.tools or (), dict(self.template_variables)]))
