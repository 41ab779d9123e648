"""The snippet of docs/cascades.md runs."""

from __future__ import annotations

import re

from tests.paths import ROOT
from tests.router.cascade.made import held_out, pair_of

PAGE = ROOT / "docs" / "cascades.md"


def test_the_snippet_runs_and_sends_some_on() -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    rows = held_out(1, 0.9, n=40, models=2)
    session: dict[str, object] = {
        "success": rows.success,
        "cost_usd": rows.cost_usd,
        "signals": rows.signals[:, 0],
        "pair": pair_of(held_out(0, 0.9, n=800, models=2), 0, 1),
    }

    exec(compile(snippet, str(PAGE), "exec"), session)

    assert len(session["asked"]) > 0  # type: ignore[arg-type]
