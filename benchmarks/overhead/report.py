"""What routing costs a request: CPU and latency beside the engine alone, Serve's passthrough, and other proxies.

Engines are simulated: they answer at once, 16 tokens, so that everything measured is the way. CPU counts the proxy,
ingress, router, predictor and solver, or the process of another proxy; latency is the median at the client.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.experiments.report import table
from benchmarks.load.report import number
from benchmarks.overhead.arm import ROUTED, WATCHED

TITLE = "Overhead of routing"
AUTO, CHUNKS = "auto", 16
SPANS = ("link", "queue", "predict", "solve", "engine", "outside")


def section(result: dict[str, Any]) -> list[str]:
    """Lines of Markdown: targets first, then all ways, the split of the added time, and the ceiling."""
    lines = ["### Targets", "", *_targets(result), "", "### All ways", "", *_ways(result)]
    if watched := _watched(result):
        lines += ["", watched]
    lines += ["", "### Where the time goes, median ms", "", *_split(result), "", _OF_SPANS]
    if processes := _processes(result):
        lines += ["", "### What a core of each process gives", "", *processes, "", _OF_PROCESSES]
    if result["ceiling"]:
        lines += ["", "### The router's own ceiling", "", *_ceiling(result), "", _of_ceiling(result)]
    if result["skipped"]:
        lines += ["", *(f"Left out: {name}: {reason}" for name, reason in result["skipped"].items())]
    return lines


_OF_SPANS = (
    "`link`: the exchange between ingress and router beyond the router's own work; `queue`: until the batch was "
    "planned; `engine`: from sending to the answer's first byte; `outside`: the rest, which is HAProxy, the ingress's "
    "reading and writing, the rest of a stream, and the client."
)


def _watched(result: dict[str, Any]) -> str:
    """What it costs to see everything."""
    told = [
        f"{number(row['median'], 2)} ({number(row['min'], 2)} to {number(row['max'], 2)}) {_load(row)}"
        for row in result.get("cpu_ratios", ())
        if row["way"] == WATCHED
    ]
    return (
        "`auto, watched` is a second service of which every request is recorded, one in a hundred traced, every batch "
        "logged and all metrics told to Ray too, while its metrics are scraped every second and a console is open. "
        f"CPU a request over that of `auto`, engine included: {'; '.join(told)}. A round takes a second or less, so "
        "that what is done once a second weighs more here than under a load that lasts."
        if told
        else ""
    )


def _targets(result: dict[str, Any]) -> list[str]:
    rows = [
        [aim["target"], number(aim["at_most"], 2), number(aim["measured"], 2), "yes" if aim["met"] else "**no**"]
        for aim in result["targets"]
    ]
    return table(["", "at most", "measured", "met"], rows)


def _ways(result: dict[str, Any]) -> list[str]:
    headings = ["load", "way", "CPU ms", "without encoder", "with engine", "p50 ms", "first byte ms", "requests/s"]
    rows = [
        [
            _load(row),
            row["arm"],
            number(row["way_cpu_ms_per_request"], 2),
            number(row["way_cpu_ms_per_request_without_encoder"], 2),
            number(row["cpu_ms_per_request"], 2),
            number(row["latency_ms_p50"]),
            number(row["first_byte_ms_p50"]),
            number(row["requests_per_s"], 0),
        ]
        for row in result["rows"]
    ]
    return table(headings, rows)


def _split(result: dict[str, Any]) -> list[str]:
    rows = [
        [f"{_load(row)}, {row['arm']}", *(number(row["spans_ms_p50"].get(span), 2) for span in SPANS)]
        for row in result["rows"]
        if row["spans_ms_p50"]
    ]
    return table(["", *SPANS], rows)


_OF_PROCESSES = (
    "`auto` at the most requests at a time. Requests a second are what one core of the process has CPU for; an ingress "
    f"and a predictor may be many, the router is one. A streamed answer has {CHUNKS} chunks, which come so fast that "
    "an ingress passes several on together."
)


def _processes(result: dict[str, Any]) -> list[str]:
    """By process: the requests, whole and streamed, that a core has CPU for."""
    rows = [row for row in result["rows"] if row["arm"] == AUTO]
    most = max((row["concurrency"] for row in rows), default=0)
    spent = {row["stream"]: row["cpu_ms_per_request_by_process"] for row in rows if row["concurrency"] == most}
    both = [(kind, *(spent.get(stream, {}).get(kind) for stream in (False, True))) for kind in ROUTED]
    found = [
        [kind, number(whole, 2), f"{1e3 / whole:,.0f}", number(streamed, 2), f"{1e3 / streamed:,.0f}"]
        for kind, whole, streamed in both
        if whole and streamed
    ]
    headings = ["process", "CPU ms, whole", "requests/s a core", "CPU ms, streamed", "requests/s a core, streamed"]
    return table(headings, found) if found else []


def _ceiling(result: dict[str, Any]) -> list[str]:
    rows = []
    for row in result["ceiling"]:
        whole, streamed = row["whole"], row["streamed"]
        rows.append(
            [
                str(row["ingress_replicas"]),
                number(whole["requests_per_s"], 0),
                number(whole["way_cpu_ms_per_request"], 2),
                number(streamed["requests_per_s"], 0),
                number(streamed["way_cpu_ms_per_request"], 2),
            ]
        )
    return table(["ingress replicas", "requests/s", "CPU ms", "requests/s, streamed", "CPU ms, streamed"], rows)


def _of_ceiling(result: dict[str, Any]) -> str:
    cores = result["stamp"]["machine"]["cores"]
    return (
        f"64 at a time, `auto`; client, engines and all of the service share {cores} cores, so more ingresses can only "
        "help where there are cores for them."
    )


def _load(row: dict[str, Any]) -> str:
    return f"{row['concurrency']} at a time{', streamed' if row['stream'] else ''}"


def show(result: dict[str, Any], console: Console) -> None:
    found = Table(title="CPU and latency a request, simulated engines")
    for column in ("load", "way", "CPU ms", "without encoder", "with engine", "p50 ms", "requests/s", "errors"):
        found.add_column(column, justify="left" if column in {"load", "way"} else "right")
    for row in result["rows"]:
        found.add_row(
            _load(row),
            row["arm"],
            number(row["way_cpu_ms_per_request"], 2),
            number(row["way_cpu_ms_per_request_without_encoder"], 2),
            number(row["cpu_ms_per_request"], 2),
            number(row["latency_ms_p50"]),
            number(row["requests_per_s"], 0),
            str(row["errors"]),
        )
    console.print(found)
    for aim in result["targets"]:
        verdict = "met" if aim["met"] else "MISSED"
        console.print(f"{verdict}: {aim['target']}: {aim['measured']:.2f}, at most {aim['at_most']:.2f}")
