"""When a provider says that it may be asked again."""

from __future__ import annotations

import pytest

from apportion.router.quota.answers import exhausted_s, retry_after_s

NOW_S = 1_750_000_000.0  # Sun, 15 Jun 2025 15:06:40 GMT


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": " 0.5 "}, 0.5),
        ({"retry-after": "Sun, 15 Jun 2025 15:06:50 GMT"}, 10.0),
        ({"retry-after": "Sun, 15 Jun 2025 15:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"x-ratelimit-reset-requests": "12ms", "x-ratelimit-reset-tokens": "1s"}, 0.012),
        (
            {
                "x-ratelimit-remaining-requests": "3",
                "x-ratelimit-reset-requests": "12ms",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "1h2m3.5s",
            },
            3723.5,
        ),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(1e3 * (NOW_S + 7)))}, 7.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(NOW_S + 7)}, 7.0),
        (
            {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2025-06-15T15:06:45Z",
            },
            5.0,
        ),
        ({"x-ratelimit-remaining-requests": "-1", "x-ratelimit-remaining-tokens": "0"}, None),  # Azure
    ],
)
def test_a_refusal_in_any_form(headers: dict[str, str], wait_s: float | None) -> None:
    found = retry_after_s(headers, NOW_S)
    assert found == (None if wait_s is None else pytest.approx(wait_s, abs=1e-6))


def test_an_answer_says_what_is_left() -> None:
    assert exhausted_s({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "9s"}, NOW_S) is None
    assert exhausted_s({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "9s"}, NOW_S) == 9.0
    assert exhausted_s({"x-ratelimit-remaining-tokens": "0"}, NOW_S) is None
