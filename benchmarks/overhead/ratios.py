"""Ways compared within each round, so that what disturbs the machine disturbs both sides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.load.numbers import median, ratio_range

Rounds = Mapping[tuple[str, int, bool], list[dict[str, Any]]]

# way, beside, measure: CPU with whoever answers included where Serve's hop cannot be told from its replica.
CPU_RATIOS = (
    ("auto", "passthrough", "cpu_ms_per_request"),
    ("auto", "passthrough", "cpu_ms_per_request_without_encoder"),
    ("fixed", "passthrough", "cpu_ms_per_request"),
    ("auto", "litellm", "way_cpu_ms_per_request"),
    ("auto", "litellm", "way_cpu_ms_per_request_without_encoder"),
    ("auto", "switchyard", "way_cpu_ms_per_request"),
    ("auto", "vllm-router", "way_cpu_ms_per_request"),
)
ADDED = ("passthrough", "fixed", "auto", "litellm", "switchyard", "vllm-router")


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
        aims.append(_aim(f"added at the median, one request at a time, {what}, ms", added, 20.0))
        for concurrency in (1, 16, 64):
            for suffix in ("", "_without_encoder"):
                name = f"CPU over Serve's passthrough, {concurrency} at a time, {what}{suffix.replace('_', ' ')}"
                pair = _ratio(rounds, ("auto", "passthrough"), "cpu_ms_per_request" + suffix, concurrency, stream)
                aims.append(_aim(name, pair["median"] if pair else None, 2.0))
        for suffix in ("", "_without_encoder"):
            name = f"CPU over LiteLLM's proxy, 16 at a time, {what}{suffix.replace('_', ' ')}"
            pair = _ratio(rounds, ("auto", "litellm"), "way_cpu_ms_per_request" + suffix, 16, stream)
            aims.append(_aim(name, pair["median"] if pair else None, 1 / 3))
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
