import pytest

from apportion.deployments.wire.errors import engine_error


def message(body: bytes) -> str:
    return engine_error(400, body).message


def test_an_engines_envelope_keeps_its_message() -> None:
    assert message(b'{"error": {"message": "too hot", "param": "body.temperature"}}') == "too hot"


@pytest.mark.parametrize(
    "body", [b"Traceback: secret", b'{"detail": "secret"}', b'["secret"]', b"", b'{"error": "secret"}']
)
def test_what_an_engine_says_in_no_envelope_is_not_passed_on(body: bytes) -> None:
    assert message(body) == "the engine refused the request with status 400"
