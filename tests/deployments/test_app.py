"""What the application asks of Serve, from its configuration and without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apportion.deployments.app import build_application
from apportion.deployments.control.watch import CHECK_PERIOD_S, CHECK_TIMEOUT_S
from tests.deployments.local_router import configuration


def deployment(application: Any) -> Any:
    return application._bound_deployment


def test_parts_that_hang_are_replaced_and_there_are_as_many_predictors_as_configured() -> None:
    predictor = {"artefact": "zoo:predictor", "num_replicas": 3}
    application = build_application(configuration(None, predictor=predictor))
    _, router, predictor, _ = deployment(application).init_args
    parts = [deployment(predictor), deployment(deployment(router).init_args[1])]
    assert [part.name for part in parts] == ["Predictor", "Solver"]
    assert [part.num_replicas for part in parts] == [3, 1]
    for part in parts:
        told = part._deployment_config
        assert (told.health_check_period_s, told.health_check_timeout_s) == (CHECK_PERIOD_S, CHECK_TIMEOUT_S)
        assert callable(part.func_or_class.check_health)


def test_a_model_that_the_predictor_does_not_know_gets_its_engine() -> None:
    application = build_application(configuration(None, newcomers=[{"name": "owl"}]))
    engines = deployment(deployment(application).init_args[1]).init_args[2]
    assert "Engine-owl" in engines


def test_batches_have_what_runs_them_where_they_are_configured(tmp_path: Path) -> None:
    assert deployment(build_application(configuration(None))).init_kwargs == {"jobs": None}
    application = build_application(configuration(None, bulk={"storage": str(tmp_path), "num_replicas": 2}))
    jobs = deployment(deployment(application).init_kwargs["jobs"])
    assert (jobs.name, jobs.num_replicas) == ("Jobs", 2)
    assert [deployment(part).name for part in jobs.init_args[1:3]] == ["Router", "Predictor"]
