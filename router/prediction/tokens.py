"""Counting a request's input tokens for every model, as its engine does: with its tokenizer and its chat template."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apportion.router.arrays import IntArray
from apportion.router.errors import ApportionError, ConfigurationError, InvalidRequestError
from apportion.router.estimates import unreadable
from apportion.router.hub import out_of_reach
from apportion.router.prediction.byte_counts import ByteCounts
from apportion.router.prediction.chat_template import ContentFormat, NoTemplateError, render
from apportion.router.prediction.length_bound import LengthBound
from apportion.router.torch_companions import hide_misfits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

Content = str | Sequence[Any]
"""A prompt, a chat's messages, token ids, or several prompts (texts or token ids), whose tokens are
summed.
"""

Tools = list[dict[str, Any]] | None
Variables = Mapping[str, Any]  # of a chat template, beside messages and tools


@dataclass(frozen=True)
class TokenizerSource:
    """Where a model's tokenizer comes from and how it renders chats; what is left out is as the tokenizer says.

    Args:
        source: folder or hub id; None: nobody here has its tokenizer.
        chat_template: Jinja text, or a file that holds it.
        content_format: how the template reads contents, `auto` as its text shows.
        variables: of the template, where a request says nothing else.
    """

    source: str | None
    revision: str | None = None
    trust_remote_code: bool = False
    chat_template: str | None = None
    content_format: ContentFormat = "auto"
    variables: Variables = field(default_factory=dict)


@dataclass(frozen=True)
class Counts:
    """What N requests count on M models.

    `tokens` (N, M). `errors` by row: no model can read the request. `refusals` by row and column: why a model cannot
    read a request that others can; its count stands at the largest of theirs.
    """

    tokens: IntArray
    errors: dict[int, ApportionError]
    refusals: dict[int, dict[int, str]]


@dataclass(frozen=True)
class Counted:
    """A model's tokenizer with how it renders chats."""

    tokenizer: PreTrainedTokenizerFast
    chat_template: str | None = None
    content_format: ContentFormat = "auto"
    variables: Variables = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The same for models that count alike."""
        template = self.chat_template or self.tokenizer.chat_template
        return repr((self.tokenizer.backend_tokenizer.to_str(), template, self.content_format, self.variables))


class TokenCounter:
    """Counts for `models`; models that count alike are counted once.

    Args:
        counted: by model; None: nobody here has its tokenizer.
        max_model_len: by model; a text that by its length alone exceeds it counts for the fewest tokens that it can
            have. None: every text is counted.
    """

    def __init__(self, counted: Mapping[str, Counted | None], max_model_len: Mapping[str, int] | None = None) -> None:
        self.models = tuple(counted)
        columns: dict[str | None, list[int]] = {}
        for column, one in enumerate(counted.values()):
            columns.setdefault(None if one is None else one.key, []).append(column)
        self._groups = [
            ByteCounts(shared)
            if (first := counted[self.models[shared[0]]]) is None
            else _Group(
                first,
                shared,
                None if max_model_len is None else max(max_model_len[self.models[column]] for column in shared),
            )
            for shared in columns.values()
        ]

    def token_chars(self) -> tuple[int | None, ...]:
        """(M,): of a text's characters that are not blank, the most that one token stands for; None: any number."""
        found = {column: group.token_chars for group in self._groups for column in group.columns}
        return tuple(found[column] for column in range(len(self.models)))

    @classmethod
    def load(
        cls,
        sources: Mapping[str, TokenizerSource],
        max_model_len: Mapping[str, int] | None = None,
        *,
        download: bool = True,
    ) -> TokenCounter:
        """Load the tokenizer of every model.

        Args:
            sources: by model, in the order of the counts' columns.
            max_model_len: as for the constructor.
            download: False takes only what this machine holds, in a folder or in the hub's cache.

        Raises:
            ConfigurationError: a model has no tokenizer, none of the fast kind, or no such template; names the model.
        """
        return cls({model: _load(model, source, download) for model, source in sources.items()}, max_model_len)

    def count(self, content: Content, tools: Tools = None, variables: Variables | None = None) -> IntArray:
        """Input tokens of one request on every model, (M,), generation prompt included.

        Raises:
            InvalidRequestError: a model cannot read the request.
        """
        counts = self.count_batch([content], [tools], [variables or {}])
        for error in counts.errors.values():
            raise error
        for refusals in counts.refusals.values():
            raise unreadable({self.models[column]: reason for column, reason in refusals.items()})
        return np.asarray(counts.tokens[0])

    def count_batch(
        self,
        contents: Sequence[Content],
        tools: Sequence[Tools] | None = None,
        variables: Sequence[Variables] | None = None,
    ) -> Counts:
        """Counts requests; one that cannot be read gets an error of its own and spoils no other.

        Args:
            variables: of the chat templates, request by request.
        """
        n = len(contents)
        tokens = np.zeros((n, len(self.models)), dtype=np.int64)
        counts = Counts(tokens, {}, {})
        for group in self._groups:
            totals, refused = group.count(contents, tools or [None] * n, variables or [{}] * n, counts.errors)
            tokens[:, group.columns] = totals[:, None]
            for row, reason in refused.items():
                counts.refusals.setdefault(row, {}).update(dict.fromkeys(group.columns, reason))
        for row, refusals in counts.refusals.items():
            tokens[row, list(refusals)] = tokens[row].max()
            if len(refusals) == len(self.models):
                by_name = {self.models[column]: reason for column, reason in sorted(refusals.items())}
                counts.errors.setdefault(row, unreadable(by_name))
        tokens[list(counts.errors)] = 0
        return counts


def _load(model: str, source: TokenizerSource, download: bool) -> Counted | None:
    if source.source is None:
        return None
    hide_misfits()
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.source,
            revision=source.revision or "main",
            trust_remote_code=source.trust_remote_code,
            local_files_only=not download or out_of_reach(),
        )
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError(
            f"source: the tokenizer of {model!r} cannot be loaded from {source.source!r}; {error}"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ConfigurationError(
            f"source: {source.source!r} of {model!r} has no fast tokenizer; add a tokenizer.json to it"
        )
    return Counted(tokenizer, _template(model, source.chat_template), source.content_format, source.variables)


def _template(model: str, given: str | None) -> str | None:
    """A chat template from its file, or the text that it is."""
    if given is None or any(sign in given for sign in "{}\n"):
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"engine_args.chat_template: the file of {model!r} cannot be read ({error}); correct the path, or give the "
            "template itself"
        ) from error


@dataclass(frozen=True)
class _Group:
    """Models that count alike, their columns, and the most tokens that any of them reads."""

    counted: Counted
    columns: list[int]
    longest: int | None = None

    @cached_property
    def _bound(self) -> LengthBound | None:
        return None if self.longest is None else LengthBound.of(self.counted.tokenizer.backend_tokenizer)

    @property
    def token_chars(self) -> int | None:
        """Characters that a token stands for at most; None: any number."""
        return None if self._bound is None else self._bound.chars

    def count(
        self,
        contents: Sequence[Content],
        tools: Sequence[Tools],
        variables: Sequence[Variables],
        errors: dict[int, ApportionError],
    ) -> tuple[IntArray, dict[int, str]]:
        """Tokens (n_requests,), and by row why these models cannot read it; adds to `errors` what none can read."""
        totals = np.zeros(len(contents), dtype=np.int64)
        texts: dict[bool, list[str]] = {False: [], True: []}
        owners: dict[bool, list[int]] = {False: [], True: []}
        refused: dict[int, str] = {}
        for row, content in enumerate(contents):
            try:
                parts = self._parts(content, tools[row], variables[row])
                for part, special in parts:
                    if not isinstance(part, str):
                        totals[row] += part
                    elif (least := self._too_many(part)) is not None:
                        totals[row] += least * len(parts)  # too much for a context in the mean of several, too
                    else:
                        texts[special].append(part)
                        owners[special].append(row)
            except ApportionError as error:
                errors[row] = error
            except Exception as error:  # whatever a template makes of it, it is this request's and these models' alone
                refused[row] = _reason(error)
        backend = self.counted.tokenizer.backend_tokenizer
        for special, rows in owners.items():
            encoded = backend.encode_batch_fast(texts[special], add_special_tokens=special)
            np.add.at(totals, rows, np.array([len(encoding.ids) for encoding in encoded], dtype=np.int64))
        return totals, refused

    def _too_many(self, text: str) -> int | None:
        """The fewest tokens that a text can have, if these are more than any of the models reads."""
        if self._bound is None or self.longest is None:
            return None
        least = self._bound.least_tokens(text)
        return least if least > self.longest else None

    def _parts(self, content: Content, tools: Tools, variables: Variables) -> list[tuple[str | int, bool]]:
        """Texts to tokenize, each with whether special tokens are added, or numbers of tokens given as
        ids.
        """
        if isinstance(content, str):
            return [(content, True)]
        if content and all(isinstance(token, int) for token in content):
            return [(len(content), False)]
        if content and all(isinstance(message, Mapping) for message in content):
            return [(self._render(content, tools, variables), False)]
        if not content or not all(isinstance(part, str | Sequence) for part in content):
            raise InvalidRequestError("content: give a prompt, token ids, several of these, or a chat's messages")
        return [part for prompt in content for part in self._parts(prompt, tools, variables)]

    def _render(self, messages: Sequence[Any], tools: Tools, variables: Variables) -> str:
        return render(
            self.counted.tokenizer,
            messages,
            tools,
            template=self.counted.chat_template,
            content_format=self.counted.content_format,
            variables={"add_generation_prompt": True, **self.counted.variables, **variables},
        )


def _reason(error: Exception) -> str:
    """Why a template refuses: its own words, or what kind of error it ran into."""
    from jinja2.exceptions import TemplateError

    if isinstance(error, NoTemplateError):
        return "has no chat template; send a prompt to /v1/completions instead"
    if isinstance(error, TemplateError | TypeError | ValueError):
        return f"its chat template refuses these messages: {error}"
    logger.warning("a request's tokens cannot be counted: %s", type(error).__name__)
    return "its chat template cannot render these messages; check messages and tools"
