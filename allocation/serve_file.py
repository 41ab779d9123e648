"""`serve_config.yaml` read and written so that what is not changed stays as it is, comments and blank lines too."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import CommentMark, MarkedYAMLError
from ruamel.yaml.tokens import CommentToken

from apportion.allocation.yaml_files import utf8_text
from apportion.router.errors import ConfigurationError

_ANCHOR_COMMENT = re.compile(r"^(?P<node>\s*\S.*: &[\w-]+)(?P<comment> +#.*)$", re.MULTILINE)


class ServeFile:
    """The document, and how it was written."""

    def __init__(self, path: Path) -> None:
        self._yaml = YAML(typ="rt")
        self._yaml.preserve_quotes = True
        self._yaml.width = 1 << 16
        self._yaml.indent(mapping=2, sequence=4, offset=2)
        try:
            self._before = utf8_text(path)
            self.root: Any = self._yaml.load(self._before)
        except OSError as error:
            raise ConfigurationError(
                f"{path} cannot be read ({error.strerror}): give the configuration that the plan's models go into; "
                "serve_config.gpu.yaml is one to start from."
            ) from error
        except MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
            raise ConfigurationError(f"{path}, line {line}: not YAML ({error.problem}): correct it.") from error
        _keep_anchors(self.root)

    def text(self) -> str:
        """The document as it is now."""
        out = StringIO()
        self._yaml.dump(self.root, out)
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


def read_models(path: Path) -> tuple[ServeFile, CommentedSeq]:
    """The file, and in it the list of models of its one application (an empty one where it has none).

    Raises:
        ConfigurationError: the file is missing, no YAML, or no configuration of one application.
    """
    document = ServeFile(path)
    root = document.root
    applications = root.get("applications") if isinstance(root, CommentedMap) else None
    if not isinstance(applications, CommentedSeq) or len(applications) != 1:
        raise ConfigurationError(f"{path}: `applications` must hold exactly one application.")
    arguments = applications[0].get("args")
    if not isinstance(arguments, CommentedMap):
        line = applications[0].lc.line + 1
        raise ConfigurationError(f"{path}, line {line}: the application has no `args`: add them, with the predictor.")
    if not isinstance(arguments.get("models"), CommentedSeq):
        arguments["models"] = CommentedSeq()
    return document, arguments["models"]


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
