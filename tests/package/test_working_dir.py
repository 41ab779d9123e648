"""Folders of a Ray `working_dir` that are named as the project's are not taken for it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("alone")]

NAMES = ("router", "allocation", "deployments", "benchmarks")


def test_a_working_dir_with_folders_of_our_names_hides_nothing(tmp_path: Path) -> None:
    import ray

    for name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not ours')")

    def built() -> tuple[list[str], list[str]]:
        """What the worker sees beside it, and the deployments of the zoo's application as it builds them."""
        from apportion.deployments import zoo
        from apportion.deployments.app import build
        from apportion.deployments.config.reader import read_config

        document = read_config(zoo.SERVE_CONFIG).document
        app = build(document["applications"][0]["args"])
        return sorted(entry.name for entry in Path().iterdir()), [app._bound_deployment.name]

    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"working_dir": str(tmp_path)},
    )
    try:
        beside, deployments = ray.get(ray.remote(built).remote())
    finally:
        ray.shutdown()
    assert set(NAMES) <= set(beside)
    assert deployments == ["Ingress"]
