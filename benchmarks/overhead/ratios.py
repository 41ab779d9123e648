"""Ways compared within each round, so that what disturbs the machine disturbs both sides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.load.numbers import median, ratio_range
from benchmarks.overhead.arm import LONG, WATCHED

Rounds = Mapping[tuple[str, int, bool], list[dict[str, Any]]]

# way, beside, measure: CPU with whoever answers included where Serve's hop cannot be told from its replica.
CPU_RATIOS = (
    ("auto", "passthrough", "cpu_ms_per_request"),
    ("auto", "passthrough", "cpu_ms_per_request_without_encoder"),
    ("fixed", "passthrough", "cpu_ms_per_request"),
    (LONG, "auto", "cpu_ms_per_request"),
    (WATCHED, "auto", "cpu_ms_per_request"),
    ("auto", "litellm", "way_cpu_ms_per_request"),
    ("auto", "litellm", "way_cpu_ms_per_request_without_encoder"),
    ("auto", "switchyard", "way_cpu_ms_per_request"),
    ("auto", "vllm-router", "way_cpu_ms_per_request"),
)
ADDED = ("passthrough", "fixed", "auto", LONG, WATCHED, "litellm", "switchyard", "vllm-router")

MOST_ADDED_MS = 4.0
# ways, measure, the second way in words, and the most by concurrency: whole and streamed.
CPU_TARGETS: tuple[tuple[tuple[str, str], str, str, dict[int, tuple[float, float]]], ...] = (
    (
        ("auto", "passthrough"),
        "cpu_ms_per_request",
        "Serve's passthrough",
        {1: (3.0, 3.0), 16: (2.0, 1.0), 64: (1.2, 1.0)},
    ),
    (("auto", "litellm"), "way_cpu_ms_per_request", "LiteLLM's proxy", {16: (1 / 3, 1 / 6)}),
    (
        (LONG, "auto"),
        "cpu_ms_per_request",
        "that of 10-token prompts, with 176 tokens",
        {1: (1.1, 1.1), 16: (1.1, 1.1), 64: (1.1, 1.1)},
    ),
)


def cpu_ratios(rounds: Rounds) -> list[dict[str, Any]]:
    """CPU a request of one way over another's, paired by round; their median and range."""
    return [
        {"way": way, "beside": beside, "measure": measure, "concurrency": concurrency, "stream": stream, **found}
        for concurrency, stream in _cases(rounds)
        for way, beside, measure in CPU_RATIOS
        if (found := _ratio(rounds, (way, beside), measure, concurrency, stream))
    ]


def added_ms(rounds: Rounds) -> list[dict[str, Any]]:
    """Median latency of each way less the engine's own, paired by round, in milliseconds."""
    return [
        {
            "way": way,
            "concurrency": concurrency,
            "stream": stream,
            "latency_ms": _added(rounds, way, concurrency, stream, "latency_ms_p50"),
            "first_byte_ms": _added(rounds, way, concurrency, stream, "first_byte_ms_p50"),
        }
        for concurrency, stream in _cases(rounds)
        for way in ADDED
        if (way, concurrency, stream) in rounds
    ]


def targets(rounds: Rounds) -> list[dict[str, Any]]:
    """What is aimed at, what was measured, and whether that is enough."""
    aims = []
    for stream in (False, True):
        what = "streamed" if stream else "whole"
        added = _added(rounds, "auto", 1, stream, "latency_ms_p50")
        aims.append(_aim(f"added at the median, one request at a time, {what}, ms", added, MOST_ADDED_MS))
        for ways, measure, of, most in CPU_TARGETS:
            for concurrency, (whole, streamed) in most.items():
                pair = _ratio(rounds, ways, measure, concurrency, stream)
                name = f"CPU over {of}, {concurrency} at a time, {what}"
                aims.append(_aim(name, pair["median"] if pair else None, streamed if stream else whole))
    return [aim for aim in aims if aim]


def _aim(name: str, value: float | None, most: float) -> dict[str, Any] | None:
    return None if value is None else {"target": name, "at_most": most, "measured": value, "met": value <= most}


def _cases(rounds: Rounds) -> Iterator[tuple[int, bool]]:
    return iter(dict.fromkeys((concurrency, stream) for _, concurrency, stream in rounds))


def _ratio(
    rounds: Rounds, ways: tuple[str, str], measure: str, concurrency: int, stream: bool
) -> dict[str, float] | None:
    above, below = (rounds.get((way, concurrency, stream)) for way in ways)
    if not above or not below:
        return None
    # A way that is cheaper than the clock's tick reads zero in a short round.
    pairs = [(a[measure], b[measure]) for a, b in zip(above, below, strict=True) if b[measure] > 0]
    return ratio_range([a / b for a, b in pairs]) if pairs else None


def _added(rounds: Rounds, way: str, concurrency: int, stream: bool, measure: str) -> float | None:
    mine, engine = rounds.get((way, concurrency, stream)), rounds.get(("engine", concurrency, stream))
    if not mine or not engine:
        return None
    gaps = [a[measure] - b[measure] for a, b in zip(mine, engine, strict=True) if None not in (a[measure], b[measure])]
    return median(gaps) if gaps else None
