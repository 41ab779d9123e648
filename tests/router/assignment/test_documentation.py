"""The snippets of docs/assignment.md run, in order, in one session."""

from __future__ import annotations

import re

from tests.paths import ROOT

PAGE = ROOT / "docs" / "assignment.md"


def test_snippets_run_and_say_what_the_page_says(capsys) -> None:
    page = PAGE.read_text()
    snippets = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(snippets) >= 5
    session: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet, str(PAGE), "exec"), session)
    printed = capsys.readouterr().out
    for promised in re.findall(r"print\(.*\)  # (.*)", page):
        assert promised in printed
