"""A model that somebody else runs: where it answers, by which keys, how much of it there is, and what it takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from apportion.router.checked import Section

ENV = "env:"  # before the name of an environment variable that holds a header's value
EndpointName = Literal["chat", "completions", "responses", "messages", "embeddings"]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
_NAME = re.compile(r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")  # RFC 9110, 5.6.2
_SECRET = re.compile(r"auth|key|token|secret|cookie", re.IGNORECASE)
# The service's own to set, or a connection's.
_OWNED = frozenset({"connection", "content-encoding", "content-length", "content-type", "host", "transfer-encoding"})


def _is_a_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{url!r}: give the address before /chat/completions, such as https://api.example.com/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("nothing but scheme, host, port and path; keys come by api_key_env or api_key_file")
    return url.rstrip("/")


class _Keyed(Section):
    api_key_env: Variable | None = Field(
        None, description="Environment variable, where its replica runs, that holds the key; sent as a bearer token."
    )
    api_key_file: Path | None = Field(
        None, description="File on its replica's node that holds the key; read again when it changes."
    )
    requests_per_minute: float | None = Field(
        None, gt=0, description="Requests that the provider takes in a minute; null: nobody says, its refusals teach."
    )
    tokens_per_minute: float | None = Field(
        None, gt=0, description="Tokens of prompts and answers that it takes in a minute; null: as above."
    )

    @model_validator(mode="after")
    def _one_key(self) -> _Keyed:
        if self.api_key_env is not None and self.api_key_file is not None:
            raise ValueError("the key comes from `api_key_env` or `api_key_file`: give one of them")
        return self


class AccountConfig(_Keyed):
    """One of several accounts with the same provider: a replica of the model, with a key and limits of its own."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", description="Differs within the model; ends the deployment's name.")


class ExternalConfig(_Keyed):
    """A model behind an OpenAI-compatible endpoint of somebody else's: a provider, or a server that you run yourself.

    What it costs stands beside it, `cached_input_usd_per_million` included, and `max_num_seqs` bounds what is asked of
    it at once.
    """

    base_url: Annotated[str, AfterValidator(_is_a_url)] = Field(
        description="Address before `/chat/completions`, mostly ending in `/v1`."
    )
    model: str = Field(min_length=1, description="The model's name there.")
    accounts: tuple[AccountConfig, ...] | None = Field(
        None, min_length=1, description="Several accounts, each instead of key and limits here; null: one."
    )
    headers: dict[str, str] = Field(
        default_factory=dict,
        description=f"Sent with every request; `{ENV}NAME` stands for the environment variable NAME, which whatever is "
        "secret has to come from.",
    )
    endpoints: tuple[EndpointName, ...] = Field(
        ("chat",), min_length=1, description="Where it answers: chat, completions, responses, messages, embeddings."
    )
    fields: Literal["openai", "vllm"] | tuple[str, ...] = Field(
        "openai",
        description="Fields of requests that it takes: those of the APIs, also those that vLLM adds, or these beside "
        "`model`, the content, `stream` and the answer's length, which are always passed on.",
    )
    unknown_fields: Literal["drop", "refuse"] = Field(
        "drop",
        description="What becomes of other fields, where it is this model that answers: they are left out and named in "
        "the header x-router-ignored, or the request is refused.",
    )
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="By which of the two its chats are told how long an answer may be."
    )
    tokenizer: str | None = Field(
        None,
        description="Folder or hub id of its tokenizer and chat template, or `zoo:NAME`. Null: a prompt counts as "
        "many tokens as it has bytes, the most that it can have, and expected costs go by what was counted so far.",
    )
    signals: bool = Field(
        False,
        description="Ask it for log-probabilities where records or routing want to know how sure the model was; only "
        "for a provider that takes them in every chat and completion, since what it refuses fails.",
    )

    @model_validator(mode="after")
    def _accounts_have_the_keys(self) -> ExternalConfig:
        if self.accounts is None:
            return self
        names = [account.name for account in self.accounts]
        if len(set(names)) < len(names):
            raise ValueError(f"accounts {names}: every account of a model needs its own name")
        owned = [name for name in _Keyed.model_fields if getattr(self, name) is not None]
        if owned:
            raise ValueError(f"{owned} belong into the accounts of this model; remove them beside these")
        return self

    @model_validator(mode="after")
    def _headers_are_right(self) -> ExternalConfig:
        for name, value in self.headers.items():
            if not _NAME.match(name) or name.lower() in _OWNED:
                raise ValueError(f"headers: {name!r} cannot be set; remove it, or correct its name")
            if value.startswith(ENV) or not _SECRET.search(name):
                continue
            raise ValueError(
                f"headers.{name}: what it says is shown by Ray's dashboard; put it into the environment, and give "
                f"{ENV}NAME"
            )
        return self

    def of_account(self, name: str) -> ExternalConfig:
        """As a replica of one of the accounts asks for it; a model without accounts is as it is."""
        account = next((one for one in self.accounts or () if one.name == name), None)
        if account is None:
            return self
        return self.model_copy(update={"accounts": None, **account.model_dump(exclude={"name"})})

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables that hold what is secret."""
        keyed = [account.api_key_env for account in self.accounts or (self,)]
        told = [value.removeprefix(ENV) for value in self.headers.values() if value.startswith(ENV)]
        return tuple(dict.fromkeys(name for name in [*keyed, *told] if name))
