"""The snippet of docs/bulk.md that plans a job runs, and holds what it asserts."""

from __future__ import annotations

import re

from tests.paths import ROOT


def test_the_page_plans_a_job() -> None:
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "docs/bulk.md").read_text(), flags=re.DOTALL)
    planning = [snippet for snippet in snippets if "plan_job" in snippet]
    assert len(planning) == 1
    exec(compile(planning[0], "docs/bulk.md", "exec"), {})
