"""Computed profiles beside the installed vLLM's own arithmetic, and beside published speeds.

vLLM builds each model without memory for it, as one of so many GPUs, and says what its parameters and the cache for one
sequence of 8,192 tokens take; no engine runs. It runs on a processor, so what only kernels of a GPU do is not in it,
but that MXFP4 experts are filled up. Models for pictures stand for their text models there. Speeds are those that
others have published: other versions, other engines, some with an assumed GPU; none was measured for this project,
which had no GPU.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.experiments.report import table
from benchmarks.profiles.run import ABOVE, BELOW, MANY_SEQUENCES, ONE_SEQUENCE, SHOWN, bias

TITLE = "Profiles beside vLLM's arithmetic and published speeds"
SIZES = ("model", "GPUs", "weights, GB a GPU", "beside vLLM's", "cache, MB a GPU", "beside vLLM's", "held")
STEPS = ("model", "on", "sequences", "context", "published ms", "computed / published", "source")
THROUGHPUTS = ("model", "on", "sequences", "in / out", "published tokens/s", "computed / published", "source")
FITS = ("model", "weights, GiB", "cache, bytes a token", *SHOWN)


def section(result: dict[str, Any]) -> list[str]:
    """Lines of Markdown."""
    steps, many = result["steps"], result["throughputs"]
    missing = sorted({row["name"] for rows in result["engine"].values() for row in rows if "error" in row})
    return [
        *("### Sizes", ""),
        f"Held: neither weights nor cache more than {BELOW:.1%} below vLLM's or {ABOVE:.0%} above. vLLM builds these "
        "not, or not on as many GPUs, since it has no kernel for a processor, lacks torchvision, or refuses the "
        f"division as profiles do: {', '.join(missing)}.",
        *("", *table(SIZES, _sizes(result)), ""),
        *("### One sequence, and few", ""),
        f"Held to a factor of {ONE_SEQUENCE}: {_held(steps, ONE_SEQUENCE)}. Bias (geometric mean): {bias(steps):.2f} "
        "of the published time.",
        *("", *table(STEPS, _steps(steps)), ""),
        *("### Throughput", ""),
        f"Held to a factor of {MANY_SEQUENCES}: {_held(many, MANY_SEQUENCES)}. Bias: {bias(many):.2f} of the published "
        "throughput. TensorRT-LLM is another engine and runs more than the 256 sequences that are computed for it.",
        *("", *table(THROUGHPUTS, _throughputs(many)), ""),
        *("### What fits", ""),
        "The fewest GPUs that the model fits on with a context of 8,192 tokens, and the sequences of 768 tokens that "
        "run at once there (256 at most), in bfloat16 (float16 on the T4).",
        *("", *table(FITS, _fits(result["fits"]))),
    ]


def show(result: dict[str, Any], console: Console) -> None:
    for columns, rows in (
        (SIZES, _sizes(result)),
        (STEPS, _steps(result["steps"])),
        (THROUGHPUTS, _throughputs(result["throughputs"])),
    ):
        found = Table(*columns)
        for row in rows:
            found.add_row(*row)
        console.print(found)


def _held(rows: list[dict[str, Any]], factor: float) -> str:
    far = [row for row in rows if not 1 / factor <= row["ratio"] <= factor]
    return f"{len(rows) - len(far)} of {len(rows)}"


def _sizes(result: dict[str, Any]) -> list[list[str]]:
    rows = []
    for row in result["sizes"]:
        weights = row["weight_bytes"] / row["engine_weight_bytes"] - 1
        cache = row["cache_bytes"] / row["engine_cache_bytes"] - 1
        held = all(-BELOW <= off <= ABOVE for off in (weights, cache))
        rows.append(
            [
                row["model"],
                str(row["gpus"]),
                f"{row['weight_bytes'] / 1e9:.2f}",
                f"{weights:+.2%}",
                f"{row['cache_bytes'] / 1e6:,.0f}",
                f"{cache:+.2%}",
                "yes" if held else "**no**",
            ]
        )
    return rows


def _place(row: dict[str, Any]) -> str:
    return f"{row['gpus']} x {row['gpu']}" if row["gpus"] > 1 else row["gpu"]


def _steps(rows: list[dict[str, Any]]) -> list[list[str]]:
    return [
        [
            row["model"],
            _place(row),
            str(row["sequences"]),
            str(row["context_tokens"]),
            f"{row['ms']:.2f}",
            f"{row['ratio']:.2f}",
            row["source"],
        ]
        for row in rows
    ]


def _throughputs(rows: list[dict[str, Any]]) -> list[list[str]]:
    return [
        [
            row["model"],
            _place(row),
            str(row["sequences"] or "unlimited"),
            f"{row['input_tokens']} / {row['output_tokens']}",
            f"{row['tokens_per_s']:,.0f}",
            f"{row['ratio']:.2f}",
            row["source"],
        ]
        for row in rows
    ]


def _fits(rows: list[dict[str, Any]]) -> list[list[str]]:
    return [
        [
            row["model"],
            f"{row['weights_gib']:.1f}",
            f"{row['cache_bytes_per_token']:,.0f}",
            *(f"{on['gpus']} x: {on['sequences']}" if (on := row["on"][gpu]) else "" for gpu in SHOWN),
        ]
        for row in rows
    ]
