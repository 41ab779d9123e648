import pytest

from apportion.deployments.control.sole import check_sole, service_name
from apportion.router.errors import ConfigurationError


def test_outside_of_serve_there_is_no_service() -> None:
    assert service_name() is None


@pytest.mark.parametrize("replicas", [None, 1])
def test_one_router_is_right(replicas: int | None) -> None:
    check_sole(replicas)


def test_several_routers_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="remove its num_replicas"):
        check_sole(2)
