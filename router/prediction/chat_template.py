"""A model's chat template, applied as vLLM applies it (`vllm/renderers/hf.py`)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from apportion.router.prediction.conversation import Message, conversation, tool_objects

if TYPE_CHECKING:
    from jinja2 import nodes
    from transformers import PreTrainedTokenizerFast

ContentFormat = Literal["auto", "string", "openai"]


class NoTemplateError(ValueError):
    """The model has no chat template."""


def render(
    tokenizer: PreTrainedTokenizerFast,
    messages: Sequence[Message],
    tools: list[dict[str, Any]] | None,
    *,
    template: str | None,
    content_format: ContentFormat,
    variables: Mapping[str, Any],
) -> str:
    """The text of a chat.

    Args:
        template: instead of the tokenizer's own.
        content_format: how the template reads contents; `auto`: as its text shows.
        variables: of the template, beside messages and tools.

    Raises:
        InvalidRequestError: no template could read the messages.
        NoTemplateError: the model has none.
        Exception: whatever the template raises to refuse them.
    """
    if template is None and not tokenizer.chat_template:
        raise NoTemplateError
    text = tokenizer.get_chat_template(template, tools=tools)
    as_parts = walks_through_content(text) if content_format == "auto" else content_format == "openai"
    turns = conversation(messages, as_parts=as_parts)
    if "'developer'" not in text and '"developer"' not in text and any(turn["role"] == "developer" for turn in turns):
        turns = _one_system_turn(turns)
    owned = set(inspect.signature(tokenizer.apply_chat_template).parameters) - _PASSED
    rendered = tokenizer.apply_chat_template(
        turns,
        tools=tool_objects(tools),
        chat_template=text,
        tokenize=False,
        **{name: value for name, value in variables.items() if name not in owned},
    )
    return str(rendered)


_PASSED = {"add_generation_prompt", "continue_final_message", "documents"}


def _one_system_turn(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Developer turns as system turns, and all of these as one in front where another turn stands before any."""
    turns = [{**turn, "role": "system"} if turn["role"] == "developer" else turn for turn in turns]
    for turn in turns:
        if turn["role"] == "system":
            turn.pop("tools", None)
    system = [turn for turn in turns if turn["role"] == "system"]
    if len(system) == 1 and turns[0]["role"] == "system":
        return turns
    texts = [
        turn["content"]
        if isinstance(turn["content"], str)
        else "\n".join(part["text"] for part in turn["content"] if "text" in part)
        for turn in system
    ]
    merged = {"role": "system", "content": "\n\n".join(text for text in texts if text)}
    return [merged, *(turn for turn in turns if turn["role"] != "system")]


@lru_cache(maxsize=64)
def walks_through_content(template: str) -> bool:
    """Whether a template has a loop over a message's content, so that it takes a list of parts."""
    from transformers.utils import chat_template_utils

    # The environment that renders it: with its extensions, any template that renders is read.
    compiled = chat_template_utils._compile_jinja_template(template)
    root = compiled.environment.parse(template)
    return any(True for _ in _content_loops(root))


def _content_loops(root: nodes.Template) -> Iterator[nodes.For]:
    """Loops over a message's content, over a variable of this name, or over what a macro is given as content."""
    from jinja2 import nodes

    messages = [
        loop.target.name
        for name in _names_of(root, "messages")
        for loop in root.find_all(nodes.For)
        if isinstance(loop.target, nodes.Name) and _reads(loop.iter, name)
    ]
    within: dict[int, set[str]] = {}  # parameters that are contents, by loop within a macro
    for macro in root.find_all(nodes.Macro):
        given = set(_content_parameters(root, macro, messages))
        for loop in macro.find_all(nodes.For):
            within[id(loop)] = within.get(id(loop), set()) | given
    for loop in root.find_all(nodes.For):
        named = loop.iter.name if isinstance(loop.iter, nodes.Name) else None
        if (
            any(_reads(loop.iter, message, "content") for message in messages)
            or (named is not None and named in within.get(id(loop), set()))
            or (named == "content" and id(loop) not in within)
        ):
            yield loop


def _content_parameters(root: nodes.Template, macro: nodes.Macro, messages: Sequence[str]) -> Iterator[str]:
    """The macro's parameters that some call hands a message's content."""
    from jinja2 import nodes

    names = [argument.name for argument in macro.args]
    for call in root.find_all(nodes.Call):
        if not isinstance(call.node, nodes.Name) or call.node.name != macro.name:
            continue
        given = [*zip(names, call.args, strict=False), *((keyword.key, keyword.value) for keyword in call.kwargs)]
        for name, value in given:
            if name in names and any(_reads(value, message, "content") for message in messages):
                yield name


def _names_of(root: nodes.Template, name: str) -> list[str]:
    """The variable, and those that it or a slice of it is assigned to."""
    from jinja2 import nodes

    found = [name]
    for known in found:  # grows while it is walked through
        for assignment in root.find_all(nodes.Assign):
            target = assignment.target
            if isinstance(target, nodes.Name) and target.name not in found and _reads(assignment.node, known):
                found.append(target.name)
    return found


def _reads(node: nodes.Node | None, name: str, key: str | None = None) -> bool:
    """Whether an expression is a variable (or the key of it), filtered, tested or sliced."""
    from jinja2 import nodes

    if isinstance(node, nodes.Filter | nodes.Test):
        return node.node is not None and _reads(node.node, name, key)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        return _reads(node.node, name, key)
    if key is None:
        return isinstance(node, nodes.Name) and node.ctx == "load" and node.name == name
    if isinstance(node, nodes.Getitem):
        return isinstance(node.arg, nodes.Const) and node.arg.value == key and _reads(node.node, name)
    return isinstance(node, nodes.Getattr) and node.attr == key and _reads(node.node, name)
