"""What all tests share.

Only one Ray runs at a time: the application that several modules share makes way for those that bring their own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from apportion.deployments.cluster.launch import set_ray_environment
from apportion.router.outcomes import OutcomesTable
from apportion.router.threads import share_cores
from tests.samples import make_outcomes, save_encoder

# One process starts several Rays here, and gRPC's handlers of fork(), which a thread of the one before may be in the
# middle of, can abort the child that is to become the next one's dashboard.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

# Before any module of tests imports Ray.
set_ray_environment()

# Tests share the cores with the services that they start.
share_cores()

# What stands between a change and main must not depend on luck; at a desk, every run looks somewhere else.
settings.register_profile("apportion", derandomize=bool(os.environ.get("CI")), deadline=None)
settings.load_profile("apportion")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What commands keep of embeddings stays out of the user's folder."""
    os.environ["APPORTION_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def stage() -> Iterator[contextlib.ExitStack]:
    """Holds the shared application; closing it stops the application."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def alone(stage: contextlib.ExitStack) -> None:
    """For modules that start a Ray of their own."""
    stage.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that need Ray for themselves come last, so that the shared application starts once."""
    items.sort(key=lambda item: "alone" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session", autouse=True)
def data_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What services keep for a user is no user's."""
    os.environ["XDG_DATA_HOME"] = str(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder: one random BERT layer, mean pooling, normalised."""
    return save_encoder(tmp_path_factory.mktemp("encoder"), seed=0)


@pytest.fixture(scope="session")
def encoder(encoder_folder: Path):
    from apportion.router.prediction.encoder import Encoder

    return Encoder.load(str(encoder_folder), device="cpu")


@pytest.fixture(scope="session")
def outcomes() -> OutcomesTable:
    """600 sums and words to spell; large models manage longer ones, answers grow with the question."""
    return make_outcomes(600, seed=0)
