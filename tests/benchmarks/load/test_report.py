import json

import pytest

from benchmarks.load.report import Report, page
from benchmarks.overhead import report as overhead
from benchmarks.room import report as room
from benchmarks.throughput import report as throughput
from tests.paths import ROOT

RESULTS = ROOT / "docs/results"


@pytest.mark.parametrize(("name", "report"), [("overhead", overhead), ("throughput", throughput), ("room", room)])
def test_the_committed_pages_follow_from_the_committed_results(name: str, report: Report) -> None:
    """Whoever changes what is said of a result writes its page again with `benchmarks.load.report.page`."""
    result = json.loads((RESULTS / f"{name}.json").read_text())
    assert (RESULTS / f"{name}.md").read_text() == page(result, report, name)
