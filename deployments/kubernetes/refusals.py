"""What cannot work in pods, told before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from apportion.allocation.gpus import CPU
from apportion.allocation.serve_file import ARGUMENTS, MODELS, ServeFile
from apportion.allocation.yaml_files import FieldPath
from apportion.deployments import zoo
from apportion.deployments.config.budget import BudgetConfig
from apportion.deployments.config.keys import KeysConfig
from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.kubernetes.pods import Pods
from apportion.deployments.kubernetes.values import Values
from apportion.router.budget.schema import backend
from apportion.router.errors import ConfigurationError

Fault = tuple[FieldPath, str]
EVERYWHERE = "0.0.0.0"
_FOLDERS = ("chat_template", "hf_config_path", "tokenizer")  # of engine_args, or texts and hub ids
PORT = 8000  # of Serve, as KubeRay knows it


def check_pods(file: ServeFile, config: ServiceConfig, values: Values, pods: tuple[Pods, ...]) -> None:
    """Refuses what would start and not work, or not start.

    Raises:
        ConfigurationError: one line for each mistake, with file, line and mend.
    """
    found = [
        *_listening(file.document, config),
        *_places(config),
        *_money(config.budget),
        *_keys(config.keys, values),
        *_providers(config, values),
        *_folders(config, values),
        *_gpus(config, values, pods),
    ]
    if found:
        raise ConfigurationError("\n".join(file.fault(field, problem).message for field, problem in found))


def _listening(document: dict[str, Any], config: ServiceConfig) -> Iterator[Fault]:
    """Serve and its parts are reached from other pods."""
    http = document.get("http_options") or {}
    if http.get("host") != EVERYWHERE:
        yield ("http_options",), f"host: {http.get('host')} is reached from its own pod only; give {EVERYWHERE}"
    if http.get("port", PORT) != PORT:
        yield ("http_options", "port"), f"{http['port']}: KubeRay's Service leads to {PORT}; give that"
    if document.get("proxy_location", "EveryNode") != "EveryNode":
        yield ("proxy_location",), "pods without a proxy take no requests; give EveryNode"
    hosts = {
        ("dispatch", "engine_host"): config.dispatch.engine_host,
        ("router", "host"): config.router.host,
        ("predictor", "host"): config.predictor.host,
    }
    for field, host in hosts.items():
        if host is not None:
            yield (*ARGUMENTS, *field), f"{host}: every pod has an address of its own; leave it out"


def _places(config: ServiceConfig) -> Iterator[Fault]:
    if config.router.node is not None:
        yield (*ARGUMENTS, "router", "node"), f"{config.router.node}: names of pods do not last; leave it out"
    for number, model in enumerate(config.models):
        if any(group.node is not None for group in model.replica_groups or ()):
            yield (
                (*MODELS, number, "replica_groups"),
                "groups name nodes, and names of pods do not last; give the plan too, and they are written anew",
            )


def _money(budget: BudgetConfig | None) -> Iterator[Fault]:
    if budget is None or budget.database is None:
        if budget is not None and budget.database_file and not budget.database_file.startswith("/"):
            yield (*ARGUMENTS, "budget", "database_file"), f"{budget.database_file}: give it from the root on"
        return
    if backend(budget.database) == "sqlite":
        problem = "SQLite is a file of one pod, and gone with it; use PostgreSQL, with database_env: APPORTION_LEDGER"
    else:
        problem = "stands in the RayService for all to read; give it by database_env: APPORTION_LEDGER, from a Secret"
    yield (*ARGUMENTS, "budget", "database"), problem


def _keys(keys: KeysConfig | None, values: Values) -> Iterator[Fault]:
    if keys is None:
        return
    if keys.file is not None:
        folder = PurePosixPath(keys.file).parent
        if not folder.is_absolute() or len(folder.parts) < 3 or _within(keys.file, _mounts(values)):
            yield (
                (*ARGUMENTS, "keys", "file"),
                f"{keys.file}: the Secret is mounted as its folder; give a path such as /etc/apportion/keys.yaml",
            )
    if values.monitoring and values.metrics_secret is None:
        yield (
            (*ARGUMENTS, "keys"),
            "Prometheus needs a key too; name a Secret with an operator's key as metrics_secret of the values",
        )


def _providers(config: ServiceConfig, values: Values) -> Iterator[Fault]:
    for number, model in enumerate(config.models):
        if model.external is None:
            continue
        for account in model.external.accounts or (model.external,):
            file = account.api_key_file
            if file is not None and not _is_there(str(file), values):
                problem = f"api_key_file: {file} is in no pod; give api_key_env, from {values.providers_secret}"
                yield (*MODELS, number, "external"), problem


def _folders(config: ServiceConfig, values: Values) -> Iterator[Fault]:
    """What is read from folders has to be in every pod."""
    sources: list[tuple[FieldPath, str | None]] = [
        (("predictor", "artefact"), config.predictor.artefact),
        (("predictor", "encoder"), config.predictor.encoder),
        *((("models", number, "source"), model.source) for number, model in enumerate(config.models)),
        *(
            (("models", number, "external", "tokenizer"), model.external.tokenizer)
            for number, model in enumerate(config.models)
            if model.external is not None
        ),
        *(
            (("models", number, "engine_args", name), str(model.engine_args[name]))
            for number, model in enumerate(config.models)
            for name in _FOLDERS
            if name in model.engine_args
        ),
    ]
    for field, source in sources:
        if source and _is_folder(source) and not _is_there(source, values):
            yield (*ARGUMENTS, *field), f"{source} is in no pod; {_mend(values)}"
    records = config.records
    if records is not None and "://" not in records.uri and not _within(records.uri, _mounts(values)):
        yield (
            (*ARGUMENTS, "records", "uri"),
            f"{records.uri} is gone with its pod; give s3:// or gs://, or a folder of the volume",
        )
    bulk = config.bulk
    if bulk is not None and bulk.folder is not None and not _within(str(bulk.folder), _mounts(values)):
        problem = f"{bulk.folder} is gone with its pod; give s3:// or gs:// as storage, or a folder of the volume"
        yield (*ARGUMENTS, "bulk"), problem
    if bulk is not None and config.budget is None:
        problem = "its database would be a file of one pod; add a `budget` with database_env: APPORTION_LEDGER"
        yield (*ARGUMENTS, "bulk"), problem


def _is_folder(source: str) -> bool:
    """A hub id and `zoo:NAME` are none."""
    in_zoo = zoo.by_prefix(source).startswith(zoo.PREFIX)
    return not in_zoo and (source.startswith(("/", ".", "~")) or Path(source).is_dir())


def _is_there(source: str, values: Values) -> bool:
    return _within(source, (*_mounts(values), *values.image_folders))


def _mounts(values: Values) -> tuple[str, ...]:
    return () if values.volume is None else (values.volume.mount,)


def _within(path: str, folders: tuple[str, ...]) -> bool:
    return any(PurePosixPath(path).is_relative_to(folder) for folder in folders)


def _mend(values: Values) -> str:
    if values.volume is None:
        return "give the values a `volume` that holds it, or image_folders if the image does"
    return f"put it below {values.volume.mount}, the volume's mount, or name the image's folder in image_folders"


def _gpus(config: ServiceConfig, values: Values, pods: tuple[Pods, ...]) -> Iterator[Fault]:
    asked = config.predictor.num_gpus or any(group.num_gpus for model in config.models for group in model.groups)
    types = sorted({one.gpu_type for one in pods if one.gpu_type not in (None, CPU)})
    if asked and not types:
        yield (
            MODELS,
            "replicas ask for GPUs and no pod has any; give the plan, or in the values "
            "`workers: [{name: gpus, gpu_type: H100, gpus: 8}]`",
        )
    unknown = [gpu_type for gpu_type in types if gpu_type not in values.node_selectors]
    if len(types) > 1 and unknown:
        yield (
            MODELS,
            f"there are GPUs of types {', '.join(types)}, and pods have to find theirs; add to the values "
            f"`node_selectors: {{{unknown[0]}: {{LABEL: VALUE}}}}`, the labels of such nodes",
        )
