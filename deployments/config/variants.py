"""Variants of a model in the configuration: ways of asking it, each with a name and fields of its own."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from apportion.router.checked import Section, nearest

# What decides how a model answers, and neither what it is asked nor what form its answer has.
VARIANT_FIELDS = frozenset(
    {
        "chat_template_kwargs",
        "frequency_penalty",
        "include_reasoning",
        "min_p",
        "min_tokens",
        "presence_penalty",
        "reasoning_effort",
        "repetition_penalty",
        "temperature",
        "thinking_token_budget",
        "top_k",
        "top_p",
    }
)


class VariantConfig(Section):
    """One way of asking a model: how much it is to think, and how long it may answer."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9_.-]+$",
        description="Differs within the model; MODEL@NAME is its name in the API and in the outcomes table.",
    )
    request: dict[str, Any] = Field(
        default_factory=dict,
        description="Fields that its engine gets with each request, as chats have them: "
        f"{', '.join(sorted(VARIANT_FIELDS))}. A request that gives one of them another value is not for the variant.",
    )
    max_tokens: int | None = Field(
        None, ge=1, description="Longest answer in tokens; a request may ask for less. Null: what fits."
    )
    prior_success: float | None = Field(
        None, ge=0, le=1, description="Chance of a good answer while the predictor does not know it; null: the model's."
    )

    @field_validator("request")
    @classmethod
    def _known_fields(cls, request: dict[str, Any]) -> dict[str, Any]:
        for name, value in request.items():
            if name not in VARIANT_FIELDS:
                raise ValueError(f"{name}: no field that a variant sets{nearest(name, VARIANT_FIELDS)}")
            if value is None:
                raise ValueError(f"{name}: null sets nothing; remove it, or give it a value")
        variables = request.get("chat_template_kwargs", {})
        if not isinstance(variables, dict):
            raise ValueError("chat_template_kwargs: give a mapping of the template's variables")
        return request
