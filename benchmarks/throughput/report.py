"""Throughput of the whole service, real engines, over HTTP, beside the same requests straight to the engines.

Each round sends a load through the router (`auto`), then the same prompts to the ports of the engines that the router
chose for them, equally many at a time. Short answers are the zoo's own and are graded; long ones go on for a fixed
number of tokens, so that the engines have most of the work. Apart from these, with few slots: how many requests end in
time, with and without routing by time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.experiments.report import table
from benchmarks.load.report import number
from benchmarks.throughput import in_time_report

TITLE = "Throughput"
COLUMNS = (
    "load",
    "requests/s",
    "direct",
    "ratio",
    "output tokens/s",
    "goodput/s",
    "first token p50 / p95 / p99 ms",
    "between tokens p50 / p99",
    "end to end p50 / p95 / p99",
    "right",
    "USD per 1000",
    "errors",
)
PROCESSES = ("client", "haproxy", "Ingress", "Router", "Predictor", "Solver", "engines")


def section(result: dict[str, Any]) -> list[str]:
    """Lines of Markdown: the loads, and requests in time, as far as they were measured."""
    lines = _loads(result) if "closed" in result else []
    if "in_time" in result:
        lines += [*([""] if lines else []), *in_time_report.section(result["in_time"])]
    return lines


def _loads(result: dict[str, Any]) -> list[str]:
    """Targets, loads, and whose CPU it was."""
    settings = result["stamp"]["settings"]
    lines = ["### Targets", "", *table(["", "at least", "measured", "met"], _targets(result)), ""]
    lines += ["### Loads", "", *table(COLUMNS, _rows(result)), ""]
    lines += [
        f"Goodput counts answers complete within {settings['latency_target_s']:g} s, streamed ones with their first "
        f"token within {settings['first_token_target_s']:g} s. `ratio`: routed over direct requests/s, median of the "
        "rounds, and their range where there are several. Quality and dollars are the routed answers'; direct ones "
        "cost and score the same where batching leaves an engine's arithmetic alone.",
        "",
        "### CPU, ms a request, routed / direct",
        "",
        *table(["load", *PROCESSES, "direct over routed, all", "engines alone"], _cpu_rows(result)),
        "",
        f"All of it shares {result['stamp']['machine']['cores']} cores, so while they are busy `ratio` is about the "
        "last column but one; with cores of its own for all but the engines it would be about the last. That one is "
        "below 1 where a request spends part of its time in the router, so that fewer share the engines' steps.",
    ]
    if result["vllm_bench_serve"]:
        lines += ["", "### The same service as `vllm bench serve` sees it", "", *_of_vllm(result)]
    return lines


def _targets(result: dict[str, Any]) -> list[list[str]]:
    return [
        [aim["target"], number(aim["at_least"], 2), number(aim["measured"], 2), "yes" if aim["met"] else "**no**"]
        for aim in result["targets"]
    ]


def _rows(result: dict[str, Any]) -> list[list[str]]:
    return [_row(row) for row in [*result["closed"], *result["open"]]]


def _row(row: dict[str, Any]) -> list[str]:
    found = row["routed"]
    answered = max(found["settled_answers"], 1)
    return [
        row["load"],
        number(found["requests_per_s"]),
        number(row["direct"]["requests_per_s"]),
        _ratio(row["ratio"]),
        number(found["output_tokens_per_s"], 0),
        number(found["goodput_per_s"]),
        _percentiles(found["first_token_ms"], ("p50", "p95", "p99")),
        _percentiles(found["between_tokens_ms"], ("p50", "p99")),
        _percentiles(found["latency_ms"], ("p50", "p95", "p99")),
        "" if found["right"] is None else f"{100 * found['right']:.1f} %",
        f"{1e3 * found['settled_usd'] / answered:.4f}",
        f"{found['errors']} / {row['direct']['errors']}",
    ]


def _ratio(ratio: dict[str, Any]) -> str:
    several = f" [{ratio['min']:.2f}, {ratio['max']:.2f}]" if len(ratio["rounds"]) > 1 else ""
    return f"{ratio['median']:.2f}{several}"


def _percentiles(values: dict[str, float] | None, names: Sequence[str]) -> str:
    return "" if not values else " / ".join(number(values[name], 0) for name in names)


def _cpu_rows(result: dict[str, Any]) -> list[list[str]]:
    rows = []
    for row in [*result["closed"], *result["open"]]:
        through, straight = _cpu(row["routed"]), _cpu(row["direct"])
        shares = [_share(sum(straight), sum(through)), _share(straight[-1], through[-1])]
        rows.append([row["load"], *(f"{a:.1f} / {b:.1f}" for a, b in zip(through, straight, strict=True)), *shares])
    return rows


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.2f}" if whole else ""


def _cpu(found: dict[str, Any]) -> list[float]:
    spent = found["cpu_ms_per_request"]
    engines = sum(ms for kind, ms in spent.items() if kind.startswith(("apportion/Engine-", "engine core")))
    return [spent.get(name, spent.get(f"apportion/{name}", 0.0)) for name in PROCESSES[:-1]] + [engines]


def _of_vllm(result: dict[str, Any]) -> list[str]:
    rows = [
        [
            one["load"],
            number(one["request_throughput"]),
            number(one["output_throughput"], 0),
            number(one["request_goodput"]),
            *(_percentiles(one[f"{metric}_ms"], ("p50", "p95", "p99")) for metric in ("ttft", "itl", "e2el")),
            str(one["failed"]),
        ]
        for one in result["vllm_bench_serve"]
    ]
    return table(["load", "requests/s", "tokens/s", "goodput/s", "TTFT ms", "ITL ms", "E2EL ms", "failed"], rows)


def show(result: dict[str, Any], console: Console) -> None:
    if "closed" in result:
        _show_loads(result, console)
    if "in_time" in result:
        in_time_report.show(result["in_time"], console)


def _show_loads(result: dict[str, Any], console: Console) -> None:
    found = Table(title="Throughput, routed, beside the same requests straight to the engines")
    for column in (COLUMNS[0], *COLUMNS[1:6], "end to end p50 ms", "errors"):
        found.add_column(column, justify="left" if column == "load" else "right")
    for row, cells in zip([*result["closed"], *result["open"]], _rows(result), strict=True):
        latency_ms = row["routed"]["latency_ms"]
        found.add_row(*cells[:6], number(latency_ms and latency_ms["p50"]), cells[-1])
    console.print(found)
    for aim in result["targets"]:
        verdict = "met" if aim["met"] else "MISSED"
        console.print(f"{verdict}: {aim['target']}: {aim['measured']:.2f}, at least {aim['at_least']:.2f}")
