"""The house's arrows: imports run down only, no file is part of a circle, and rooms know only what they may."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.arrows import arrows, circle, outside, sources
from tests.paths import ROOT

LAYERS = ("router", "allocation", "deployments", "benchmarks")  # each may import those before it
SOURCES = sources(ROOT, LAYERS)
ARROWS = arrows(SOURCES)

SHELL = {"ray", "vllm", "fastapi", "starlette", "uvicorn", "aiohttp", "httpx", "typer"}
# Room by room, what a module of it may never import.
FORBIDDEN = {
    "router": SHELL,
    "router.assignment": {*SHELL, "torch", "transformers", "pandas", "sklearn", "sqlalchemy", "yaml"},
    "router.batch": {*SHELL, "time", "os", "pathlib", "torch", "transformers", "pandas", "yaml"},
    "router.jobs": {*SHELL, "torch", "transformers", "pandas", "sklearn", "yaml"},
    "allocation": SHELL,
}


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Arrows from a layer to one above it."""
    level = {layer: height for height, layer in enumerate(LAYERS)}
    return [
        f"{name} -> {target}"
        for name, targets in graph.items()
        for target in targets
        if level[target.partition(".")[0]] > level[name.partition(".")[0]]
    ]


def room(name: str, depth: int) -> str:
    """The folder of a module, so many deep; files above that depth are the ground floor, each by itself."""
    folder = name.split(".")[:depth]
    return ".".join(folder) if (ROOT / Path(*folder)).is_dir() else name


def between_rooms(graph: dict[str, set[str]], depth: int) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, targets in graph.items():
        mine = room(name, depth)
        found.setdefault(mine, set()).update({room(target, depth) for target in targets} - {mine})
    return found


def test_imports_run_down_only() -> None:
    assert not upward(ARROWS)


def test_no_file_is_part_of_a_circle() -> None:
    assert not circle(ARROWS)


@pytest.mark.parametrize("depth", [2, 3])
def test_no_room_is_part_of_a_circle(depth: int) -> None:
    assert not circle(between_rooms(ARROWS, depth))


@pytest.mark.parametrize("place", FORBIDDEN)
def test_rooms_know_only_what_they_may(place: str) -> None:
    found = {
        name: outside(text) & FORBIDDEN[place] for name, text in SOURCES.items() if f"{name}.".startswith(f"{place}.")
    }

    assert not {name: packages for name, packages in found.items() if packages}


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("router.budget.money", "from apportion.allocation.plan import load_plan"),
        ("router.errors", "def late():\n    import apportion.deployments.app"),
        ("allocation.plan", "if TYPE_CHECKING:\n    from apportion.deployments.config import service"),
        ("deployments.app", "from benchmarks.zoo.grader import grade"),
    ],
)
def test_a_planted_upward_import_is_seen(module: str, planted: str) -> None:
    assert upward(arrows(SOURCES | {module: f"{SOURCES[module]}\n{planted}\n"}))


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("router.errors", "from apportion.router.prices import ModelPrice"),
        ("router.outcomes.table", "def load():\n    from apportion.router.outcomes.files import read_outcomes"),
        ("router.assignment.problem", "from apportion.router.assignment import assign"),
    ],
)
def test_a_planted_circle_is_seen(module: str, planted: str) -> None:
    assert not circle(ARROWS)
    assert module in circle(arrows(SOURCES | {module: f"{SOURCES[module]}\n{planted}\n"}))


def test_a_planted_circle_of_rooms_within_a_room_is_seen() -> None:
    module, planted = "router.batch.queueing.pace", "from apportion.router.batch.reservations.slots import UNBOUNDED"
    graph = arrows(SOURCES | {module: f"{SOURCES[module]}\n{planted}\n"})

    assert not circle(graph)
    assert "router.batch.queueing" in circle(between_rooms(graph, 3))
