"""Chat templates in the manner of today's families, and messages of the shapes that clients send."""

from __future__ import annotations

from typing import Any

END = "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
TURN = "<|{{ m.role }}|>{{ m.content or '' }}"
CALLS = (
    "{%- for c in m.tool_calls or [] -%} call {{ c.function.name }} {{ c.function.arguments | tojson }}{%- endfor -%}"
)


def _template(before_turn: str = "", turn: str = TURN + CALLS, before: str = "") -> str:
    return f"{before}{{%- for m in messages -%}}{before_turn}{turn}{{%- endfor -%}}{END}"


def _refuse(condition: str, reason: str) -> str:
    return f"{{%- if {condition} -%}}{{{{ raise_exception('{reason}') }}}}{{%- endif -%}}"


# By style; None: the model has no template. `by_argument` is the same as `mapping`, but for where it comes from.
STYLES: dict[str, str | None] = {
    "no_system": _template(_refuse("m.role == 'system'", "no system turns here")),
    "alternating": _template(
        _refuse("m.role == 'tool'", "no tools here")
        + "{%- if m.role != 'system' -%}"
        + _refuse("(m.role == 'user') != (n.n % 2 == 0)", "turns must take turns")
        + "{%- set n.n = n.n + 1 -%}{%- endif -%}",
        before="{%- set n = namespace(n=0) -%}",
    ),
    "mapping": _template(
        turn=TURN
        + "{%- for c in m.tool_calls or [] -%}{%- for key, value in c.function.arguments | items -%}"
        + " {{ key }} is {{ value }}{%- endfor -%}{%- endfor -%}"
    ),
    "nine_characters": _template(
        "{%- for c in m.tool_calls or [] -%}"
        + _refuse("c.id is not defined or c.id | length != 9", "ids of calls have nine characters")
        + "{%- endfor -%}"
        + _refuse("m.role == 'tool' and m.tool_call_id | length != 9", "ids of calls have nine characters")
    ),
    "one_call": _template(_refuse("(m.tool_calls or []) | length > 1", "one call a turn")),
    "thinking": _template(
        turn="<|{{ m.role }}|>{%- for part in m.content -%}"
        "{{ part.text if part is mapping else part }}{%- endfor -%}"
        "{%- if m.reasoning_content -%}<think>{{ m.reasoning_content }}</think>{%- endif -%}" + CALLS
    ),
    "no_template": None,
    "by_argument": None,
}
BY_ARGUMENT = STYLES["mapping"]

PICTURE = "data:image/png;base64,iVBORw0KGgo="
USER = {"role": "user", "content": "How many bolts?"}


def _call(id_: str = "bolts0001", arguments: Any = '{"item": "bolt"}') -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": "stock", "arguments": arguments}}


def _called(*calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


def _result(id_: str = "bolts0001") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id_, "content": "41"}


_NOTHING_CALLED = {"role": "assistant", "content": "41", "refusal": None, "function_call": None}
# Bodies of chats, by shape.
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {"messages": [USER]},
    "system": {"messages": [{"role": "system", "content": "Be brief."}, USER]},
    "developer": {"messages": [{"role": "developer", "content": "Be brief."}, USER]},
    "two_users": {"messages": [USER, USER]},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": t} for t in ("How many", "bolts?")]}]},
    "bare_parts": {"messages": [{"role": "user", "content": ["How many", "bolts?"]}]},
    "tool_call": {"messages": [USER, _called(_call()), USER]},
    "no_calls": {
        "messages": [USER, _NOTHING_CALLED | {"tool_calls": None}, USER, _NOTHING_CALLED | {"tool_calls": []}, USER]
    },
    "two_calls": {"messages": [USER, _called(_call(), _call("bolts0002", "not JSON")), USER]},
    "bare_calls": {
        "messages": [
            USER,
            _called(_call(arguments={"item": "bölt"})),
            _result(),
            _called({"id": "bolts0002", "type": None, "function": {"name": "stock", "arguments": None}}),
            _result("bolts0002") | {"content": None},
            USER,
        ]
    },
    "tool_result": {"messages": [USER, _called(_call()), _result(), USER]},
    "long_id": {"messages": [USER, _called(_call("call_0123456789")), _result("call_0123456789"), USER]},
    "picture": {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE}}]}]},
    "prefix": {
        "messages": [USER, {"role": "assistant", "content": "There are"}],
        "continue_final_message": True,
        "add_generation_prompt": False,
    },
}
# What a style cannot read, worked out by hand; nobody reads pictures.
UNREADABLE: dict[str, set[str]] = {
    "no_system": {"system", "developer"},
    "alternating": {"two_users", "bare_calls", "tool_result", "long_id"},
    "mapping": set(),
    "nine_characters": {"long_id"},
    "one_call": {"two_calls"},
    "thinking": set(),
    "no_template": set(SHAPES),
    "by_argument": set(),
}
