"""YAML files at the edge: read, checked by Pydantic, and errors that name file, line, field and mend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from apportion.router.checked import Mistake, mistakes
from apportion.router.errors import ConfigurationError

_MERGE = "tag:yaml.org,2002:merge"
Checked = TypeVar("Checked", bound=BaseModel)
# A place in a file: names of fields and numbers of entries, from the outside in.
FieldPath = tuple[str | int, ...]


@dataclass(frozen=True)
class YamlFile:
    """What a file holds, and on which line each field of it stands.

    content: as plain Python values; tree: the same with line numbers, None for an empty file.
    """

    path: Path
    text: str
    content: Any
    tree: yaml.Node | None

    @classmethod
    def read(cls, path: str | Path, mend: str = "give the path of a YAML file") -> Self:
        """Reads the file at `path`; `mend` says what to do where there is none.

        Raises:
            ConfigurationError: no such file, another encoding than UTF-8, or no YAML; names file, line and mend.
        """
        try:
            text = utf8_text(Path(path))
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read ({error.strerror}); {mend}") from error
        return cls.of(path, text)

    @classmethod
    def of(cls, path: str | Path, text: str) -> Self:
        """The text as that of the file at `path`, which need not be written yet.

        Raises:
            ConfigurationError: no YAML; names file, line and mend.
        """
        try:
            tree, content = loaded(text)
        except TwiceError as error:
            raise ConfigurationError(f"{path}, line {error.line}: {error.key!r} stands twice; keep one") from error
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{path}, line {mark.line + 1}" if mark is not None else str(path)
            raise ConfigurationError(f"{where}: not YAML ({getattr(error, 'problem', error)}); correct it") from error
        return cls(Path(path), text, content, tree)

    def checked(self, kind: type[Checked], at: FieldPath = ()) -> Checked:
        """What stands at a field of the file (the whole file: an empty one, but for its keys `x-...`) as `kind`.

        Raises:
            ConfigurationError: a wrong, missing or unknown field; one line for each mistake.
        """
        content = self.content
        if not at and isinstance(content, dict):  # what is there to be anchored and named elsewhere
            content = {name: value for name, value in content.items() if not str(name).startswith("x-")}
        for part in at:
            content = content[part]
        try:
            return kind.model_validate(content)
        except ValidationError as error:
            found = mistakes(error, prefix=at)
            raise ConfigurationError("\n".join(self._said(mistake) for mistake in found)) from error

    def fault(self, field: Sequence[str | int], problem: str) -> ConfigurationError:
        """The error for a field of the file: names the file, the field's line, problem and mend."""
        return ConfigurationError(self._said(Mistake(tuple(field), problem)))

    def _said(self, mistake: Mistake) -> str:
        return f"{self.path}, line {_line(self.tree, mistake.location)}: {mistake}"


class TwiceError(yaml.YAMLError):
    """A mapping has a key twice; line: where the second one stands, from 1."""

    def __init__(self, key: str, line: int) -> None:
        super().__init__(f"line {line}: a key stands twice")
        self.key = key
        self.line = line


def loaded(text: str, loader: type[Any] = yaml.SafeLoader) -> tuple[yaml.Node | None, Any]:
    """The one document of a text, as nodes with their lines and as plain values.

    Raises:
        TwiceError: a mapping has a key twice, of which YAML's readers take the last.
        yaml.YAMLError: it is no YAML.
    """
    reader = loader(text)
    try:
        tree = reader.get_single_node()
        _refuse_twins(tree, set())
        return tree, None if tree is None else reader.construct_document(tree)
    finally:
        reader.dispose()


def _refuse_twins(node: yaml.Node | None, seen: set[int]) -> None:
    """Every node once: an anchor may be within itself."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            _refuse_twins(entry, seen)
    elif isinstance(node, yaml.MappingNode):
        keys: set[tuple[str, str]] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if (key.tag, key.value) in keys:
                    raise TwiceError(key.value, key.start_mark.line + 1)
                keys.add((key.tag, key.value))
            _refuse_twins(value, seen)


def utf8_text(path: Path) -> str:
    """The file's text. Raises ConfigurationError naming file, line and mend when it is not UTF-8, OSError as `open`."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{path}, line {line}: not UTF-8; save it with this encoding") from error


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
