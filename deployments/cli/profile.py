"""`apportion profile`: what every model delivers on every share of every GPU type, computed or measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apportion.deployments.cli.application import JsonOption, console, stage_bars, write_json
from apportion.deployments.cli.clusters import ClusterOption, read_cluster
from apportion.router.errors import ConfigurationError, InvalidRequestError

if TYPE_CHECKING:
    from apportion.allocation.architecture import Architecture
    from apportion.allocation.cluster import Cluster
    from apportion.allocation.models import ModelSpec
    from apportion.allocation.profile import Typical
    from apportion.allocation.replica import Profile


def profile(
    models: Annotated[Path, typer.Option(metavar="FILE", help="models.yaml.")],
    cluster: ClusterOption,
    out: Annotated[
        Path, typer.Option(help="Profiles, .yaml or .json. Those that it holds stay; measured replace computed.")
    ],
    share: Annotated[
        list[float] | None, typer.Option(help="Shares of one GPU to look at, repeatable; default: 0.1 to 1.")
    ] = None,
    tensor_parallel: Annotated[
        list[int] | None, typer.Option(help="Several GPUs to look at, repeatable; default: 2, 4, 8.")
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a typical prompt.")] = 512,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a typical answer.")] = 256,
    sequence_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Cache for each running sequence; default: the whole context, which never runs out."),
    ] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Start the real vLLM engines here and measure.")] = False,
    on: Annotated[
        str | None, typer.Option(metavar="TYPE", help="This machine's GPU type, for --measure; cpu: none.")
    ] = None,
    max_num_seqs: Annotated[int, typer.Option(min=1, help="Sequences at once, for --measure --on cpu.")] = 64,
    kv_cache_gib: Annotated[float, typer.Option(min=0.001, help="Cache in GiB, for --measure --on cpu.")] = 0.0625,
    json_file: JsonOption = None,
) -> None:
    """Say for each model and each share of a GPU whether it fits, how many sequences it runs, and how fast.

    Computed from the models' config.json and the GPUs' numbers: estimates, good to some 20 %. With `--measure` from
    the real engines, on the GPU of this machine: run it on one machine of each type, into the same file.

    Example: `apportion profile --models models.yaml --cluster cluster.yaml --out profiles.json`
    """
    from apportion.allocation.models import load_models
    from apportion.allocation.profile import SHARES, TENSOR_PARALLEL, Typical, compute_profiles
    from apportion.allocation.replica import load_profiles, merge_profiles, profile_row, save_profiles

    there = read_cluster(cluster)
    specs = load_models(models, there.gpu_types)
    typical = Typical(prompt_tokens, answer_tokens, sequence_tokens)
    shares = tuple(share or SHARES)
    sizes = tuple(tensor_parallel or TENSOR_PARALLEL)
    found = compute_profiles(specs, there, typical, shares, sizes, _architectures(specs, models))
    if measure:
        found += _measured(specs, there, found, _type_here(on, there), shares, typical, max_num_seqs, kv_cache_gib)
    elif on is not None:
        raise InvalidRequestError("--on names the machine to measure on: add --measure, or leave it out.")
    if not found:
        raise InvalidRequestError(
            "There is nothing to compute: a CPU's speed is only measured (--measure --on cpu), and no model may run on "
            "another type of the cluster."
        )
    kept = load_profiles(out) if out.exists() else ()
    profiles = merge_profiles(kept, found)
    save_profiles(profiles, out)
    if not write_json([profile_row(entry) for entry in profiles], json_file):
        _print(profiles, out)


def _architectures(specs: tuple[ModelSpec, ...], models: Path) -> dict[str, Architecture]:
    """By model; a source that cannot be read is named with its line."""
    from apportion.allocation.architecture import read_architecture
    from apportion.allocation.yaml_files import fault
    from apportion.deployments.config.models import resolve_source

    found = {}
    for number, spec in enumerate(specs):
        try:
            found[spec.name] = read_architecture(resolve_source(spec.source))
        except ConfigurationError as error:
            raise fault(models, ("models", number, "source"), error.message) from error
    return found


def _type_here(on: str | None, cluster: Cluster) -> str:
    types = sorted(cluster.gpu_types)
    if on is None and len(types) == 1:
        return types[0]
    if on not in types:
        raise InvalidRequestError(f"--measure needs --on TYPE, this machine's GPU type: one of {', '.join(types)}.")
    return on


def _measured(
    specs: tuple[ModelSpec, ...],
    cluster: Cluster,
    computed: tuple[Profile, ...],
    gpu_type: str,
    shares: tuple[float, ...],
    typical: Typical,
    max_num_seqs: int,
    kv_cache_gib: float,
) -> tuple[Profile, ...]:
    from apportion.allocation.gpus import CPU

    try:
        import vllm  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"measuring needs {error.name}, which is not installed; install apportion[cpu] or apportion[gpu]"
        ) from error
    from apportion.deployments.engine.measure import cpu_trials, gpu_trials, measure_profiles

    gpu = cluster.gpu_types[gpu_type]
    trials = cpu_trials(specs, gpu, max_num_seqs, kv_cache_gib) if gpu_type == CPU else gpu_trials(computed, gpu)
    with stage_bars() as bars:
        return measure_profiles(specs, trials, shares, typical, bars)


def _print(profiles: tuple[Profile, ...], out: Path) -> None:
    from rich.table import Table

    table = Table("replica", "sequences", "tokens/s", "reads tokens/s", "first token s", "source", "")
    for entry in profiles:
        if entry.fits:
            numbers = (
                str(entry.max_num_seqs),
                f"{entry.tokens_per_s:,.0f}",
                f"{entry.prefill_tokens_per_s:,.0f}",
                f"{entry.first_token_s:.3f}",
            )
        else:
            numbers = ("does not fit", "", "", "")
        table.add_row(str(entry.replica), *numbers, entry.source, entry.reason)
    console.print(table)
    console.print(f"{sum(entry.fits for entry in profiles)} of {len(profiles)} replica types fit; written to {out}.")
