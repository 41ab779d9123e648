"""Bodies of requests, as far as the router reads them; what else they hold is the engine's to check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationInfo, field_validator

from apportion.deployments.config.models import AUTO_MODEL
from apportion.deployments.ingress.known_fields import Kind
from apportion.router.assignment.options import OPTIONS_HELP, STRATEGY_HELP

MAX_TOKENS = 2**31 - 1  # what a 32-bit integer holds; context lengths are far below
Tokens = Annotated[int | None, Field(ge=1, le=MAX_TOKENS)]

Prompts = Annotated[str | list[str] | list[int] | list[list[int]], Field(min_length=1)]


class RoutingField(BaseModel):
    """The optional request field `routing`."""

    model_config = ConfigDict(extra="forbid")

    strategy: str | None = Field(None, description=STRATEGY_HELP)
    options: dict[str, Any] = Field(default_factory=dict, description=f"Options of that strategy. {OPTIONS_HELP}")
    max_cost_usd: float | None = Field(None, ge=0, description="Highest expected cost of this request in USD.")
    min_success: float | None = Field(None, ge=0, le=1, description="Lowest predicted chance of a good answer.")
    max_seconds: float | None = Field(
        None, gt=0, description="Expected time in seconds, from arrival to the last token, that models are chosen by."
    )
    models: list[str] | None = Field(None, min_length=1, description="Models that may answer.")
    wait_for_budget: bool = Field(False, description="Wait for money, as long as the request's time allows.")
    priority: int = Field(0, ge=-3, le=3, description="Each step doubles its weight and moves it forward in the queue.")
    timeout_s: float | None = Field(None, gt=0, description="Its time in seconds, from arrival to the last token.")
    session: str | None = Field(
        None,
        min_length=1,
        max_length=1024,
        description="The conversation that it is a turn of, by a name of the caller's; else the header x-session-id or "
        "the field prompt_cache_key.",
    )
    stream_cost: bool = Field(False, description="Tell what a stream has cost, in an SSE comment at its end.")


class _Message(BaseModel):
    model_config = ConfigDict(extra="allow")

    role: str = Field(min_length=1)
    content: str | list[dict[str, Any] | str] | None = None


class _Common(BaseModel):
    """Fields of all endpoints that the router reads."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(AUTO_MODEL, min_length=1)
    max_tokens: Tokens = None
    n: int | None = Field(None, ge=1, le=128)
    stream: bool | None = None
    routing: RoutingField | None = None


class ChatBody(_Common):
    messages: list[_Message] = Field(min_length=1)
    max_completion_tokens: Tokens = None
    tools: list[dict[str, Any]] | None = None

    @property
    def longest(self) -> int | None:
        """Tokens of the longest answer; None: what fits."""
        return self.max_completion_tokens or self.max_tokens


class CompletionBody(_Common):
    prompt: Prompts
    max_tokens: int | None = Field(None, ge=0, le=MAX_TOKENS)
    echo: bool | None = Field(None, validate_default=True)

    @field_validator("echo")
    @classmethod
    def _something_is_asked_for(cls, echo: bool | None, info: ValidationInfo) -> bool | None:
        """Scores of a prompt's own tokens are asked for with nothing to follow."""
        if not echo and info.data.get("max_tokens") == 0:
            raise ValueError("without it max_tokens 0 asks for nothing; set it, or make max_tokens at least 1")
        return echo

    @property
    def longest(self) -> int:
        # 16: OpenAI's default for completions. The engine works out one token even where none is asked for.
        return 16 if self.max_tokens is None else max(1, self.max_tokens)


class ResponseBody(_Common):
    input: str | list[dict[str, Any]] = Field(min_length=1)
    instructions: str | None = None
    max_output_tokens: Tokens = None

    @property
    def longest(self) -> int | None:
        return self.max_output_tokens


class MessageCountBody(_Common):
    messages: list[dict[str, Any]] = Field(min_length=1)
    system: str | list[dict[str, Any]] | None = None

    @property
    def longest(self) -> int:
        return 1  # of nothing that is generated


class MessageBody(MessageCountBody):
    max_tokens: int = Field(ge=1, le=MAX_TOKENS)

    @property
    def longest(self) -> int:
        return self.max_tokens


class EmbeddingBody(_Common):
    input: Prompts
    longest: ClassVar[int] = 1  # of nothing that is generated


class TokenizeBody(_Common):
    prompt: str | None = None
    messages: list[_Message] | None = Field(None, min_length=1)
    longest: ClassVar[int] = 1  # of nothing that is generated


class DetokenizeBody(_Common):
    tokens: list[int]
    longest: ClassVar[int] = 1


BODIES: Mapping[Kind, TypeAdapter[Any]] = {
    "chat": TypeAdapter(ChatBody),
    "completion": TypeAdapter(CompletionBody),
    "response": TypeAdapter(ResponseBody),
    "message": TypeAdapter(MessageBody),
    "message_count": TypeAdapter(MessageCountBody),
    "embedding": TypeAdapter(EmbeddingBody),
    "tokenize": TypeAdapter(TokenizeBody),
    "detokenize": TypeAdapter(DetokenizeBody),
}
