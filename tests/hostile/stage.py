"""The application under attack: the zoo with two ingresses, keys and a ledger, and one slow model for long streams."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from apportion.deployments.cluster.launch import running_service
from tests.deployments.conftest import free_port
from tests.deployments.service import CONFIG, health, holds_nothing, wait_for
from tests.hostile.innocents import CLIENTS

SLOW_MODEL = "heron"  # simulated: its streams take a minute
FAST_MODELS = ("wren", "finch", "lark")
SLOTS = 16  # of each model: as many as two cores answer within what the innocents are used to
REQUEST_TIMEOUT_S = 90.0
CAP_USD = 0.0002  # pays for any model alone, so that whoever is turned away while one is down is so by the attack
CALM_S = 120.0  # a killed engine is back by then
POOR_USD = 1e-4

INNOCENT_KEYS = tuple(f"innocent-{number}" for number in range(CLIENTS))
KEYS: dict[str, dict[str, Any]] = {
    **{name: {"models": list(FAST_MODELS), "tenant_header": True} for name in INNOCENT_KEYS},
    "stranger": {"models": list(FAST_MODELS), "strategies": []},
    "greedy": {"models": list(FAST_MODELS), "max_in_flight": 16},
    "tinkerer": {"models": list(FAST_MODELS)},
    "streamer": {"models": [SLOW_MODEL]},
    "poor": {"models": list(FAST_MODELS), "limits": [{"window": "total", "usd": POOR_USD}]},
    "operator": {"operator": True},
}


def key(name: str) -> dict[str, str]:
    """The header of a key; its secret is its name."""
    return {"authorization": f"Bearer {name}"}


@dataclass(frozen=True)
class Stage:
    """Where it answers, the file that it runs, and the folder with its keys and its ledger."""

    url: str
    document: dict[str, Any]
    folder: Path

    @property
    def keys_file(self) -> Path:
        return self.folder / "keys.yaml"

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.db"

    @property
    def args(self) -> dict[str, Any]:
        args: dict[str, Any] = self.document["applications"][0]["args"]
        return args

    def health(self) -> dict[str, Any]:
        """What an operator sees; empty when nobody answers."""
        return health(self.url, timeout_s=10, headers=key("operator"))

    def calm(self) -> bool:
        """Whether every part works, every model has its replica, and nothing is held for anybody."""
        state = self.health()
        return (
            bool(state.get("healthy"))
            and holds_nothing(state)
            and state["budget"]["reserved_usd"] == 0
            and len(state["replicas"]) == len(FAST_MODELS) + 1
        )

    def wait_until_calm(self) -> None:
        """Raises: AssertionError: it does not come."""
        wait_for(self.calm, CALM_S, "every part works and nothing is held")

    def spent_nano(self, tenant: str) -> int:
        """What the ledger holds for a tenant, in nano-USD."""
        query = (
            "SELECT spent_nano, reserved_nano FROM apportion_counters "
            "WHERE scope = 'tenant' AND span = 'total' AND name = ?"
        )
        with contextlib.closing(sqlite3.connect(self.ledger, timeout=30)) as database:
            row = database.execute(query, (tenant,)).fetchone()
        if row is None:
            return 0
        spent, reserved = row
        assert reserved == 0, f"{reserved} nano-USD are still set aside for {tenant}"
        return int(spent)


def write_keys(path: Path) -> None:
    entries = [
        {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), **fields} for name, fields in KEYS.items()
    ]
    path.write_text(yaml.safe_dump(entries))


def make_document(folder: Path) -> dict[str, Any]:
    """The project's own configuration, with what an attack needs around it."""
    document: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    document["http_options"]["port"] = free_port()
    args = document["applications"][0]["args"]
    del args["bulk"]  # nobody sends any
    for model in args["models"]:
        model["max_num_seqs"] = SLOTS
    slow = next(model for model in args["models"] if model["name"] == SLOW_MODEL)
    slow.pop("engine_args")
    slow |= {
        "engine": "simulated",
        "simulated": {"tokens": 240, "first_token_s": 0.05, "token_s": 0.25},
    }
    args["routing"] |= {"budget_usd_per_request": CAP_USD}
    args["ingress"] |= {"num_replicas": 2}
    args["dispatch"] |= {"request_timeout_s": REQUEST_TIMEOUT_S}
    args["keys"] = {"file": str(folder / "keys.yaml")}
    args["budget"] = {
        "database": f"sqlite:///{folder / 'ledger.db'}",
        "limits": [{"scope": "tenant", "window": "total", "usd": 1000.0}],
    }
    return document


@contextlib.contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    write_keys(folder / "keys.yaml")
    document = make_document(folder)
    path = folder / "serve_config.yaml"
    path.write_text(yaml.safe_dump(document))
    with running_service(path, console=Console(quiet=True)) as url:
        yield Stage(url, document, folder)
