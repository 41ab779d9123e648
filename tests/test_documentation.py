"""What the documentation points at exists: its links, and the files and folders that it names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.relative_to(ROOT / "docs").parts[0] != "results"),
]
FOLDERS = ("router", "allocation", "deployments", "benchmarks", "tests", "docs")
_BLOCK = re.compile(r"```.*?```", re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(rf"(?<![\w./-])(?:(?:{'|'.join(FOLDERS)})/[\w./-]*\w|[\w./-]+\.py)\b")


def broken(page: Path, text: str) -> list[str]:
    """Links and paths of the page that lead nowhere."""
    links = [link for link in _links(text) if not _leads_somewhere(page, link)]
    return links + [name for name in _named_paths(text) if not (ROOT / name).exists()]


def _links(text: str) -> Iterator[str]:
    yield from (link for link in _LINK.findall(_BLOCK.sub("", text)) if "://" not in link)


def _leads_somewhere(page: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    return target.exists() and (not anchor or anchor in _anchors(target.read_text()))


def _anchors(text: str) -> set[str]:
    """The page's headings as GitHub spells them in links."""
    headings = re.findall(r"^#+ (.*)$", _BLOCK.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _named_paths(text: str) -> Iterator[str]:
    for code in _CODE.findall(_BLOCK.sub("", text)):
        yield from _PATH.findall(code)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_named_files_exist(page: Path) -> None:
    assert not broken(page, page.read_text())


@pytest.mark.parametrize(
    "text",
    ["[a](no.md)", "[a](budgets.md#no-such-heading)", "[a](#no-such-heading)", "`router/no.py`", "see `no.py` there"],
)
def test_a_planted_dead_end_is_seen(text: str) -> None:
    assert broken(ROOT / "docs" / "api.md", text)


@pytest.mark.parametrize(
    "text",
    ["[a](budgets.md#api-keys)", "`router/errors.py`", "`tests/chaos`", "`user/folder` `x.jsonl`", "```\nno.py\n```"],
)
def test_a_good_way_is_let_through(text: str) -> None:
    assert not broken(ROOT / "docs" / "api.md", text)
