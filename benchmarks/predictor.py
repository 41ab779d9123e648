"""What the whole predictor costs beside its bare encoder: tokenise and encode, then features, heads, calibration.

Both are timed in turn on the same texts in the same run; the ratio is of medians over the rounds. CPU time is given
beside wall time, since on a shared machine only that can be compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from apportion.router.prediction.predictor import Predictor
from benchmarks.stamp import stamp

BATCHES = (1, 4, 16, 64, 256, 1024)
FEWEST_ROUNDS, LONGEST_S = 3, 60.0  # a batch that takes long has fewer rounds
WORDS = "the of sum what is count letters in word largest list reverse how many if then train leaves at speed"


@dataclass(frozen=True)
class Timing:
    """Medians over the rounds for one batch: seconds of the bare encoder and of the whole predictor."""

    batch: int
    rounds: int
    encoder_wall_s: float
    predictor_wall_s: float
    encoder_cpu_s: float
    predictor_cpu_s: float

    @property
    def cpu_ratio(self) -> float:
        """CPU time of the predictor over that of the encoder."""
        return self.predictor_cpu_s / self.encoder_cpu_s

    @property
    def wall_ratio(self) -> float:
        """Wall time of the predictor over that of the encoder."""
        return self.predictor_wall_s / self.encoder_wall_s


def texts(count: int, seed: int) -> list[str]:
    """Prompts of 5 to 200 words, short ones being commoner."""
    rng = np.random.default_rng(seed)
    words = np.array(WORDS.split())
    lengths = np.exp(rng.uniform(np.log(5), np.log(200), count)).astype(int)
    return [f"{' '.join(rng.choice(words, length))} {rng.integers(10**6)}?" for length in lengths]


def run(artefact: Path, device: str, rounds: int, seed: int) -> dict[str, Any]:
    """Time every batch size."""
    predictor = Predictor.load(artefact, device=device)
    timings = [_time(predictor, texts(batch, seed), rounds) for batch in track(BATCHES, "batches")]
    rows = [asdict(t) | {"cpu_ratio": t.cpu_ratio, "wall_ratio": t.wall_ratio} for t in timings]
    settings = {"artefact": str(artefact), "device": str(predictor.encoder.device), "rounds": rounds, "seed": seed}
    return {"stamp": stamp(**settings), "models": len(predictor.models), "timings": rows}


def show(result: dict[str, Any], console: Console) -> None:
    """Print the timings."""
    table = Table(
        "batch", "encoder, ms", "predictor, ms", "ratio", "encoder, CPU ms", "predictor, CPU ms", "ratio", "texts/s"
    )
    for row in result["timings"]:
        table.add_row(
            str(row["batch"]),
            f"{row['encoder_wall_s'] * 1e3:.1f}",
            f"{row['predictor_wall_s'] * 1e3:.1f}",
            f"{row['wall_ratio']:.3f}",
            f"{row['encoder_cpu_s'] * 1e3:.1f}",
            f"{row['predictor_cpu_s'] * 1e3:.1f}",
            f"{row['cpu_ratio']:.3f}",
            f"{row['batch'] / row['predictor_wall_s']:.0f}",
        )
    console.print(table)


def _time(predictor: Predictor, prompts: list[str], rounds: int) -> Timing:
    def encode() -> None:
        predictor.encoder.encode(prompts)

    def predict() -> None:
        predictor.predict(prompts)

    encode()
    predict()
    measured: list[tuple[float, ...]] = []
    began_s = time.perf_counter()
    while len(measured) < rounds and (len(measured) < FEWEST_ROUNDS or time.perf_counter() - began_s < LONGEST_S):
        measured.append((*_once(encode), *_once(predict)))
    encoder_wall, encoder_cpu, predictor_wall, predictor_cpu = np.median(measured, axis=0).tolist()
    return Timing(len(prompts), len(measured), encoder_wall, predictor_wall, encoder_cpu, predictor_cpu)


def _once(call: Callable[[], None]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu
