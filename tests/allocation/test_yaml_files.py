"""Files that YAML alone would take in silence, and mistakes that are told once."""

from __future__ import annotations

from pathlib import Path

import pytest

from apportion.allocation.cluster import Cluster
from apportion.allocation.replica import load_profiles
from apportion.allocation.serve_file import ServeFile
from apportion.allocation.yaml_files import loaded
from apportion.deployments.config.keys import KeysConfig
from apportion.deployments.keys.keyring import Keyring
from apportion.router.errors import ConfigurationError

NODE = "{name: a, gpu_type: L4, n_gpus: 2}"
PROFILE = (
    "profiles: [{model: m, gpu_type: L4, gpu_fraction: 1, fits: true, max_num_seqs: 1, prefill_tokens_per_s: 1, "
    "first_token_s: 1, weights_gib: 1, kv_cache_gib: 1, source: computed, tokens_per_s: %s}]"
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"nodes: [{NODE}]\nnodes: [{NODE}]", "line 2: 'nodes' stands twice; keep one"),
        ("nodes:\n  - name: a\n    gpu_type: L4\n    n_gpus: 4\n    n_gpus: 1", "line 5: 'n_gpus' stands twice"),
        ("nodes: &n [*n]\nnodes: 1", "line 2: 'nodes' stands twice"),
        ("nodes: [{name: a, gpu_type: L4, n_gpus: 0}]", "nodes.0.n_gpus: [^\n]*$"),
        ("nodes: [a]", "nodes.0: must be a mapping of fields, not a str; correct it$"),
        ("[]", r"\(whole\): must be a mapping of fields, not a list"),
        ("nodes: []", "nodes: must hold 1 or more, and holds 0; add one"),
        (f"nodes: [{NODE}]\ngpu_types: {{x: {{memory_gib: .inf, bandwidth_gb_per_s: 1, half_tflops: 1}}}}", "finite"),
        ("nodes: [{name: a, gpu_type: H100-80GB, n_gpus: 1}]", "'H100-80GB' is unknown; H100 is the name of"),
    ],
)  # fmt: skip
def test_one_line_a_mistake(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=says):
        Cluster.load(file)


def test_what_is_only_there_to_be_named_elsewhere_is_let_be(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(f"x-node: &node {NODE}\nnodes:\n  - <<: *node\n    name: b\n  - *node\n")
    assert [node.name for node in Cluster.load(file).nodes] == ["b", "a"]


@pytest.mark.parametrize("number", [".inf", "1e999", ".nan", "Infinity"])
def test_profiles_are_finite(number: str, tmp_path: Path) -> None:
    file = tmp_path / "profiles.yaml"
    file.write_text(PROFILE % number)
    with pytest.raises(ConfigurationError, match=r"profiles.yaml, line 1: profiles\.0\.tokens_per_s: "):
        load_profiles(file)


def test_every_reader_of_yaml_refuses_a_key_that_stands_twice(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="line 2: 'a' stands twice"):
        ServeFile.of("serve_config.yaml", "a: 1\na: 2")
    keys = tmp_path / "keys.yaml"
    keys.write_text("- name: a\n  secret-of-mine: 1\n  secret-of-mine: 2\n")
    with pytest.raises(ConfigurationError, match="line 3: a field stands twice; keep one") as told:
        Keyring(KeysConfig(file=str(keys)), (), with_budget=False)
    assert "secret-of-mine" not in str(told.value)


def test_values_are_those_of_yaml() -> None:
    tree, content = loaded("a: [1, x]\nb: {<<: {c: 1}, <<: {d: 2}}")
    assert tree is not None
    assert content == {"a": [1, "x"], "b": {"c": 1, "d": 2}}
    assert loaded("") == (None, None)
