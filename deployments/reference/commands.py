"""docs/reference/commands.md: every command with its arguments, options and defaults."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args

from apportion.deployments.reference.tables import table

KINDS = {str: "TEXT", int: "INTEGER", float: "NUMBER", Path: "PATH"}
INTRODUCTION = """# Commands

Every command and option, made from the code by `make reference`; `apportion COMMAND --help` says the same. A mistake
ends a command with exit code 2 and one message."""


def commands_page(group: Any) -> str:
    """The whole page of a Click group; a hidden command has no place on it."""
    lines = [INTRODUCTION]
    for name, command in shown_commands(group):
        lines += ["", f"## `apportion {name}`", "", inspect.cleandoc(command.help or "")]
        for title, kind in (("Arguments", "argument"), ("Options", "option")):
            rows = [_row(parameter) for parameter in command.params if parameter.param_type_name == kind]
            if rows:
                lines += ["", f"**{title}**", "", *table(["name", "value", "default", "meaning"], rows)]
    return "\n".join(lines) + "\n"


def shown_commands(group: Any) -> Iterator[tuple[str, Any]]:
    """Names and commands, in the order in which `--help` lists them; those of a group with its name before theirs."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from ((f"{name} {inner}", below) for inner, below in shown_commands(command))
        elif not command.hidden:
            yield name, command


def _row(parameter: Any) -> list[str]:
    is_argument = parameter.param_type_name == "argument"
    names = (
        [parameter.metavar or parameter.name.upper()] if is_argument else [*parameter.opts, *parameter.secondary_opts]
    )
    return [", ".join(f"`{name}`" for name in names), _value(parameter), _default(parameter), parameter.help or ""]


def _value(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False):
        return "flag"
    bounds = [
        f"{sign} {bound:g}" for sign, bound in ((">=", parameter.min), ("<=", parameter.max)) if bound is not None
    ]
    repeated = ["repeatable"] if parameter.multiple or parameter.nargs != 1 else []
    return ", ".join([parameter.metavar or _kind(parameter.type_descriptor.annotation), *bounds, *repeated])


def _kind(annotation: Any) -> str:
    """What a value without a word of its own is: the type, or that of each value."""
    arguments = get_args(annotation)
    kind = arguments[0] if arguments else annotation
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(str(member.value) for member in kind)
    return KINDS[kind] if isinstance(kind, type) else ", ".join(map(str, arguments))


def _default(parameter: Any) -> str:
    if parameter.required:
        return "**required**"
    value = parameter.default
    if value is None or value == [] or value == ():
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{value.as_posix() if isinstance(value, Path) else value}`"
