"""`serve_config.yaml`, which `serve deploy` takes: read, and rewritten so that what is not changed stays as it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Self

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import CommentMark, MarkedYAMLError
from ruamel.yaml.tokens import CommentToken

from apportion.allocation.yaml_files import FieldPath, YamlFile
from apportion.router.errors import ConfigurationError

APPLICATION: FieldPath = ("applications", 0)
ARGUMENTS: FieldPath = (*APPLICATION, "args")
MODELS: FieldPath = (*ARGUMENTS, "models")
_MEND = "name a configuration with --config; serve_config.gpu.yaml is one to start from"
_ANCHOR_COMMENT = re.compile(r"^(?P<node>\s*\S.*: &[\w-]+)(?P<comment> +#.*)$", re.MULTILINE)


@dataclass(frozen=True)
class ServeFile(YamlFile):
    """A configuration of exactly one application that has `args`."""

    def __post_init__(self) -> None:
        applications = self.content.get("applications") if isinstance(self.content, dict) else None
        if not isinstance(applications, list) or len(applications) != 1:
            raise self.fault(APPLICATION[:1], "must hold exactly one application; leave one")
        if not isinstance(applications[0], dict) or not isinstance(applications[0].get("args"), dict):
            raise self.fault(APPLICATION, "the application has no `args`; add them, with models and predictor")

    @classmethod
    def read(cls, path: str | Path, mend: str = _MEND) -> Self:
        """Reads the file at `path`; `mend` says what to do where there is none.

        Raises:
            ConfigurationError: the file is missing, no YAML, or no configuration of one application.
        """
        return super().read(path, mend)

    @property
    def document(self) -> dict[str, Any]:
        """The whole file, as `serve deploy` hands it to the cluster."""
        content: dict[str, Any] = self.content
        return content

    @property
    def application(self) -> dict[str, Any]:
        """The entry of the one application."""
        application: dict[str, Any] = self.content["applications"][0]
        return application


class Rewriting:
    """The document with its comments, to be changed and written back."""

    def __init__(self, file: ServeFile) -> None:
        """Raises ConfigurationError where a key stands twice, of which other readers take the last."""
        self._yaml = YAML(typ="rt")
        self._yaml.preserve_quotes = True
        self._yaml.width = 1 << 16
        self._yaml.indent(mapping=2, sequence=4, offset=2)
        self._before = file.text
        try:
            self._root: Any = self._yaml.load(file.text)
        except MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
            raise ConfigurationError(f"{file.path}, line {line}: {error.problem}; correct it") from error
        _keep_anchors(self._root)

    @property
    def models(self) -> CommentedSeq:
        """The models of the application; an empty list where it has none."""
        arguments = self._root["applications"][0]["args"]
        if not isinstance(arguments.get("models"), CommentedSeq):
            arguments["models"] = CommentedSeq()
        found: CommentedSeq = arguments["models"]
        return found

    def text(self) -> str:
        """The document as it is now."""
        out = StringIO()
        self._yaml.dump(self._root, out)
        text = out.getvalue()
        for found in _ANCHOR_COMMENT.finditer(self._before):  # ruamel moves these to a line of their own
            moved = re.compile(re.escape(found["node"]) + r"\n +" + re.escape(found["comment"].strip()) + "$", re.M)
            text = moved.sub(found[0].replace("\\", r"\\"), text)
        return text


def _keep_anchors(node: Any) -> None:
    """Also those that nothing refers to."""
    if isinstance(node, (CommentedMap, CommentedSeq)):
        if node.yaml_anchor() is not None:
            node.yaml_set_anchor(node.yaml_anchor().value, always_dump=True)
        for child in node.values() if isinstance(node, CommentedMap) else node:
            _keep_anchors(child)


def take_tail(node: CommentedMap | CommentedSeq) -> str:
    """What stands between a node and whatever follows it: blank lines and comments, from the second line on.

    ruamel hangs it on the last scalar within the node, and it would go when that one goes.
    """
    found = _last(node)
    if found is None:
        return ""
    container, key, slot = found
    tokens = container.ca.items.get(key)
    token = tokens[slot] if tokens else None
    if token is None:
        return ""
    first, _, rest = token.value.partition("\n")
    if rest:
        token.value = first + "\n"
        if not first:
            tokens[slot] = None
    return str(rest)


def put_tail(node: CommentedMap | CommentedSeq, tail: str) -> None:
    """Hangs what `take_tail` gave behind the node as it is now."""
    found = _last(node)
    if not tail or found is None:
        return
    container, key, slot = found
    tokens = container.ca.items.setdefault(key, [None, None, None, None])
    before = tokens[slot].value if tokens[slot] is not None else "\n"
    tokens[slot] = CommentToken(before + tail, CommentMark(0), None)


def _last(node: CommentedMap | CommentedSeq) -> tuple[Any, Any, int] | None:
    """The innermost container of the node's last scalar, its key there, and the slot of the comment behind it."""
    if len(node) == 0:
        return None
    key: Any = next(reversed(node)) if isinstance(node, CommentedMap) else len(node) - 1
    value = node[key]
    if isinstance(value, (CommentedMap, CommentedSeq)) and len(value) and not value.fa.flow_style():
        return _last(value)
    return node, key, 2 if isinstance(node, CommentedMap) else 0
