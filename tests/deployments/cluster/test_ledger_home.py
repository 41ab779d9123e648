from pathlib import Path
from typing import Any

import pytest

from apportion.deployments.cluster.ledger_home import check_ledger_home
from apportion.deployments.cluster.nodes import NODE_LABEL, LiveNode
from apportion.router.errors import ConfigurationError
from tests.deployments.local_router import configuration


def node(number: int, **labels: str) -> LiveNode:
    return LiveNode(str(number), f"10.0.0.{number}", labels, 0, 4.0)


ONE, TWO = node(1), node(2, **{NODE_LABEL: "b-0"})


def test_a_file_serves_one_machine() -> None:
    check_ledger_home(configuration(Path("/tmp/b.db")), [ONE])


def test_a_file_is_refused_on_a_cluster_whose_nodes_the_router_may_change() -> None:
    with pytest.raises(ConfigurationError, match="use PostgreSQL, or bind"):
        check_ledger_home(configuration(Path("/tmp/b.db")), [ONE, TWO])


@pytest.mark.parametrize("name", ["10.0.0.2", "b-0"])
def test_a_router_that_stays_on_its_node_keeps_its_file(name: str) -> None:
    check_ledger_home(configuration(Path("/tmp/b.db"), router={"node": name}), [ONE, TWO])


def test_a_node_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigurationError, match="no node 'c-0'"):
        check_ledger_home(configuration(None, router={"node": "c-0"}), [ONE, TWO])


@pytest.mark.parametrize("budget", [None, {"database": "postgresql+psycopg://u@h/n"}, {"database_env": "LEDGER"}])
def test_a_server_or_no_ledger_serves_any_number_of_nodes(budget: Any) -> None:
    check_ledger_home(configuration(None, budget=budget), [ONE, TWO])


@pytest.mark.parametrize("budget", [None, {"database": "sqlite:////tmp/b.db"}])
def test_jobs_in_a_file_are_refused_on_a_cluster_although_the_router_stays(budget: Any) -> None:
    config = configuration(None, budget=budget, router={"node": "b-0"}, bulk={"storage": "/tmp/bulk"})

    check_ledger_home(config, [TWO])
    with pytest.raises(ConfigurationError, match="which all have to reach it"):
        check_ledger_home(config, [ONE, TWO])


def test_jobs_in_a_server_serve_any_number_of_nodes() -> None:
    config = configuration(None, budget={"database_env": "LEDGER"}, bulk={"storage": "/shared/bulk"})

    check_ledger_home(config, [ONE, TWO])
