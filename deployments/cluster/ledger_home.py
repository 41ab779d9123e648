"""Whether the router finds its ledger again wherever Ray starts it."""

from __future__ import annotations

from collections.abc import Collection

from apportion.deployments.cluster.nodes import NODE_LABEL, LiveNode
from apportion.deployments.config.service import ServiceConfig
from apportion.router.budget.schema import backend
from apportion.router.errors import ConfigurationError


def check_ledger_home(config: ServiceConfig, nodes: Collection[LiveNode]) -> None:
    """Refuses a file as the ledger of a router that may restart on another node, where all budgets would be whole.

    A URL that stands in the environment or in a file is not known here, and not looked at.

    Raises:
        ConfigurationError: says what to do instead; or the router's node is not there.
    """
    node = config.router.node
    if node is not None and not any(node in (one.address, one.labels.get(NODE_LABEL)) for one in nodes):
        there = ", ".join(sorted(one.name for one in nodes))
        raise ConfigurationError(f"router.node: no node {node!r} in the Ray cluster, which has {there}; correct it")
    url = None if config.budget is None else config.budget.database
    if url is not None and node is None and len(nodes) > 1 and backend(url) == "sqlite":
        raise ConfigurationError(
            f"budget.database is SQLite, and the Ray cluster has {len(nodes)} nodes: a router that restarts on another "
            "one would find an empty file; use PostgreSQL, or bind the router to the file's node with router.node"
        )
    bulk = config.bulk
    if bulk is not None and config.budget is None:
        url = bulk.database_url(None)
    if bulk is not None and url is not None and len(nodes) > 1 and backend(url) == "sqlite":
        raise ConfigurationError(
            f"bulk: its database is SQLite, and the Ray cluster has {len(nodes)} nodes, which all have to reach it; "
            "use PostgreSQL with budget.database, or remove this section"
        )
