"""`vllm bench serve` against the service: a load generator that others know, on the streamed loads.

Run as a module it is the launcher: the command `vllm` of vLLM's CPU build does not start (it looks for a package of
the other name), its benchmark does; and all loads share one start.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.load.numbers import Target
from benchmarks.throughput.case import SHORT_TOKENS, Case
from benchmarks.zoo.tasks import Example

TIMEOUT_S = 300
METRICS = ("ttft", "tpot", "itl", "e2el")
KEPT = ("completed", "failed", "duration", "request_throughput", "request_goodput", "output_throughput")


def measure(
    cases: Sequence[Case], url: str, tokenizer: str, examples: Sequence[Example], target: Target, seed: int
) -> list[dict[str, Any]]:
    """What vLLM's benchmark says of each load, with `auto` as the model.

    Raises:
        RuntimeError: it failed; holds the end of what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts.jsonl"
        prompts.write_text("".join(json.dumps({"prompt": example.prompt}) + "\n" for example in examples))
        commands = [arguments(case, url, tokenizer, prompts, target, seed) for case in cases]
        results = Path(folder) / "results.json"
        command = [sys.executable, "-W", "ignore", "-m", __name__, str(results), json.dumps(commands)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
        if done.returncode:
            raise RuntimeError(f"vllm bench serve failed: {done.stderr.strip()[-500:]}")
        found = json.loads(results.read_text())
    return [{"load": case.name, **short(one)} for case, one in zip(cases, found, strict=True)]


def arguments(case: Case, url: str, tokenizer: str, prompts: Path, target: Target, seed: int) -> list[str]:
    """The load as arguments of `vllm bench serve`."""
    fixed = {
        "backend": "openai-chat",
        "base-url": url,
        "endpoint": "/v1/chat/completions",
        "model": "auto",
        "tokenizer": tokenizer,
        "dataset-name": "custom",
        "dataset-path": str(prompts),
        "custom-output-len": SHORT_TOKENS,
        "num-prompts": case.requests,
        "seed": seed,
        "temperature": 0,
        "percentile-metrics": ",".join(METRICS),
        "metric-percentiles": "50,95,99",
    }
    fixed |= {"max-concurrency": case.concurrency} if case.concurrency else {"request-rate": case.rate_per_s}
    flags = [part for name, value in fixed.items() for part in (f"--{name}", str(value))]
    goodput = ["--goodput", f"ttft:{1e3 * target.first_token_s:g}", f"e2el:{1e3 * target.latency_s:g}"]
    return [*flags, "--skip-chat-template", "--disable-shuffle", "--disable-tqdm", *goodput]


def short(result: dict[str, Any]) -> dict[str, Any]:
    """Rates and percentiles; the rest of what vLLM says is about its own settings."""
    percentiles = {
        f"{metric}_ms": {p: result.get(f"{p}_{metric}_ms") for p in ("p50", "p95", "p99")} for metric in METRICS
    }
    return {key: result.get(key) for key in KEPT} | percentiles


def _launch(results: Path, commands: list[list[str]]) -> None:
    from vllm.benchmarks.serve import add_cli_args, main
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    add_cli_args(parser)
    results.write_text(json.dumps([main(parser.parse_args(command)) for command in commands]))


if __name__ == "__main__":
    _launch(Path(sys.argv[1]), json.loads(sys.argv[2]))
