"""Every import of the project as an arrow from file to file, found by reading the source: lazy ones and types too."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

Arrows = Mapping[str, set[str]]


def sources(root: Path, packages: tuple[str, ...]) -> dict[str, str]:
    """The text of every module of the packages, by its name below the project's root."""
    found = {}
    for package in packages:
        for file in sorted((root / package).rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file.read_text()
    return found


def arrows(texts: Mapping[str, str]) -> dict[str, set[str]]:
    """Modules of the project that each module imports, anywhere in its text."""
    return {name: {target for target in _targets(text, texts) if target != name} for name, text in texts.items()}


def outside(text: str) -> set[str]:
    """Top-level packages that a module imports."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module.partition(".")[0])
    return names


def circle(graph: Arrows) -> list[str]:
    """Names that import each other in a circle; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _targets(text: str, known: Mapping[str, str]) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"a relative import of {node.module}: write it in full"
            module = _below(node.module or "")
            # `from package import module` is an arrow to the module, not to the package.
            parts = [f"{module}.{alias.name}" for alias in node.names]
            yield from (part if part in known else module for part in parts if part in known or module in known)
        elif isinstance(node, ast.Import):
            yield from (_below(alias.name) for alias in node.names if _below(alias.name) in known)


def _below(module: str) -> str:
    return module.removeprefix("apportion.")
