"""What every experiment is given: data, seeds, size, workers; and how it measures all its cases."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from threadpoolctl import threadpool_limits

from apportion.router.evaluation.case import Case
from benchmarks.experiments.cache import Cache, code_hash
from benchmarks.experiments.cases import Dataset, find_datasets

Record = dict[str, Any]
Measure = Callable[[Case, Dataset, bool], list[Record]]
"""From a case, its data set and `smoke` to records; a function of a module, so that workers can import it."""


@dataclass(frozen=True)
class Unit:
    """One case to measure; code: files and folders that the measure depends on beside the router's."""

    dataset: Dataset
    estimator: str
    seed: int
    code: tuple[str, ...] = ()


@dataclass(frozen=True)
class Context:
    """data: folder of outcomes tables. seeds: random splits. smoke: the smallest size that runs every line.

    work_s: seconds that each measured case took, its fit included where it was fitted for it.
    """

    data: Path
    cache: Cache
    encoder: str = "minilm"
    seeds: int = 5
    workers: int = 1
    smoke: bool = False
    console: Console | None = None
    work_s: list[float] = field(default_factory=list)

    def datasets(self) -> list[Dataset]:
        """The data sets, with their prompts encoded."""
        found = find_datasets(self.data, self.encoder, self.cache)
        with self.bars() as bars:
            for dataset in found:
                task = bars.add_task(f"encode {dataset.name}", total=None)
                dataset.prepared(partial(_advance, bars, task))
                bars.update(task, total=1, completed=1)
        return found

    def measure(
        self,
        measure: Measure,
        estimators: Sequence[str],
        label: str,
        *,
        datasets: Sequence[Dataset] | None = None,
        code: tuple[str, ...] = (),
    ) -> list[Record]:
        """Records of every data set (default: all), estimator and seed, each with these three in front.

        code: files and folders, from the project's root, that `measure` depends on beside its own module and `router`.
        """
        datasets = self.datasets() if datasets is None else datasets
        units = [Unit(d, e, seed, code) for d in datasets for e in estimators for seed in range(self.seeds)]
        with self.bars() as bars:
            task = bars.add_task(label, total=len(units))
            found: dict[Unit, list[Record]] = {}
            for unit, seconds, records in self._each(measure, units):
                found[unit] = records
                self.work_s.append(seconds)
                bars.advance(task)
        return [record for unit in units for record in found[unit]]

    def bars(self) -> Progress:
        """Progress bars on the console."""
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        return Progress(TextColumn("{task.description}"), *columns, console=self.console or Console(stderr=True))

    def _each(self, measure: Measure, units: list[Unit]) -> Iterator[tuple[Unit, float, list[Record]]]:
        if self.workers == 1:
            for unit in units:
                yield unit, *measure_unit(measure, unit, self.smoke)
            return
        spawn = get_context("spawn")
        with ProcessPoolExecutor(self.workers, mp_context=spawn) as pool:
            jobs = {pool.submit(measure_unit, measure, unit, self.smoke): unit for unit in units}
            for job in as_completed(jobs):
                yield jobs[job], *job.result()


def _advance(bars: Progress, task: TaskID, _: str, done: int, total: int) -> None:
    bars.update(task, completed=done, total=total)


def measure_unit(measure: Measure, unit: Unit, smoke: bool) -> tuple[float, list[Record]]:
    """Seconds and the unit's records, from the cache if the same code measured the same case before."""
    dataset = unit.dataset
    code = code_hash("router/assignment", "router/budget", "router/evaluation", *unit.code), measuring_code(measure)
    key = (dataset.case_key(), unit.estimator, unit.seed, measure.__qualname__, code, smoke)
    named = {"dataset": dataset.name, "estimator": unit.estimator, "seed": unit.seed}

    def make() -> list[Record]:
        # Threads that wait for each other on shared cores cost more than they win on arrays of this size.
        with threadpool_limits(1):
            case = dataset.case(unit.estimator, unit.seed)
            return [named | record for record in measure(case, dataset, smoke)]

    return dataset.cache.get(key, make)


def measuring_code(measure: Measure) -> str:
    """The part of an experiment's module that measures, which ends where its `run` begins."""
    return inspect.getsource(inspect.getmodule(measure) or measure).split("\ndef run(")[0]
