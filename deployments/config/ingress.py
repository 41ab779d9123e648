"""The configuration's section on the HTTP front."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from apportion.deployments.config.bounds import InputBounds
from apportion.router.checked import Section

LARGEST_WEIGHT = 70  # bytes of memory that one of a body may take, where it is all brackets and commas


class CorsConfig(Section):
    """Which web pages may call the service from a browser."""

    allow_origins: tuple[str, ...] = Field(
        min_length=1, description="Origins such as `https://chat.example.org`; `*`: all."
    )
    max_age_s: int = Field(600, ge=0, description="How long browsers remember what they were allowed.")


class RouteConfig(Section):
    """`/v1/route`, which plans requests and runs none; requests that are run go first."""

    max_items: int = Field(256, ge=1, description="Most requests of one call.")
    max_body_bytes: int = Field(1 << 20, ge=1024, description="Larger bodies are answered with 413.")
    timeout_s: float = Field(30.0, gt=0, description="Longest time of a call.")
    requests_per_minute: float = Field(
        3000,
        gt=0,
        description="Requests to plan, counted one by one, of each API key, and of all callers without a key together.",
    )


class IngressConfig(Section):
    """The HTTP front."""

    num_replicas: int = Field(1, ge=1, description="Ingress replicas.")
    num_cpus: float = Field(0.5, ge=0, description="CPUs that Ray reserves for one.")
    max_body_bytes: int = Field(4 << 20, ge=1024, description="Larger bodies, opened, are answered with 413.")
    unknown_fields: Literal["ignore", "refuse"] = Field(
        "ignore",
        description="Request fields that neither OpenAI nor vLLM knows: left out and named in the header "
        "x-router-ignored, or answered with 400.",
    )
    session_by_user: bool = Field(
        False, description="Requests that name no session belong to one of their field `user`, if they have it."
    )
    model_aliases: dict[str, str] = Field(
        default_factory=dict,
        description="Models by the names that clients insist on, which may hold `*`: `claude-*: auto`; the first that "
        "fits holds.",
    )
    cors: CorsConfig | None = Field(None, description="Web pages that may call the service; null: none.")
    upload_timeout_s: float = Field(
        60.0, gt=0, description="For a body to come, of its request's time; slower ones are answered with 408."
    )
    max_requests: int | None = Field(
        None,
        ge=1,
        description="Most requests in flight in a replica; more get 429. Null: by its descriptors, 10,000 at most.",
    )
    max_in_flight_bytes: int = Field(
        1 << 30,
        description="Memory of the bodies in one replica, parsed copies included; more are answered with 429.",
    )
    bounds: InputBounds = Field(default_factory=lambda: InputBounds(), description="Bounds of a request.")
    batch_for_all: bool = Field(
        False,
        description="Tell every caller in the header x-router-batch how many requests of everybody were planned with "
        "his and what they may cost; false: with API keys only those whose key says `operator: true`.",
    )
    console: bool = Field(
        True,
        description="Serve the page /console, which shows how the service does: to everybody where there are no keys, "
        "else to keys that say `console: true` or `operator: true`.",
    )
    route: RouteConfig = Field(default_factory=lambda: RouteConfig(), description="Bounds of /v1/route.")

    @model_validator(mode="after")
    def _one_body_fits(self) -> IngressConfig:
        if self.max_in_flight_bytes < LARGEST_WEIGHT * self.max_body_bytes:
            raise ValueError(
                f"max_in_flight_bytes must be at least {LARGEST_WEIGHT} times max_body_bytes, or one body may not fit; "
                f"make it {LARGEST_WEIGHT * self.max_body_bytes}"
            )
        return self
