"""Reads what routing needs from request bodies; everything else passes to the engine as it came.

Sampling parameters, tools and response formats are vLLM's to check: its own layer does so in the engine.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from apportion.deployments.config.models import AUTO_MODEL
from apportion.deployments.ingress import anthropic, responses
from apportion.deployments.ingress.bodies import BODIES, RoutingField
from apportion.deployments.ingress.bounds import (
    check_bounds,
    check_inputs,
    check_sequences,
    decode,
    known_fields,
    refuse,
)
from apportion.deployments.ingress.embeddings import embedder
from apportion.deployments.ingress.known_fields import Kind
from apportion.deployments.ingress.media import counted, read_media
from apportion.deployments.ingress.needs import needs_of
from apportion.deployments.ingress.rules import Rules
from apportion.deployments.ingress.translation import Translated, plain_message
from apportion.deployments.ingress.variants import merged, unfit
from apportion.deployments.keys.caller import ANYBODY, Caller
from apportion.deployments.wire.headers import HEADER_PREFIX
from apportion.router.answer_length import least_tokens
from apportion.router.assignment.options import checked_strategy
from apportion.router.batch.capabilities import Capabilities
from apportion.router.batch.continuation import beginnings_of, in_tool_loop
from apportion.router.batch.messages import RouteItem, RoutingAsk
from apportion.router.batch.prompt import Content, Prompt
from apportion.router.checked import mistakes
from apportion.router.errors import InvalidRequestError, UnknownModelError
from apportion.router.prediction.conversation import template_variables
from apportion.router.traits import PLAIN, Traits, traits_of
from apportion.router.variants import model_of

SESSION_HEADER = "x-session-id"
# Fields of vLLM's that can make a prompt longer than it is counted.
UNREAD_FIELDS = frozenset({"add_special_tokens", "chat_template", "media_io_kwargs", "mm_processor_kwargs", "padding"})
_TRANSLATE: Mapping[Kind, Callable[[dict[str, Any]], Translated]] = {
    "response": responses.as_chat,
    "message": anthropic.as_chat,
    "message_count": anthropic.as_chat,
}
# What only an engine's tokenizer is asked for; the router finds the engine, and has nothing to predict from.
_TOKEN_KINDS = frozenset({"tokenize", "detokenize"})
_NOTHING_TO_READ = "1"
# Whole answers of these may be held back, and thrown away for another model's, but not their log-probabilities.
_CASCADES = frozenset({"chat", "completion"})
_WITH_LOGPROBS = frozenset({"logprobs", "top_logprobs", "prompt_logprobs", "logprob_token_ids"})
# What answering at these endpoints needs beside a chat.
_ENDPOINTS: Mapping[Kind, dict[str, int]] = {
    "response": {"responses": 1},
    "message": {"messages": 1},
    "message_count": {"messages": 1},
}
_AS_CHATS = frozenset({"chat", "tokenize"})  # their messages are a chat's, and go to the engine as they are read here
# The fields that hold what models read.
_CONTENT = ("messages", "system", "input", "instructions", "prompt", "tokens")
# The field that says how long an answer may be; the first, where the request has none.
_LENGTHS: Mapping[Kind, tuple[str, ...]] = {
    "response": ("max_output_tokens",),
    "message_count": (),
    "embedding": (),
    "tokenize": (),
    "detokenize": (),
}


class ParsedRequest:
    """A request: what the router sees (`item`), what the predictor reads (`prompt`), and the body that the engine gets.

    `ignored` are the names of fields that mean nothing here and that the engine does not get.

    `batch_told`: whether the answer's headers say in which batch of everybody's requests it was planned; `cost_told`:
    whether a stream says at its end what it has cost.
    """

    __slots__ = (
        "_body",
        "_digest",
        "_variants",
        "batch_told",
        "cost_told",
        "ignored",
        "item",
        "kind",
        "prompt",
        "stream",
    )

    def __init__(
        self,
        kind: Kind,
        item: RouteItem,
        prompt: Prompt,
        body: dict[str, Any],
        stream: bool,
        ignored: tuple[str, ...] = (),
        variants: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.kind = kind
        self.item = item
        self.prompt = prompt
        self.stream = stream
        self.ignored = ignored
        self.batch_told = True
        self.cost_told = False
        self._body = body
        self._variants = variants or {}
        self._digest: bytes | None = None

    def engine_body(self, model: str, max_tokens: int | None = None) -> bytes:
        """The body as it came, but for the model's name, and without `routing` and what means nothing here.

        A variant's engine gets the variant's own fields with it.

        Args:
            model: or a variant.
            max_tokens: the longest answer, where the request allows a longer one.
        """
        body = merged(self.kind, self._body, self._variants.get(model, {})) | {"model": model_of(model)}
        if max_tokens is not None:
            names = _LENGTHS.get(self.kind, ("max_tokens", "max_completion_tokens"))
            fields = [name for name in names if name in body] or names[:1]
            body |= {name: min(body.get(name, max_tokens), max_tokens) for name in fields}
        return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()

    def digest(self) -> bytes:
        """Of account, content and form of the answer, whatever model and sampling; what was forgotten keeps its own.

        Of the account, so that nobody can have another's prompts refused by making engines fail with them.
        """
        if self._digest is None:
            content = [self._body.get(name) for name in _CONTENT]
            form = [self._body.get(name) for name in ("response_format", "structured_outputs")]
            text = json.dumps([self.item.account.owner, content, self.prompt.tools, form], ensure_ascii=False)
            self._digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        return self._digest

    @property
    def known_digest(self) -> bytes | None:
        """The digest where it was asked for already, as it is of all that are answered."""
        return self._digest

    def forget(self) -> None:
        """Lets go of all content: no engine will be asked (again)."""
        self.digest()
        self._body = {}
        self.prompt = Prompt("")


def parse(kind: Kind, raw: bytes, headers: Mapping[str, str], rules: Rules, caller: Caller = ANYBODY) -> ParsedRequest:
    """Reads one request.

    Args:
        caller: who asks; may be allowed only some of the models.

    Raises:
        InvalidRequestError: the body is no JSON object, or a field that routing reads is wrong; names the field.
        UnknownModelError: a model is not served here; names those that are.
        PermissionDeniedError: the caller may not ask for this.
    """
    return parse_object(kind, decode(raw), headers, rules, caller)


def parse_object(
    kind: Kind, body: Any, headers: Mapping[str, str], rules: Rules, caller: Caller = ANYBODY
) -> ParsedRequest:
    """As `parse`, for a body that is decoded already."""
    if not isinstance(body, dict):
        raise InvalidRequestError(f"the body must be a JSON object, not {type(body).__name__}")
    body, ignored = known_fields(kind, body, refuse_unknown=rules.refuse_unknown)
    check_bounds(kind, body, rules.bounds)
    try:
        checked = BODIES[kind].validate_python(body)
    except ValidationError as error:
        raise _invalid(error) from None
    wishes = _routing(checked.routing, headers)
    ask = _ask(wishes, rules)
    model = rules.model_of(checked.model)
    named = None if model == AUTO_MODEL else model
    if named is not None:
        _check_models([named], rules.models, "model")
    if kind == "embedding":
        named = embedder(named, ask, rules.models, rules.embedders, caller)
    ask = caller.restrict(named, ask)
    read = _TRANSLATE[kind](body) if kind in _TRANSLATE else Translated(body, body)
    ignored = (*ignored, *read.ignored)
    if rules.refuse_unknown:
        refuse(read.ignored)
    if rules.variants:
        ask = replace(ask, unfit=unfit(kind, {**body, **read.chat}, rules.variants))
    seen = _seen(kind, checked, read.chat, named)
    if kind == "embedding":
        check_inputs(seen.prompts, rules.bounds)
    else:
        check_sequences(seen.prompts, checked.n or 1, rules.bounds)
    sequences, shortest = (checked.n or 1) * seen.prompts, least_tokens(body, checked.longest)
    session = _session(wishes, headers, body, by_user=rules.session_by_user) if seen.needs.text else None
    item = RouteItem(
        rules.new_name(caller.account),
        model=named,
        sequences=sequences,
        max_tokens=checked.longest,
        min_tokens=shortest,
        needs=seen.needs,
        ask=ask,
        account=caller.account,
        session=session,
        beginnings=() if session is None else beginnings_of(seen.content),
        in_tool_loop=session is not None and in_tool_loop(seen.content),
        prompts=seen.prompts,
        unread_prompt=kind not in _TOKEN_KINDS and not UNREAD_FIELDS.isdisjoint(body),
        priority=wishes.priority,
        timeout_s=math.inf if wishes.timeout_s is None else wishes.timeout_s,
        may_cascade=kind in _CASCADES and not checked.stream and sequences == 1 and _WITH_LOGPROBS.isdisjoint(body),
    )
    caller.check(item)
    prompt = Prompt(
        seen.content,
        tools=read.chat.get("tools") if seen.templated else None,
        template_variables=template_variables(read.chat) if seen.templated else {},
        traits=seen.traits,
        max_tokens=checked.longest,
        min_tokens=shortest,
        sequences=sequences,
    )
    forwarded = {name: value for name, value in read.body.items() if name != "routing"}
    if "messages" in forwarded and kind in _AS_CHATS:
        forwarded["messages"] = seen.messages
    parsed = ParsedRequest(kind, item, prompt, forwarded, bool(checked.stream), ignored, rules.variants)
    parsed.cost_told = wishes.stream_cost
    return parsed


def _session(field: RoutingField, headers: Mapping[str, str], body: Mapping[str, Any], *, by_user: bool) -> str | None:
    """The request's session, as a digest: names may be long, and tell something of people."""
    names = (field.session, headers.get(SESSION_HEADER), body.get("prompt_cache_key"), by_user and body.get("user"))
    name = next((name for name in names if name and isinstance(name, str)), None)
    return None if name is None else hashlib.blake2b(name.encode(errors="replace"), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class _Seen:
    """What models would read of a request and must be able to do for it.

    `messages`: a chat's, as engines get them. `templated`: a chat template makes its prompt.
    """

    content: Content
    needs: Capabilities
    traits: Traits = PLAIN
    prompts: int = 1
    messages: list[dict[str, Any]] = field(default_factory=list)
    templated: bool = False


def _seen(kind: Kind, checked: Any, chat: dict[str, Any], named: str | None) -> _Seen:
    if kind == "completion":
        needs, traits = needs_of("completion", chat), traits_of(checked.prompt, chat)
        return _Seen(checked.prompt, needs, traits, _count_prompts(checked.prompt, named))
    if kind == "embedding":
        return _Seen(checked.input, Capabilities(embeddings=1), prompts=_count_prompts(checked.input, named))
    messages = [plain_message(message) for message in chat.get("messages", ())]
    media = counted(messages) if kind in _TRANSLATE else read_media(messages)
    if kind in _TOKEN_KINDS:
        _check_tokens_request(kind, chat, named)
        needs = Capabilities(chat=int("messages" in chat), tokenize=1, images=media.images, audio=media.audio)
        return _Seen(_NOTHING_TO_READ, needs, messages=media.messages)
    needs = needs_of("chat", chat, images=media.images, audio=media.audio)._replace(**_ENDPOINTS.get(kind, {}))
    traits = traits_of(media.content, chat)
    return _Seen(media.content, needs, traits, messages=media.messages, templated=True)


def _check_tokens_request(kind: Kind, body: dict[str, Any], named: str | None) -> None:
    if named is None:
        raise InvalidRequestError("model: tokens are one model's; name it", param="model")
    if kind == "tokenize" and ("prompt" in body) == ("messages" in body):
        raise InvalidRequestError("prompt: give either a prompt or messages", param="prompt")


def _routing(field: RoutingField | None, headers: Mapping[str, str]) -> RoutingField:
    """The field `routing`, with headers for what it does not say."""
    values: dict[str, Any] = {} if field is None else field.model_dump(exclude_unset=True)
    for name in (
        "strategy",
        "max-cost-usd",
        "min-success",
        "max-seconds",
        "models",
        "priority",
        "timeout-s",
        "wait-for-budget",
        "session",
        "stream-cost",
    ):
        value = headers.get(HEADER_PREFIX + name)
        key = name.replace("-", "_")
        if value is not None and key not in values:
            values[key] = [part.strip() for part in value.split(",")] if name == "models" else value
    try:
        return RoutingField.model_validate(values) if values else _NOTHING_SAID
    except ValidationError as error:
        raise _invalid(error, prefix=("routing",)) from None


def _ask(field: RoutingField, rules: Rules) -> RoutingAsk:
    if field is _NOTHING_SAID:
        return _NOTHING_ASKED
    if field.strategy is not None:
        _check_strategy(field.strategy, field.options, rules.n_columns)
    elif field.options:
        raise InvalidRequestError(
            "routing.options need a routing.strategy that they belong to", param="routing.options"
        )
    if field.models is not None:
        _check_models(field.models, rules.models, "routing.models")
    return RoutingAsk(
        strategy=field.strategy,
        options=field.options,
        max_cost_usd=field.max_cost_usd,
        min_success=field.min_success,
        max_seconds=field.max_seconds,
        models=None if field.models is None else tuple(dict.fromkeys(field.models)),
        wait_for_budget=field.wait_for_budget,
    )


_NOTHING_SAID = RoutingField()
_NOTHING_ASKED = RoutingAsk()


def _check_strategy(name: str, options: dict[str, Any], n_models: int) -> None:
    try:
        checked_strategy(name, options, n_models)
    except InvalidRequestError as error:
        param = "routing.strategy" if error.param == "strategy" else "routing.options"
        raise InvalidRequestError(error.message, param=param) from None


def _check_models(names: list[str], models: tuple[str, ...], param: str) -> None:
    for name in names:
        if name not in models:
            raise UnknownModelError(
                f"the model {name!r} does not exist; use {AUTO_MODEL!r} or one of {', '.join(models)}",
                param=param,
            )


def _count_prompts(prompt: Any, named: str | None) -> int:
    if isinstance(prompt, str):
        return 1
    if not isinstance(prompt[0], str) and named is None:
        raise InvalidRequestError(
            "token ids belong to one model's tokenizer; name that model, or send text to be routed",
            param="prompt",
        )
    return 1 if isinstance(prompt[0], int) else len(prompt)


def _invalid(error: ValidationError, prefix: tuple[str, ...] = ()) -> InvalidRequestError:
    first = mistakes(error, prefix=prefix, drop_tags=True)[0]
    return InvalidRequestError(str(first), param=first.field)
