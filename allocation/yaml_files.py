"""YAML files at the edge: read, checked by Pydantic, and errors that name file, line, field and mend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from apportion.router.checked import Mistake, mistakes
from apportion.router.errors import ConfigurationError

Checked = TypeVar("Checked", bound=BaseModel)


def read_checked(path: Path, kind: type[Checked]) -> Checked:
    """The file's content as `kind`.

    Raises ConfigurationError naming file, line, field and mend: no such file, no YAML, a wrong or unknown field.
    """
    try:
        text = utf8_text(path)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror}): give the path of a YAML file.") from error
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark is not None else str(path)
        raise ConfigurationError(f"{where}: not YAML ({getattr(error, 'problem', error)}): correct it.") from error
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        lines = [f"{path}, line {_line(tree, mistake.location)}: {mistake}" for mistake in mistakes(error)]
        raise ConfigurationError("\n".join(lines)) from error


def utf8_text(path: Path) -> str:
    """The file's text. Raises ConfigurationError naming file, line and mend when it is not UTF-8, OSError as `open`."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{path}, line {line}: not UTF-8: save it with this encoding.") from error


def fault(path: Path, field: Sequence[str | int], problem: str) -> ConfigurationError:
    """The error for a field of a file that was read before: names the file, the field's line, problem and mend."""
    tree = yaml.compose(utf8_text(path), Loader=yaml.SafeLoader)
    return ConfigurationError(f"{path}, line {_line(tree, field)}: {Mistake(tuple(field), problem)}")


def _line(tree: yaml.Node | None, field: Sequence[str | int]) -> int:
    """The line of the deepest part of the field's path that the file holds, from 1."""
    node, line = tree, 1
    for part in field:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line
