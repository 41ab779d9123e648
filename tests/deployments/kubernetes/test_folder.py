"""The service as Kubernetes objects: what schemas take, what Serve is told, which pods there are, what is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

from apportion.allocation.cluster import Cluster, Node
from apportion.allocation.gpus import GPU_TYPES
from apportion.allocation.plan import Plan, save_plan
from apportion.allocation.render import RenderOptions
from apportion.allocation.replica import ReplicaType
from apportion.deployments.cli import app
from apportion.deployments.config.service import parse_config
from apportion.deployments.kubernetes.folder import RAY_SERVICE, Folder, check_with_ray, kubernetes_folder
from apportion.deployments.kubernetes.values import RAY_VERSION, Values, read_values
from apportion.router.errors import ConfigurationError
from tests.allocation.plans import MIDDLE, PLACES, SMALL_THIRD, plan_of, profile
from tests.paths import ROOT

IMAGE = "registry.example.org/apportion:1"
VOLUME = {"claim": "models"}
EIGHT = [{"name": "gpus", "gpu_type": "H100", "gpus": 8}]
KUBERNETES = "1.32"
OF_OTHERS = ("monitoring.coreos.com/", "kustomize.config.k8s.io/", "ray.io/")
# What is written of a RayService; each checked by hand against the definition that KubeRay 1.7.0 installs.
SPEC = {"upgradeStrategy", "serveConfigV2", "rayClusterConfig"}
CLUSTER = {"rayVersion", "headGroupSpec", "workerGroupSpecs", "enableInTreeAutoscaling", "gcsFaultToleranceOptions"}
GROUP = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template", "labels"}
BOUGHT = {
    "name": "bought",
    "engine": "external",
    "input_usd_per_million": 1,
    "output_usd_per_million": 1,
    "max_model_len": 4096,
    "external": {"base_url": "https://api.example.org/v1", "model": "m", "api_key_file": "/run/key"},
}
OWN_TEMPLATE = {
    "name": "own",
    "source": "org/own",
    "input_usd_per_million": 1,
    "output_usd_per_million": 1,
    "max_model_len": 4096,
    "engine_args": {"chat_template": "/srv/chat.jinja"},
}
NO_PIN = RenderOptions(pin=False)


def values(**fields: Any) -> Values:
    return Values(image=IMAGE, **{"volume": VOLUME, **fields})


def configuration(folder: Path, **sections: Any) -> Path:
    """The GPU example with other sections."""
    document = yaml.safe_load((ROOT / "serve_config.gpu.yaml").read_text())
    arguments = document["applications"][0]["args"]
    for name, content in sections.items():
        (document if name in ("http_options", "proxy_location") else arguments)[name] = content
    file = folder / "serve_config.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return file


def objects(folder: Folder) -> dict[str, Any]:
    return {name: content for name, text in folder.files.items() for content in yaml.safe_load_all(text)}


def full(folder: Path) -> Folder:
    """With everything that may be written."""
    file = configuration(
        folder,
        budget={"database_env": "APPORTION_LEDGER"},
        keys={"file": "/etc/apportion/keys.yaml"},
        records={"uri": "s3://bucket/records"},
    )
    given = values(
        workers=EIGHT,
        monitoring=True,
        metrics_secret="prometheus-key",
        redis={"address": "redis:6379", "password_secret": "redis"},
        hugging_face_secret="hub",
        secret_env={"PROVIDER_KEY": {"secret": "providers", "key": "one"}},
        pull_secrets=["registry"],
        clients=[{"namespaceSelector": {"matchLabels": {"team": "chat"}}}],
        autoscale_pods=True,
    )
    return kubernetes_folder(file, given, None, NO_PIN)


def plain(folder: Path) -> Folder:
    return kubernetes_folder(configuration(folder), values(workers=EIGHT), None, NO_PIN)


def bare(folder: Path) -> Path:
    """The example without models, for plans."""
    return configuration(folder, models=[], predictor={"artefact": "/models/predictor"})


def of_plan(folder: Path) -> Folder:
    return kubernetes_folder(bare(folder), values(), plan_of(), NO_PIN)


def templates(service: dict[str, Any]) -> Iterator[dict[str, Any]]:
    cluster = service["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield {"apiVersion": "v1", "kind": "Pod", **group["template"]}


@pytest.mark.parametrize("made", [full, plain, of_plan])
def test_kubernetes_own_schemas_take_every_object(made: Callable[[Path], Folder], tmp_path: Path) -> None:
    found = objects(made(tmp_path))
    checked = [one for one in found.values() if not one["apiVersion"].startswith(OF_OTHERS)]
    assert checked
    for one in (*checked, *templates(found[RAY_SERVICE])):
        kubernetes_validate.validate(one, KUBERNETES, strict=True)


@pytest.mark.parametrize("made", [full, plain, of_plan])
def test_a_ray_service_holds_no_more_than_kuberay_knows(made: Callable[[Path], Folder], tmp_path: Path) -> None:
    service = objects(made(tmp_path))[RAY_SERVICE]
    assert (service["apiVersion"], service["kind"]) == ("ray.io/v1", "RayService")
    assert set(service["spec"]) <= SPEC
    cluster = service["spec"]["rayClusterConfig"]
    assert set(cluster) <= CLUSTER
    assert set(cluster["headGroupSpec"]) <= GROUP
    assert all(set(group) <= GROUP for group in cluster["workerGroupSpecs"])
    definition = os.environ.get("APPORTION_RAYSERVICE_CRD")
    if not definition:
        pytest.skip("fields alone: kubectl get crd rayservices.ray.io -o yaml > FILE, APPORTION_RAYSERVICE_CRD=FILE")
    versions = yaml.safe_load(Path(definition).read_text())["spec"]["versions"]
    schema = next(one for one in versions if one["name"] == "v1")["schema"]["openAPIV3Schema"]
    jsonschema.validate(service, closed(schema))


def closed(schema: Any) -> Any:
    """With fields that are not described refused."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: closed(one) for name, one in schema.items()}
    if isinstance(made.get("properties"), dict) and "x-kubernetes-preserve-unknown-fields" not in made:
        made.setdefault("additionalProperties", False)
        made["properties"].setdefault("metadata", {})
    return made


@pytest.mark.parametrize("made", [full, plain, of_plan])
def test_serve_is_told_the_very_configuration(made: Callable[[Path], Folder], tmp_path: Path) -> None:
    folder = made(tmp_path)
    told = yaml.safe_load(objects(folder)[RAY_SERVICE]["spec"]["serveConfigV2"])
    assert told == folder.document
    check_with_ray(told)
    service = parse_config(told["applications"][0]["args"])
    assert service.rollout.await_nodes
    if made is not of_plan:
        given = yaml.safe_load((tmp_path / "serve_config.yaml").read_text())["applications"][0]["args"]
        assert service == parse_config(given | {"rollout": {"await_nodes": True}})


def groups(folder: Folder) -> dict[str, tuple[int, int, dict[str, str]]]:
    """Pods, GPUs of one, and labels, by worker group."""
    found = {}
    for group in objects(folder)[RAY_SERVICE]["spec"]["rayClusterConfig"]["workerGroupSpecs"]:
        container = group["template"]["spec"]["containers"][0]
        gpus = int(container["resources"]["limits"].get("nvidia.com/gpu", 0))
        found[group["groupName"]] = (group["maxReplicas"], gpus, group.get("labels", {}))
    return found


def test_pods_are_as_large_as_the_planned_nodes(tmp_path: Path) -> None:
    folder = of_plan(tmp_path)
    assert groups(folder) == {"front": (2, 0, {}), "h100-x8": (2, 8, {"apportion-gpu-type": "H100"})}
    assert folder.gpus == plan_of().cluster.n_gpus


def test_pods_may_be_as_large_as_what_is_used(tmp_path: Path) -> None:
    folder = kubernetes_folder(bare(tmp_path), values(pods="gpu"), plan_of(), NO_PIN)
    label = {"apportion-gpu-type": "H100"}
    assert groups(folder) == {"front": (2, 0, {}), "h100-x1": (3, 1, label), "h100-x4": (1, 4, label)}
    assert folder.gpus == len({(node, gpu) for _, node, gpus in PLACES for gpu in gpus})


def test_planned_replicas_name_no_node_and_all_are_there(tmp_path: Path) -> None:
    service = of_plan(tmp_path).service
    found = [(model.name, group) for model in service.models for group in model.groups if model.replica_groups]
    assert all(group.node is None and group.gpus is None for _, group in found)
    assert sum(group.num_replicas for _, group in found) == len(PLACES)


def mixed_plan() -> Plan:
    on_l4 = ReplicaType("small", "L4", 0.5)
    cluster = Cluster((Node("a-0", "H100", 8), Node("b", "L4", 2)), GPU_TYPES)
    profiles = (profile(on_l4, 3.0, 4.0), profile(SMALL_THIRD, 3.0, 16.0), profile(MIDDLE, 9.0, 30.0))
    return plan_of((*PLACES[:4], (on_l4, "b", (0,))), profiles, cluster=cluster)


def test_where_gpus_differ_pods_find_their_nodes_and_replicas_their_pods(tmp_path: Path) -> None:
    file = bare(tmp_path)
    with pytest.raises(ConfigurationError, match=r"types H100, L4.*node_selectors: \{H100: \{LABEL: VALUE\}\}"):
        kubernetes_folder(file, values(), mixed_plan(), NO_PIN)
    selectors = {"H100": {"gpu": "h100"}, "L4": {"gpu": "l4"}}
    folder = kubernetes_folder(file, values(node_selectors=selectors), mixed_plan(), NO_PIN)
    assert groups(folder)["l4-x2"] == (1, 2, {"apportion-gpu-type": "L4"})
    cluster = objects(folder)[RAY_SERVICE]["spec"]["rayClusterConfig"]
    chosen = {
        group["groupName"]: group["template"]["spec"].get("nodeSelector") for group in cluster["workerGroupSpecs"]
    }
    assert chosen == {"front": None, "h100-x8": {"gpu": "h100"}, "l4-x2": {"gpu": "l4"}}
    types = {group.gpu_type for model in folder.service.models if model.name == "small" for group in model.groups}
    assert types == {"H100", "L4"}


def test_pods_have_the_cpus_that_their_replicas_reserve(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"cpus_per_gpu: a pod with 8 of H100 runs 4 planned .* raise it to 0\.5"
    ):
        kubernetes_folder(bare(tmp_path), values(cpus_per_gpu=0.4), plan_of(), NO_PIN)


def test_secrets_are_named_and_none_is_overwritten(tmp_path: Path) -> None:
    folder = full(tmp_path)
    needed = {
        one["metadata"]["name"]: set(one["stringData"])
        for one in yaml.safe_load_all(folder.files["secrets.example.yaml"])
    }
    assert needed == {
        "apportion-ledger": {"url"},
        "apportion-keys": {"keys.yaml"},
        "apportion-providers": {"OPENAI_API_KEY"},
        "hub": {"token"},
        "prometheus-key": {"key"},
        "providers": {"one"},
        "redis": {"password"},
    }
    assert "secrets.example.yaml" not in objects(folder)["kustomization.yaml"]["resources"]
    pod = next(templates(objects(folder)[RAY_SERVICE]))["spec"]
    from_secrets = {one["name"] for one in pod["containers"][0]["env"] if "valueFrom" in one}
    assert from_secrets == {"APPORTION_LEDGER", "HF_TOKEN", "OPENAI_API_KEY", "PROVIDER_KEY"}
    assert {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]} == {"/models", "/etc/apportion"}
    assert pod["terminationGracePeriodSeconds"] > 300 + 10


def test_engines_are_reached_from_the_services_own_pods_only(tmp_path: Path) -> None:
    policy = objects(full(tmp_path))["networkpolicy.yaml"]["spec"]
    everybody = [rule for rule in policy["ingress"] if "from" not in rule]
    assert not everybody
    open_to_clients = [
        rule for rule in objects(plain(tmp_path))["networkpolicy.yaml"]["spec"]["ingress"] if "from" not in rule
    ]
    assert [rule["ports"] for rule in open_to_clients] == [[{"protocol": "TCP", "port": 8000}]]


def test_one_proxy_is_scraped_not_all(tmp_path: Path) -> None:
    found = objects(full(tmp_path))
    service, monitor = found["metrics-service.yaml"], found["servicemonitor.yaml"]
    assert service["spec"]["selector"]["ray.io/node-type"] == "head"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["authorization"]["credentials"] == {"name": "prometheus-key", "key": "key"}
    assert found["prometheusrule.yaml"]["spec"] == yaml.safe_load(
        (ROOT / "deployments/observability/alerts.yml").read_text()
    )


@pytest.mark.parametrize(
    ("sections", "fields", "says"),
    [
        ({"http_options": {"host": "127.0.0.1", "port": 8000}}, {}, r"line \d+: http_options: host: 127.*give 0"),
        ({"http_options": {"host": "0.0.0.0", "port": 8080}}, {}, "http_options.port: 8080.*leads to 8000"),
        ({"proxy_location": "HeadOnly"}, {}, "proxy_location: pods without a proxy"),
        ({"dispatch": {"engine_host": "127.0.0.1"}}, {}, r"dispatch.engine_host: 127\.0\.0\.1: every pod"),
        ({"router": {"host": "10.0.0.1"}}, {}, "router.host: .*leave it out"),
        ({"router": {"node": "a-0"}}, {}, "router.node: a-0: names of pods do not last"),
        ({"budget": {"database": "sqlite:////tmp/l.db"}}, {}, "budget.database: SQLite is a file of one pod"),
        ({"budget": {"database": "postgresql+psycopg://u:p@h/d"}}, {}, "budget.database: stands in the RayService"),
        ({"keys": {"file": "keys.yaml"}}, {}, "keys.file: keys.yaml: the Secret is mounted as its folder"),
        ({"keys": {"file": "/models/k/keys.yaml"}}, {}, "keys.file: .*/etc/app"),
        ({"keys": {"env": "KEYS"}}, {"monitoring": True}, "keys: Prometheus needs a key too"),
        ({}, {"volume": None}, "/models/apportion/predictor is in no pod; give the values a `volume`"),
        ({"predictor": {"artefact": "/srv/p"}}, {}, "/srv/p is in no pod; put it below /models"),
        ({"models": [BOUGHT]}, {}, r"models\.0\.external: api_key_file: /run/key is in no pod; give api_key_env"),
        ({"records": {"uri": "/tmp/records"}}, {}, "records.uri: /tmp/records is gone with its pod"),
        ({"bulk": {"storage": "/tmp/bulk"}}, {}, "bulk: /tmp/bulk is gone with its pod"),
        ({"bulk": {"storage": "/models/bulk"}}, {}, "bulk: its database would be a file of one pod; add a `budget`"),
        ({"models": [OWN_TEMPLATE]}, {}, "engine_args.chat_template: /srv/chat.jinja is in no pod; put it below"),
        ({}, {"workers": []}, "replicas ask for GPUs and no pod has any; give the plan, or .*gpu_type: H100"),
        ({}, {"workers": [EIGHT[0] | {"gpus": 4}]}, "finds no room.*1 x gpus; more by spare_pods"),
        ({}, {"front": {"cpus": 1, "replicas": 1}, "cpus_per_gpu": 0.1}, "the cluster has 1.8 CPUs"),
    ],
)  # fmt: skip
def test_what_cannot_work_in_pods_is_refused(
    sections: dict[str, Any], fields: dict[str, Any], says: str, tmp_path: Path
) -> None:
    file = configuration(tmp_path, **sections)
    with pytest.raises(ConfigurationError, match=says):
        kubernetes_folder(file, values(**{"workers": EIGHT, **fields}), None, NO_PIN)


def test_pinned_groups_need_their_plan(tmp_path: Path) -> None:
    from apportion.allocation.render import render

    file = bare(tmp_path)
    file.write_text(render(plan_of(), file, RenderOptions()))
    with pytest.raises(ConfigurationError, match=r"models.\d+.replica_groups: groups name nodes.*give the plan too"):
        kubernetes_folder(file, values(workers=EIGHT), None, NO_PIN)
    assert kubernetes_folder(file, values(), plan_of(), NO_PIN).gpus == 16


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: a\n", "values.yaml, line 1: image: missing"),
        ("image: a\nray_version: 2.9.0\n", "ray_version: 2.9.0 is not 2.60.0"),
        ("image: a\nimgae: b\n", "line 2: imgae: unknown field"),
        ("image: a\nname: Not_a_name\n", "line 2: name: "),
    ],
)
def test_values_are_checked_with_their_lines(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=says):
        read_values(file)


def test_the_version_of_ray_is_the_one_that_is_installed_with_us() -> None:
    assert f'"ray[haproxy,serve]=={RAY_VERSION}"' in (ROOT / "pyproject.toml").read_text()


def test_the_command_writes_checks_and_finds_what_is_old(tmp_path: Path) -> None:
    config, out, given = bare(tmp_path), tmp_path / "k8s", tmp_path / "values.yaml"
    given.write_text(yaml.safe_dump({"image": IMAGE, "volume": VOLUME}))
    save_plan(plan_of(), tmp_path / "plan.json")
    before = config.read_text()
    arguments = ["render", "--kubernetes", str(out), "--config", str(config), "--values", str(given)]
    arguments += ["--plan", str(tmp_path / "plan.json")]
    written = CliRunner().invoke(app, arguments)
    assert written.exit_code == 0, written.output
    assert "2 x h100-x8; 16 GPUs" in " ".join(written.output.split())
    assert config.read_text() == before
    assert "Ray's schema takes it" in " ".join(CliRunner().invoke(app, [*arguments, "--check"]).output.split())
    (out / RAY_SERVICE).write_text("old")
    stale = CliRunner().invoke(app, [*arguments, "--check"])
    assert stale.exit_code == 2
    assert "is not what would be written now" in " ".join(stale.output.split())
    for wrong, says in ((["--out", "x"], "not with --kubernetes"), (["plan.json"], "given twice")):
        refused = CliRunner().invoke(app, [*arguments, *wrong])
        assert refused.exit_code == 2
        assert says in refused.output


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not here, whose kustomize reads the folder")
def test_kustomize_reads_the_folder(tmp_path: Path) -> None:
    folder = full(tmp_path)
    folder.write(tmp_path / "k8s")
    built = subprocess.run(["kubectl", "kustomize", tmp_path / "k8s"], capture_output=True, text=True, check=True)
    resources = yaml.safe_load(folder.files["kustomization.yaml"])["resources"]
    assert len(list(yaml.safe_load_all(built.stdout))) == len(resources)
