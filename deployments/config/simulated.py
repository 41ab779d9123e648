"""Simulated engines in the configuration."""

from __future__ import annotations

from pydantic import Field

from apportion.router.checked import Section


class SimulatedSignals(Section):
    """Simulated confidence: answers are right or wrong by lot, and how sure the engine says it was goes with that."""

    auc: float = Field(
        0.8, ge=0.5, lt=1, description="Chance that a right answer's signals are above a wrong one's, each of the four."
    )
    success: float = Field(0.5, ge=0, le=1, description="Share of right answers.")
    wrong_answer: str = Field("simulated mistake", description="Text of a whole answer that is wrong.")


class SimulatedConfig(Section):
    """Timings of a simulated engine; for measuring the router alone."""

    answer: str = Field("simulated answer", description="Text that every request is answered with.")
    tokens: int = Field(16, ge=1, description="Output tokens of an answer (chunks of a stream).")
    thinking_tokens: int = Field(
        0,
        ge=0,
        description="More output tokens where a request says `enable_thinking` to the template; "
        "`thinking_token_budget` at most.",
    )
    first_token_s: float = Field(0.0, ge=0, description="Seconds until the first token.")
    token_s: float = Field(0.0, ge=0, description="Seconds between two tokens.")
    cached_prompts: int = Field(
        0, ge=0, description="Prompts that it remembers; what another one has in common with their beginning is cached."
    )
    signals: SimulatedSignals | None = Field(
        None, description="What it says of how sure it was, where its ingress asks; null: nothing."
    )
