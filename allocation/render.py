"""From a plan to the models of `serve_config.yaml`: what each replica runs on, and vLLM's settings that go with it.

Everything else in the file stays as the user wrote it, comments too; rendering a plan twice changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap, CommentedSeq

from apportion.allocation.gpus import CPU
from apportion.allocation.models import DEFAULT_DTYPE, PLANNED_ARGUMENTS, ModelSpec
from apportion.allocation.plan import PlacedReplica, Plan
from apportion.allocation.replica import ReplicaType
from apportion.allocation.serve_file import Rewriting, ServeFile, put_tail, take_tail
from apportion.allocation.settings import check_settings, replica_settings
from apportion.router.errors import ConfigurationError

# Fields of a model that its groups have now.
_PER_REPLICA = ("num_replicas", "num_gpus", "num_cpus", "max_num_seqs")
_AT_THE_END = frozenset({"num_replicas", "min_replicas", "num_gpus", "num_cpus", "max_num_seqs"})


@dataclass(frozen=True)
class RenderOptions:
    """pin: replicas name their node and GPUs, else Ray chooses, of the planned type where the cluster has several;
    num_cpus: of a replica on a GPU; autoscale: each replica type runs between the plan's bounds, wherever Ray finds
    room; scale_to_zero: models of one type that the bounds let have no replica may sleep.
    """

    pin: bool = True
    num_cpus: float = 1.0
    autoscale: bool = False
    scale_to_zero: bool = False


def render(plan: Plan, path: str | Path, options: RenderOptions) -> str:
    """The text of the file at `path` with the plan's models in it; those from outside stay as they are there.

    Raises:
        ConfigurationError: the file is missing or no configuration of one application, or settings of a replica do
            not agree; names the file, the field, and the mend.
    """
    if plan.cluster.mixed and (options.autoscale or not options.pin):
        raise ConfigurationError(
            f"{', '.join(plan.cluster.mixed)} have GPUs of several types, which Ray cannot tell apart; pin the replicas"
        )
    document = Rewriting(ServeFile.read(path))
    models = document.models
    for spec in plan.models:
        if spec.quota is not None:
            _check_described(models, spec)
            continue
        _render_model(models, spec, replica_groups(plan, spec, options))
    return document.text()


def replica_groups(plan: Plan, model: ModelSpec, options: RenderOptions) -> list[dict[str, Any]]:
    """A group for each replica type, node and set of GPUs of the model, in that order; empty without replicas."""
    counts = _counts(plan, model, options)
    bounds = {bounds.replica: bounds for bounds in plan.bounds} if options.autoscale else {}
    groups = []
    for (node, gpus, replica), count in sorted(counts.items()):
        profile = plan.profile(replica)
        gpu = plan.cluster.gpu_types[replica.gpu_type]
        settings = replica_settings(
            model,
            replica,
            gpu,
            max_num_seqs=profile.max_num_seqs,
            kv_cache_gib=profile.kv_cache_gib,
            num_cpus=options.num_cpus,
        )
        check_settings(profile, gpu, settings)
        group: dict[str, Any] = {"name": _name(node, gpus, replica, counts)}
        group |= {"node": node} if node else {}
        group |= {"gpus": list(gpus)} if gpus else {}
        group |= {"gpu_type": replica.gpu_type} if not node and len(plan.cluster.gpu_types) > 1 else {}
        group["num_replicas"] = count
        if replica in bounds:
            # Who has only one type is woken by its requests; nothing would start the first replica of a second one.
            least = 0 if options.scale_to_zero and len(counts) == 1 else 1
            group["min_replicas"] = min(max(least, bounds[replica].min_replicas), count)
        groups.append(group | settings)
    return groups


def _counts(plan: Plan, model: ModelSpec, options: RenderOptions) -> Counter[tuple[str, tuple[int, ...], ReplicaType]]:
    """Replicas by node, GPUs and type, as far as the configuration names them.

    Raises:
        ConfigurationError: to be autoscaled, but the plan has no bounds for it.
    """
    if not options.autoscale:
        return Counter(_seat(plan, placed, options) for placed in plan.placements if placed.replica.model == model.name)
    if not plan.bounds:
        raise ConfigurationError("the plan has no autoscaling bounds; plan with a low and a high rate")
    return Counter(
        {
            ("", (), bounds.replica): bounds.max_replicas
            for bounds in plan.bounds
            if bounds.replica.model == model.name and bounds.max_replicas
        }
    )


def _seat(plan: Plan, placed: PlacedReplica, options: RenderOptions) -> tuple[str, tuple[int, ...], ReplicaType]:
    """Node and GPUs, as far as the configuration is to name them; cores and slices of GPUs are not told apart."""
    if not options.pin:
        return "", (), placed.replica
    node, gpu = plan.cluster.node(placed.node), plan.cluster.gpu_types[placed.replica.gpu_type]
    alike = gpu.name == CPU or gpu.slice_of is not None
    gpus = () if alike else tuple(sorted(node.first_gpu + number for number in placed.gpus))
    return node.machine, gpus, placed.replica


def _name(node: str, gpus: tuple[int, ...], replica: ReplicaType, counts: Mapping[Any, int]) -> str:
    """Short, and the same for the next plan where the place is; with the share where one place has two kinds."""
    place = node or replica.gpu_type
    if gpus:
        place += "-gpu" + "-".join(str(gpu) for gpu in gpus)
    share = f"-x{replica.tensor_parallel}" if replica.tensor_parallel > 1 else f"-{replica.gpu_fraction:g}"
    alone = sum(other[:2] == (node, gpus) for other in counts) == 1
    return place if node and alone else place + share


def _check_described(models: CommentedSeq, spec: ModelSpec) -> None:
    """A model from outside stays as the user wrote it: the plan knows neither its address nor its keys."""
    if not any(model.get("name") == spec.name for model in models):
        raise ConfigurationError(
            f"models: {spec.name!r} is a model from outside, and a plan does not know where it answers; describe it in "
            "the file first"
        )


def _render_model(models: CommentedSeq, spec: ModelSpec, groups: list[dict[str, Any]]) -> None:
    entry = next((model for model in models if model.get("name") == spec.name), None)
    if entry is None:
        following = take_tail(models)
        models.append(CommentedMap({"name": spec.name}))
        entry = models[-1]
        if spec.counting:  # else its engines would read prompts in another way than was planned
            entry["engine_args"] = CommentedMap(spec.counting)
    else:
        following = take_tail(entry)
    known: dict[str, Any] = {
        "source": spec.source,
        "input_usd_per_million": spec.price.input_usd_per_million,
        "output_usd_per_million": spec.price.output_usd_per_million,
        "max_model_len": spec.max_model_len,
    }
    if spec.price.cached_input_usd_per_million is not None:
        known["cached_input_usd_per_million"] = spec.price.cached_input_usd_per_million
    for name, value in known.items():
        if entry.get(name) != value:
            entry[name] = value
    if groups:
        _describe_numbers(entry, spec)
    for name in _PER_REPLICA:
        entry.pop(name, None)
    if entry.get("replica_groups") != groups:
        entry.pop("replica_groups", None)
        entry.insert(len(entry) if groups else len(entry) - 1, "replica_groups", _styled(groups))
    if groups:
        _drop_planned(entry)
    put_tail(entry, following)


def _describe_numbers(entry: CommentedMap, spec: ModelSpec) -> None:
    """Keeps the number formats that were planned with the model, so that the next plan of this file finds them."""
    for name, value, default in (("dtype", spec.dtype, DEFAULT_DTYPE), ("quantisation", spec.quantisation, None)):
        if name in entry and value is not None:
            entry[name] = value
        elif value is None:
            entry.pop(name, None)
        elif value != default:
            entry.insert(list(entry).index("max_model_len") + 1, name, value)


def _drop_planned(entry: CommentedMap) -> None:
    """Removes the model's own arguments that are the plan's to set; a mapping that other models share stays whole."""
    own = entry.get("engine_args")
    if not isinstance(own, CommentedMap) or not PLANNED_ARGUMENTS & set(own):
        return
    if own.yaml_anchor() is not None or own.merge:
        own = entry["engine_args"] = CommentedMap(own.items())
    for name in PLANNED_ARGUMENTS & set(own):
        del own[name]
    if not own:
        del entry["engine_args"]


def _styled(groups: list[dict[str, Any]]) -> CommentedSeq:
    """Block style with short lists and the arguments on one line each.

    Those never end a group or a model: ruamel keeps what follows a flow collection in places of its own.
    """
    rows = CommentedSeq()
    for group in groups:
        row = CommentedMap({name: group[name] for name in sorted(group, key=lambda name: name in _AT_THE_END)})
        for name, value in row.items():
            if isinstance(value, (dict, list)):
                row[name] = CommentedMap(value) if isinstance(value, dict) else CommentedSeq(value)
                row[name].fa.set_flow_style()
        rows.append(row)
    if not groups:
        rows.fa.set_flow_style()
    return rows
