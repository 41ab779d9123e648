"""What profiles compute, beside what the installed vLLM computes and what others have measured."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from apportion.allocation.architecture import Architecture, read_architecture
from apportion.allocation.gpus import GPU_TYPES
from apportion.allocation.models import ModelSpec
from apportion.allocation.numbers import numbers_of
from apportion.allocation.profile import MAX_SEQUENCES, Typical, compute_profile
from apportion.allocation.replica import ReplicaType
from apportion.allocation.roofline import GIB, Deployed
from apportion.router.errors import ConfigurationError
from apportion.router.prices import ModelPrice
from benchmarks.profiles.models import MODELS, Config
from benchmarks.profiles.published import STEPS, THROUGHPUTS, Step, Throughput
from benchmarks.stamp import stamp

# What both sides compute: GPUs of a replica, the context, and tokens of a step; vLLM has one step under way here.
GPUS = (1, 8)
LONGEST, STEP = 8192, 8192
SHOWN = ("T4", "L4", "A100-40GB", "L40S", "A100-80GB", "H100", "H200", "B200")
# What the arithmetic is held to: how far below vLLM's own it may be, how far above, and factors of speed.
BELOW, ABOVE = 0.001, 0.05
ONE_SEQUENCE, MANY_SEQUENCES = 1.5, 1.7


def run(engine: Path | None, console: Console) -> dict[str, Any]:
    """All comparisons.

    Args:
        engine: an earlier result, whose numbers of vLLM are taken; None: vLLM builds all models anew (minutes).
    """
    theirs = json.loads(engine.read_text())["engine"] if engine else {str(n): ask_engine(MODELS, n) for n in GPUS}
    found = architectures(MODELS, console)
    return {
        "stamp": stamp(gpus=GPUS, longest=LONGEST, step=STEP),
        "engine": theirs,
        "sizes": compare_sizes(found, theirs),
        "fits": [_fits(name, one) for name, one in found.items()],
        "steps": [_beside(one, step_ms(found[one.model], one) / one.ms) for one in STEPS],
        "throughputs": [_beside(one, throughput(found[one.model], one) / one.tokens_per_s) for one in THROUGHPUTS],
    }


def architectures(configs: Mapping[str, Config], console: Console | None = None) -> dict[str, Architecture]:
    """Of each model, as profiles read it."""
    found = {}
    for name, config in configs.items():
        with TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(config))
            found[name] = read_architecture(folder)
        if console is not None:
            console.print(name)
    return found


def ask_engine(configs: Mapping[str, Config], gpus: int) -> list[dict[str, Any]]:
    """What vLLM says of each, as one of so many GPUs; in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.profiles.engine", *map(str, (gpus, LONGEST, STEP))]
    done = subprocess.run(command, input=json.dumps(configs), capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def compare_sizes(
    found: Mapping[str, Architecture], theirs: Mapping[str, Iterable[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """Weights and cache of one GPU in bytes, ours and vLLM's, where it can build the model on this machine."""
    rows = []
    for gpus, answers in theirs.items():
        for answer in answers:
            name = answer["name"]
            if name not in found or "error" in answer:
                continue
            ours = deployed(name, found[name], "H100", int(gpus))
            seen = min(LONGEST, found[name].max_positions)
            without = found[name].other_parameters * ours.numbers.dtype_bytes
            rows.append(
                {
                    "model": name,
                    "gpus": int(gpus),
                    "weight_bytes": (ours.weight_bytes - without) / int(gpus),
                    "engine_weight_bytes": answer["weight_bytes"],
                    "cache_bytes": ours.cache_bytes(seen, answer["in_flight"]) / int(gpus),
                    "engine_cache_bytes": answer["cache_bytes"],
                }
            )
    return rows


def deployed(name: str, model: Architecture, gpu: str, gpus: int) -> Deployed:
    spec = ModelSpec(name, name, ModelPrice(1, 1))
    return Deployed(model, GPU_TYPES[gpu], 1.0, gpus, numbers_of(spec, model))


def step_ms(model: Architecture, one: Step) -> float:
    """Milliseconds a token of each sequence."""
    return deployed(one.model, model, one.gpu, one.gpus).decode_step_s(one.sequences, one.context_tokens) * 1e3


def throughput(model: Architecture, one: Throughput) -> float:
    """Output tokens/s: steps of all sequences, and the time that reading their prompts takes of them, as in a plan."""
    replica = deployed(one.model, model, one.gpu, one.gpus)
    context = one.input_tokens + one.output_tokens // 2
    wanted = one.sequences or MAX_SEQUENCES
    sequences = min(wanted, int(replica.free_for_cache_gib(wanted) * GIB // replica.cache_bytes(context)))
    reads_s = replica.prefill_s(replica.step_tokens) / replica.step_tokens * one.input_tokens / one.output_tokens
    return 1 / (replica.decode_step_s(sequences, context) / sequences + reads_s)


def bias(rows: Iterable[Mapping[str, Any]]) -> float:
    """Geometric mean of the ratios."""
    logs = [math.log(row["ratio"]) for row in rows]
    return math.exp(sum(logs) / len(logs))


def _beside(one: Step | Throughput, ratio: float) -> dict[str, Any]:
    return {**vars(one), "ratio": ratio}


def _fits(name: str, model: Architecture) -> dict[str, Any]:
    """By GPU type the fewest GPUs that the model fits on and how many typical sequences run there."""
    row: dict[str, Any] = {"model": name, "weights_gib": 0.0, "cache_bytes_per_token": 0.0, "on": {}}
    one = deployed(name, model, "H100", 1)
    row["weights_gib"] = one.weight_bytes / GIB
    seen = min(LONGEST, model.max_positions)
    row["cache_bytes_per_token"] = one.cache_bytes(seen) / seen
    for gpu in SHOWN:
        dtype = "float16" if gpu == "T4" else "bfloat16"
        spec = ModelSpec(name, name, ModelPrice(1, 1), max_model_len=seen, dtype=dtype)
        row["on"][gpu] = next(
            (
                {"gpus": gpus, "sequences": profile.max_num_seqs, "tokens_per_s": profile.tokens_per_s}
                for gpus in (1, 2, 4, 8)
                if (profile := _profile(spec, model, gpu, gpus)) is not None and profile.fits
            ),
            None,
        )
    return row


def _profile(spec: ModelSpec, model: Architecture, gpu: str, gpus: int) -> Any:
    try:
        return compute_profile(spec, model, GPU_TYPES[gpu], ReplicaType(spec.name, gpu, 1.0, gpus), Typical())
    except ConfigurationError:
        return None
