"""One fake provider for all tests here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.deployments.fake_provider import Running, fake_provider


@pytest.fixture(scope="session")
def provider_process() -> Iterator[Running]:
    with fake_provider() as running:
        yield running


@pytest.fixture
def provider(provider_process: Running) -> Running:
    """As new."""
    provider_process.behave()
    return provider_process
