"""`apportion profile`: what every model delivers on every share of every GPU type, computed or measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apportion.deployments.cli.application import JsonOption, console, stage_bars, warn, writable_file, write_json
from apportion.deployments.cli.clusters import ClusterOption, read_cluster
from apportion.deployments.cli.models import ConfigOption, ModelsOption, read_models
from apportion.router.errors import ConfigurationError, InvalidRequestError

if TYPE_CHECKING:
    from apportion.allocation.architecture import Architecture
    from apportion.allocation.cluster import Cluster
    from apportion.allocation.gpus import GpuType
    from apportion.allocation.models import DescribedModels, ModelSpec
    from apportion.allocation.profile import Typical
    from apportion.allocation.replica import Profile
    from apportion.deployments.engine.measure import Trial


def profile(
    cluster: ClusterOption,
    out: Annotated[
        Path,
        typer.Option(
            callback=writable_file,
            help="profiles, .yaml or .json; those that it holds stay, but of models that have changed; measured "
            "replace computed",
        ),
    ],
    config: ConfigOption = None,
    models: ModelsOption = None,
    share: Annotated[
        list[float] | None,
        typer.Option(min=0.0001, max=1, help="shares of one GPU to look at, repeatable; default: 0.1 to 1"),
    ] = None,
    tensor_parallel: Annotated[
        list[int] | None, typer.Option(min=1, help="several GPUs to look at, repeatable; default: 2, 4, 8")
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="tokens of a typical prompt")] = 512,
    answer_tokens: Annotated[int, typer.Option(min=1, help="tokens of a typical answer")] = 256,
    sequence_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="cache for each running sequence; default: for a typical request; plans take their own requests'",
        ),
    ] = None,
    measure: Annotated[bool, typer.Option("--measure", help="start the real vLLM engines here and measure")] = False,
    on: Annotated[
        str | None, typer.Option(metavar="TYPE", help="this machine's GPU type, for --measure; cpu: none")
    ] = None,
    max_num_seqs: Annotated[
        int, typer.Option(min=1, help="sequences at once, for --measure on the CPU or of what cannot be computed")
    ] = 64,
    kv_cache_gib: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="cache in GiB, for --measure on the CPU (default: 0.0625) or, on each GPU, of what cannot be computed",
        ),
    ] = None,
    all_types: Annotated[
        bool, typer.Option("--all", help="print every replica type, those that do not fit too")
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Say for each model and each share of a GPU whether it fits, how many sequences it runs, and how fast.

    Computed from the models' config.json and the GPUs' numbers: estimates, good to some 20 %. With `--measure` from
    the real engines, on the GPU of this machine: run it on one machine of each type, into the same file. A model that
    cannot be computed is told apart and left out, unless it is measured; its `sizes` may be given in its description.

    Example: `apportion profile --config serve_config.yaml --cluster cluster.yaml --out profiles.json`
    """
    from apportion.allocation.origin import config_hash
    from apportion.allocation.profile import SHARES, TENSOR_PARALLEL, Typical, compute_profiles
    from apportion.allocation.replica import load_profiles, merge_profiles, profile_row, save_profiles
    from apportion.deployments.config.models import resolve_source

    there = read_cluster(cluster)
    described = read_models(config, models, there.gpu_types)
    specs = tuple(spec for spec in described.specs if spec.quota is None)
    typical = Typical(prompt_tokens, answer_tokens, sequence_tokens)
    shares = tuple(share or SHARES)
    sizes = tuple(tensor_parallel or TENSOR_PARALLEL)
    hashes = {spec.name: config_hash(resolve_source(spec.source), spec.revision) for spec in specs}
    read, unread = _architectures(described)
    found: tuple[Profile, ...] = ()
    for number, spec in enumerate(specs):
        if spec.name in read:
            try:
                found += compute_profiles([spec], there, typical, shares, sizes, read, hashes)
            except ConfigurationError as error:
                unread[spec.name] = described.fault(number, (), error.message)
    if measure:
        gpu = there.gpu_types[_type_here(on, there)]
        trials = _trials(gpu, specs, found, unread, there, shares, sizes, max_num_seqs, kv_cache_gib)
        found += _measured(specs, trials, shares, typical, hashes)
    elif on is not None:
        raise InvalidRequestError("--on: names the machine to measure on; add --measure, or leave it out")
    left_out = {name: error for name, error in unread.items() if name not in {p.replica.model for p in found}}
    if left_out and not found:
        raise next(iter(left_out.values()))
    if not found:
        raise InvalidRequestError(
            "--cluster: there is nothing to compute for it; a CPU's speed is only measured (--measure --on cpu), and "
            "no model may run on another type of the cluster"
        )
    for told in left_out.values():
        warn(f"left out: {told.message}")
    kept = _still_true(load_profiles(out) if out.exists() else (), specs, hashes)
    profiles = merge_profiles(kept, found)
    save_profiles(profiles, out)
    if not write_json([profile_row(entry) for entry in profiles], json_file):
        _print(profiles, out) if all_types else _print_shortly(profiles, out)


def _architectures(models: DescribedModels) -> tuple[dict[str, Architecture], dict[str, ConfigurationError]]:
    """By model: what could be read, and why the others could not, with their line."""
    from apportion.allocation.architecture import read_architecture
    from apportion.deployments.config.models import resolve_source

    found, failed = {}, {}
    for number, spec in enumerate(models.specs):
        if spec.quota is not None:
            continue
        try:
            found[spec.name] = read_architecture(resolve_source(spec.source), spec.revision)
        except ConfigurationError as error:
            failed[spec.name] = models.fault(number, ("source",), error.message)
    return found, failed


def _still_true(
    profiles: tuple[Profile, ...], specs: tuple[ModelSpec, ...], hashes: dict[str, str]
) -> tuple[Profile, ...]:
    """Those of models that are what they were; the others are told."""
    from apportion.allocation.origin import check_origin

    by_name = {spec.name: spec for spec in specs}
    kept, told = [], set()
    for entry in profiles:
        name = entry.replica.model
        try:
            if name in by_name:
                check_origin(entry.origin, entry.source, by_name[name], hashes[name])
            kept.append(entry)
        except ConfigurationError as error:
            told.add(error.message.removesuffix("; run `apportion profile` again"))
    for message in sorted(told):
        warn(f"{message}: its older profiles are dropped")
    return tuple(kept)


def _type_here(on: str | None, cluster: Cluster) -> str:
    types = sorted(cluster.gpu_types)
    if on is None and len(types) == 1:
        return types[0]
    if on not in types:
        raise InvalidRequestError(
            f"--on: missing, or no type of the cluster; give this machine's GPU type, one of {', '.join(types)}"
        )
    return on


def _trials(
    gpu: GpuType,
    specs: tuple[ModelSpec, ...],
    computed: tuple[Profile, ...],
    unread: dict[str, ConfigurationError],
    cluster: Cluster,
    shares: tuple[float, ...],
    sizes: tuple[int, ...],
    max_num_seqs: int,
    kv_cache_gib: float | None,
) -> list[Trial]:
    """What is started here: what fits by computation, and what cannot be computed at every size asked for."""
    from apportion.allocation.gpus import CPU
    from apportion.allocation.profile import replica_types
    from apportion.deployments.engine.measure import blind_trials, cpu_trials, gpu_trials

    if gpu.name == CPU:
        return cpu_trials(specs, gpu, max_num_seqs, kv_cache_gib or 0.0625)
    blind = [spec for spec in specs if spec.name in unread]
    if blind and kv_cache_gib is None:
        raise InvalidRequestError(
            f"--kv-cache-gib: missing; give the cache on each GPU to try {blind[0].name!r} with, which cannot be "
            f"computed: {unread[blind[0].name].message}"
        )
    types = [replica for spec in blind for replica in replica_types(spec, cluster, shares, sizes)]
    here = [replica for replica in types if replica.gpu_type == gpu.name]
    return gpu_trials(computed, gpu) + blind_trials(blind, here, gpu, max_num_seqs, kv_cache_gib or 0.0)


def _measured(
    specs: tuple[ModelSpec, ...],
    trials: list[Trial],
    shares: tuple[float, ...],
    typical: Typical,
    hashes: dict[str, str],
) -> tuple[Profile, ...]:
    try:
        import vllm  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"measuring needs {error.name}, which is not installed; install apportion[cpu] or apportion[gpu]"
        ) from error
    from apportion.deployments.engine.measure import measure_profiles

    with stage_bars() as bars:
        return measure_profiles(specs, trials, shares, typical, bars, hashes)


def _print_shortly(profiles: tuple[Profile, ...], out: Path) -> None:
    """A line for each model and type of GPU: from which share on it fits, and what it does on the fewest whole GPUs."""
    from rich.table import Table

    table = Table("model", "GPU", "fits from", "on", "sequences", "tokens/s", "source")
    pairs = dict.fromkeys((entry.replica.model, entry.replica.gpu_type) for entry in profiles)
    for model, gpu_type in pairs:
        own = [p for p in profiles if (p.replica.model, p.replica.gpu_type) == (model, gpu_type)]
        fitting = sorted((p for p in own if p.fits), key=lambda p: p.replica.gpus)
        if not fitting:
            table.add_row(model, gpu_type, "nowhere", max(own, key=lambda p: p.replica.gpus).reason)
            continue
        shown = next((p for p in fitting if p.replica.gpus >= 1), fitting[-1])
        numbers = (str(shown.max_num_seqs), f"{shown.tokens_per_s:,.0f}", shown.source)
        table.add_row(model, gpu_type, f"{fitting[0].replica.gpus:g}", f"{shown.replica.gpus:g}", *numbers)
    console.print(table)
    fit = sum(entry.fits for entry in profiles)
    console.print(f"{fit} of {len(profiles)} replica types fit; written to {out}; --all prints each")


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
    console.print(f"{sum(entry.fits for entry in profiles)} of {len(profiles)} replica types fit; written to {out}")
