"""What templates are given is what vLLM gives them."""

from __future__ import annotations

import pytest

from apportion.router.errors import InvalidRequestError
from apportion.router.prediction.chat_template import walks_through_content
from apportion.router.prediction.conversation import conversation, template_variables, tool_objects

LOOPS = {
    "{% for m in messages %}{{ m.content }}{% endfor %}": False,
    "{% for m in messages %}{% for part in m['content'] %}{{ part.text }}{% endfor %}{% endfor %}": True,
    "{% for m in messages[1:] %}{% for part in m.content | list %}x{% endfor %}{% endfor %}": True,
    "{% set rest = messages %}{% for m in rest %}{% for c in m.content %}x{% endfor %}{% endfor %}": True,
    "{% for m in messages %}{% set content = m.content %}{% for c in content %}x{% endfor %}{% endfor %}": True,
    "{% macro show(what) %}{% for c in what %}x{% endfor %}{% endmacro %}"
    "{% for m in messages %}{{ show(m.content) }}{% endfor %}": True,
    "{% macro show(what) %}{% for c in what %}x{% endfor %}{% endmacro %}"
    "{% for m in messages %}{{ show(what=m.content) }}{% endfor %}": True,
    "{% macro show(content) %}{% for c in content %}x{% endfor %}{% endmacro %}"
    "{% for m in messages %}{{ m.content }}{{ show(tools) }}{% endfor %}": False,
    "{% for m in messages %}{% for c in m.tool_calls %}x{% endfor %}{% endfor %}": False,
}


@pytest.mark.parametrize("template", LOOPS)
def test_a_loop_over_contents_is_found(template: str) -> None:
    assert walks_through_content(template) == LOOPS[template]


@pytest.mark.slow  # imports vLLM
@pytest.mark.parametrize("template", LOOPS)
def test_vllm_finds_the_same_loops(template: str) -> None:
    renderer = pytest.importorskip("vllm.renderers.hf")
    assert (renderer._detect_content_format(template, default="string") == "openai") == LOOPS[template]


def test_absent_null_and_empty_are_the_same() -> None:
    plain = conversation([{"role": "assistant", "content": "x"}], as_parts=False)
    for calls in (None, []):
        message = {"role": "assistant", "content": "x", "tool_calls": calls, "name": None}
        assert conversation([message], as_parts=False) == plain
    assert conversation([{"role": "user"}], as_parts=False) == conversation(
        [{"role": "user", "content": None}], as_parts=False
    )


@pytest.mark.parametrize(
    ("given", "read"),
    [('{"a": 1}', {"a": 1}), ({"a": 1}, {"a": 1}), ("", {}), (None, {}), ("[1]", {}), ("{", {}), (7, {})],
)
def test_arguments_of_a_call_are_a_mapping(given: object, read: object) -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": given}}
    (turn,) = conversation([{"role": "assistant", "tool_calls": [call]}], as_parts=False)
    assert turn["tool_calls"][0]["function"]["arguments"] == read
    assert call["function"]["arguments"] is given  # the engine gets what came


def test_contents_are_one_text_or_a_list_of_parts() -> None:
    parts = ["a", {"type": "text", "text": "b"}, {"type": "refusal", "refusal": "c"}, {"type": "text", "text": None}]
    messages = [{"role": role, "content": parts} for role in ("user", "tool")]
    assert [turn["content"] for turn in conversation(messages, as_parts=False)] == ["a\nb\nc"] * 2
    user, tool = conversation(messages, as_parts=True)
    assert user["content"] == [{"type": "text", "text": text} for text in "abc"]
    assert tool["content"] == "a\nb\nc"


@pytest.mark.parametrize("call", [7, {}, {"function": "f"}, {"type": "custom", "function": {}}])
def test_a_call_of_no_function_is_refused_by_place(call: object) -> None:
    with pytest.raises(InvalidRequestError, match=r"messages\[0\]\.tool_calls\[0\]"):
        conversation([{"role": "assistant", "tool_calls": [call]}], as_parts=False)


def test_what_a_body_tells_the_template() -> None:
    assert template_variables({}) == {}
    body = {"reasoning_effort": "none", "chat_template_kwargs": {"a": 1}, "continue_final_message": True}
    assert template_variables(body) == {
        "a": 1,
        "reasoning_effort": "none",
        "enable_thinking": False,
        "continue_final_message": True,
    }
    assert template_variables({"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}}) == {
        "enable_thinking": False,
        "reasoning_effort": "low",
    }


def test_tools_have_the_fields_that_templates_print() -> None:
    assert tool_objects(None) is None
    (tool,) = tool_objects([{"type": "function", "x": 1, "function": {"name": "f", "strict": True, "y": 2}}]) or []
    assert tool == {
        "type": "function",
        "function": {"name": "f", "description": None, "parameters": None, "strict": True},
    }


@pytest.mark.parametrize("as_parts", [True, False])
def test_what_stands_in_for_pictures_keeps_its_place(as_parts: bool) -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "a"}, {"type": "audio"}, "b"]
    (turn,) = conversation([{"role": "user", "content": parts}], as_parts=as_parts)
    walked = [{"type": "image"}, {"type": "text", "text": "a"}, {"type": "audio"}, {"type": "text", "text": "b"}]
    assert turn["content"] == (walked if as_parts else "a\nb")
    with pytest.raises(InvalidRequestError):
        conversation([{"role": "user", "content": [{"type": "image", "image": "x"}]}], as_parts=as_parts)


def test_pictures_of_a_tool_keep_their_place_and_its_texts_are_one() -> None:
    said = {"role": "tool", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    shown = {"role": "tool", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}
    assert [turn["content"] for turn in conversation([said, shown], as_parts=True)] == ["a\nb", shown["content"]]
    assert [turn["content"] for turn in conversation([said, shown], as_parts=False)] == ["a\nb", "a"]
