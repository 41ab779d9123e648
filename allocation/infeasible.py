"""Why there is no plan: which requirements stand in the way, and the smallest changes, alone or together, that do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from apportion.allocation.patterns import node_classes, packings
from apportion.allocation.problem import AllocationProblem
from apportion.allocation.relaxing import (
    HARDLY_ANY,
    MORE_NODES,
    Asked,
    OutOfTimeError,
    Search,
    at_once_of,
    holds,
    limited_models,
)

_ROWS = ("budget", "bill", "throughput", "requests", "concurrency", "replicas", "available")
_WORDS = {
    "budget": "the cost budget",
    "bill": "the budget per hour (GPUs and bought tokens)",
    "requests": "the requests a minute that quotas allow",
    "throughput": "the request rate (tokens/s)",
    "concurrency": "the requests at once (slots for a batch)",
    "replicas": "min_replicas and max_replicas",
    "available": "high availability (two nodes for every model)",
}


@dataclass(frozen=True)
class Relaxation:
    """One change. kind: budget, bill, rate, batch, nodes, replicas or availability; amount: the new value.

    where: the model, or the GPU type and GPUs of a node, that it is a change of.
    """

    kind: str
    amount: float
    message: str
    where: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """alone: requirements without any one of which there would be a plan. relaxations: smallest single changes.

    together: where no single change does, lists of changes of which each would do as a whole. complete: the time
    sufficed to look for all of them.
    """

    alone: tuple[str, ...]
    relaxations: tuple[Relaxation, ...]
    together: tuple[tuple[Relaxation, ...], ...] = ()
    complete: bool = True

    @property
    def message(self) -> str:
        """For people: what cannot be met, and what would do."""
        if not (self.complete or self.alone or self.relaxations or self.together):
            return "there is no plan for this cluster, and the time did not suffice to say why; allow more time"
        words = " or ".join(_WORDS[row] for row in self.alone)
        reason = f"given all else, it cannot meet {words}" if words else "more than one requirement is out of reach"
        return f"there is no plan for this cluster: {reason}; {self._mend}"

    @property
    def _mend(self) -> str:
        if self.relaxations:
            return f"any one of these would do: {', or '.join(relaxation.message for relaxation in self.relaxations)}"
        if self.together:
            ways = [" and ".join(one.message for one in changes) for changes in self.together]
            return f"these changes together would do: {'; or '.join(ways)}"
        if self.alone:
            return "relaxing this alone would do" if len(self.alone) == 1 else "relaxing any one of them would do"
        return "relax several at once"


@dataclass(frozen=True)
class _Way:
    """A requirement that can be eased: to the least that does, or dropped."""

    ease: Callable[[Asked], Asked | None]
    drop: Callable[[Asked], Asked]
    restore: Callable[[Asked, Asked], Asked]


def diagnose(problem: AllocationProblem, *, time_limit_s: float = 60.0) -> Diagnosis:
    """Examines a problem without a plan; when the time runs out, with what was found by then."""
    packed = packings(node_classes(problem.cluster), problem.replicas, problem.requirements.reserved_gpu_fraction)
    given, search = Asked(problem, packed), Search(time_limit_s)
    ways = _ways(search, given)
    alone: list[str] = []
    singles: list[Relaxation] = []
    together: list[tuple[Relaxation, ...]] = []
    try:
        alone.extend(row for row in _ROWS if holds(given.model, row) and search.without(given.model, row))
        for name, way in ways.items():
            if name != "nodes" and not search.possible(way.drop(given)):
                continue
            eased = way.ease(given)
            if eased is not None:
                singles.extend(_changes(given, eased))
        if not singles:
            for last in ("nodes", "rate"):
                changes = _together(search, given, ways, last)
                if changes and changes not in together:
                    together.append(changes)
    except OutOfTimeError:
        return Diagnosis(tuple(alone), tuple(singles), tuple(together), complete=False)
    return Diagnosis(tuple(alone), tuple(singles), tuple(together))


def _ways(search: Search, given: Asked) -> dict[str, _Way]:
    """In the order in which several are tried to be kept as they are."""
    ways: dict[str, _Way] = {}
    if given.problem.requirements.high_availability:
        ways["availability"] = _Way(
            lambda asked: asked.under(high_availability=False),
            lambda asked: asked.under(high_availability=False),
            lambda asked, source: asked.under(high_availability=source.problem.requirements.high_availability),
        )
    for j in limited_models(given.problem):
        ways[f"replicas {j}"] = _Way(
            lambda asked, j=j: search.replicas(asked, j),  # type: ignore[misc]
            lambda asked, j=j: asked.with_limits(j, 0, None),  # type: ignore[misc]
            lambda asked, source, j=j: asked.with_limits(j, *_limits(source, j)),  # type: ignore[misc]
        )
    ways["budget"] = _Way(
        search.budget,
        lambda asked: asked.with_budget(float("inf")),
        lambda asked, source: asked.with_budget(source.budget_usd),
    )
    ways["bill"] = _Way(
        search.bill,
        lambda asked: asked.under(budget_usd_per_hour=float("inf")),
        lambda asked, source: asked.under(budget_usd_per_hour=source.budget_usd_per_hour),
    )
    every = tuple((c, MORE_NODES[-1]) for c in range(len(given.packed)))
    ways["nodes"] = _Way(
        search.nodes, lambda asked: replace(asked, more=every), lambda asked, source: replace(asked, more=source.more)
    )
    ways["batch"] = _Way(
        search.at_once,
        lambda asked: replace(asked, at_once=HARDLY_ANY),
        lambda asked, source: replace(asked, at_once=source.at_once),
    )
    ways["rate"] = _Way(
        search.rate, lambda asked: replace(asked, rate=0.0), lambda asked, source: replace(asked, rate=source.rate)
    )
    return ways


def _limits(asked: Asked, model: int) -> tuple[int, int | None]:
    spec = asked.problem.models[model]
    return spec.min_replicas, spec.max_replicas


def _together(search: Search, given: Asked, ways: dict[str, _Way], last: str) -> tuple[Relaxation, ...]:
    """Changes that do together: one requirement after another is kept, or eased as little as all later ones allow.

    last: rate or nodes; what is left to be done is done by it, and the other of the two stays as it is.
    """
    names = [name for name in ways if name not in ("nodes", "rate")] + [last]
    if last == "nodes":
        names.remove("batch")
    asked = given
    for name in names:
        asked = ways[name].drop(asked)
    if not search.possible(asked):
        return ()
    for name in names:
        kept = ways[name].restore(asked, given)
        if search.possible(kept):
            asked = kept
            continue
        eased = ways[name].ease(kept)
        if eased is None:
            return ()
        asked = eased
    return tuple(_changes(given, asked))


def _changes(given: Asked, asked: Asked) -> Sequence[Relaxation]:
    """What is asked otherwise than it was given, in words."""
    problem, found = given.problem, []
    if problem.requirements.high_availability and not asked.problem.requirements.high_availability:
        found.append(Relaxation("availability", 0, "plan without high availability"))
    for j, spec in enumerate(problem.models):
        least, most = _limits(asked, j)
        if least != spec.min_replicas:
            words = f"lower min_replicas of {spec.name!r} from {spec.min_replicas} to {least}"
            found.append(Relaxation("replicas", least, words, spec.name))
        elif most is not None and most != spec.max_replicas:
            words = f"raise max_replicas of {spec.name!r} from {spec.max_replicas} to {most}"
            found.append(Relaxation("replicas", most, words, spec.name))
    if asked.budget_usd != given.budget_usd:
        usd = asked.budget_usd
        words = f"raise the budget from {given.budget_usd:g} to {usd:g} USD per request"
        found.append(Relaxation("budget", usd, words))
    if asked.budget_usd_per_hour != given.budget_usd_per_hour:
        usd = asked.budget_usd_per_hour
        words = f"raise the budget per hour from {given.budget_usd_per_hour:g} to {usd:g} USD"
        found.append(Relaxation("bill", usd, words))
    for c, count in asked.more:
        node_class = given.packed[c].node_class
        words = f"add {count} node{'s' * (count > 1)} of {node_class.n_gpus} x {node_class.gpu_type}"
        found.append(Relaxation("nodes", count, words, f"{node_class.n_gpus} x {node_class.gpu_type}"))
    if asked.at_once != given.at_once:
        size = at_once_of(problem)
        amount = round(asked.at_once * size)
        found.append(Relaxation("batch", amount, f"have about {amount} requests at once instead of {size:.0f}"))
    if asked.rate != given.rate:
        rate = asked.rate * problem.rate_per_s
        words = f"lower the rate from {problem.rate_per_s:g} to {rate:g} requests/s"
        found.append(Relaxation("rate", float(f"{rate:.6g}"), words))
    return found
