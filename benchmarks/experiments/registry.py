"""The experiments by name; each is a module that measures, says what it found, and draws it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from apportion.router.errors import ConfigurationError
from benchmarks.paths import ROOT

if TYPE_CHECKING:
    from benchmarks.experiments.context import Context

Result = dict[str, Any]

EXPERIMENTS = {
    "frontier": "benchmarks.experiments.frontier",
    "adversarial": "benchmarks.experiments.adversarial",
    "robust": "benchmarks.experiments.robust",
    "capacity": "benchmarks.experiments.capacity",
    "calibration": "benchmarks.experiments.calibration",
    "solver": "benchmarks.experiments.solver",
    "engines": "benchmarks.experiments.engines",
    "cp-sat": "benchmarks.experiments.cp_sat",
    "pacing": "benchmarks.experiments.pacing",
    "bulk": "benchmarks.bulk.report",
    "bulk-cascades": "benchmarks.cascades.jobs",
    "pooling": "benchmarks.experiments.pooling",
    "variants": "benchmarks.experiments.variants",
    "thinking": "benchmarks.experiments.thinking",
    "allocation": "benchmarks.allocation.report",
    "mixed": "benchmarks.allocation.mixed",
    "planning": "benchmarks.allocation.scale",
    "slots": "benchmarks.allocation.slots",
}
# With commands of their own, since they measure the service; on the page of results all the same.
OTHERS = {
    "throughput": "benchmarks.throughput.report",
    "overhead": "benchmarks.overhead.report",
    "room": "benchmarks.room.report",
    "ceiling": "benchmarks.ceiling.report",
    "sharding": "benchmarks.sharding.report",
    "lanes": "benchmarks.lanes.report",
    "cascades": "benchmarks.cascades.report",
    "signals": "benchmarks.signals.report",
    "goodput": "benchmarks.goodput.report",
}
SUMMARIES = {
    "frontier": "Quality against budget: all arms and estimators at the same spend.",
    "adversarial": "Batches against single requests, when costly requests arrive together and when not.",
    "robust": "Pessimistic estimates of success and cost against plain ones.",
    "capacity": "Slots: loose, moderate and tight, with and without a budget that binds.",
    "calibration": "How far the estimates can be believed, by model and by task.",
    "solver": "The certified solver beside full models: time, gap and memory.",
    "engines": "The certified solver where models share engines, and with further limits.",
    "cp-sat": "OR-Tools' CP-SAT beside the full model and the certified solver.",
    "pacing": "One daily budget over a stream of batches.",
    "bulk": "One plan for a whole file beside chunks of it, its time, and simulated days with deadlines.",
    "bulk-cascades": "Bulk jobs whose rows may cascade beside jobs without, at the same realised spend.",
    "pooling": "Small batches under one cap a request: each with its own money, and with what others have left.",
    "variants": "Ways of asking a model beside each other in the pool, and models alone; outcomes are simulated.",
    "thinking": "A model of the zoo that can think beside four that cannot: recorded outcomes of real engines.",
    "allocation": "Planned, greedy, proportional and uniform allocations of the same GPUs on held-out requests.",
    "mixed": "One plan for own GPUs and bought tokens, beside either alone at the same USD an hour.",
    "planning": "How long plans for up to 256 GPUs take, and how near to the best they are proved to be.",
    "slots": "GPUs and USD of a plan by whole contexts, and by the lengths of the requests.",
}


class Shown(Protocol):
    """What a module defines whose results have a place on the page; its docstring says what is measured."""

    TITLE: str

    def section(self, result: Result) -> list[str]:
        """Lines of Markdown: tables, and a reading that follows from the numbers."""


class Experiment(Shown, Protocol):
    """What a module of an experiment defines.

    What measures stands above `run`, what shows it below: cached measurements hold for as long as the upper part stays.
    """

    def run(self, context: Context) -> Result:
        """Measure; what comes back is written as JSON, with a stamp beside it."""

    def draw(self, result: Result, folder: Path) -> None:
        """Draw the plots that `section` shows, from nothing but the result."""


def available() -> list[str]:
    """Names of the experiments whose module is there."""
    return [name for name, module in EXPERIMENTS.items() if (ROOT / f"{module.replace('.', '/')}.py").exists()]


def shown(name: str) -> Shown:
    """What shows the results of that name, an experiment's or another's."""
    return cast(Shown, import_module(OTHERS[name])) if name in OTHERS else load(name)


def load(name: str) -> Experiment:
    """The experiment of that name; raises ConfigurationError for an unknown one, listing the known."""
    if name not in available():
        raise ConfigurationError(f"unknown experiment {name!r}: use {', '.join(available())}")
    return cast(Experiment, import_module(EXPERIMENTS[name]))
