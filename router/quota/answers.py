"""What a provider's headers say of its limits, in all the forms that they have."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_UNITS_S = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 1e-3}
_DURATION = re.compile("".join(rf"(?:(\d+(?:\.\d+)?){unit})?" for unit in _UNITS_S))
_KINDS = (
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
    ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
    ("anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset"),
    ("anthropic-ratelimit-output-tokens-remaining", "anthropic-ratelimit-output-tokens-reset"),
    ("x-ratelimit-remaining", "x-ratelimit-reset"),
)
_EPOCH_S = 1e9  # a number as large as this is no duration, but seconds since 1970; a thousand times that, milliseconds


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """After how many seconds a refused request may be sent again; None: it does not say.

    Args:
        headers: of the refusal, whose names are found in any case.
        now_s: seconds since 1970.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1e3
    if (said := _moment(headers.get("retry-after"), now_s)) is not None:
        return said
    if (exhausted := exhausted_s(headers, now_s)) is not None:
        return exhausted
    resets = [_moment(headers.get(reset), now_s) for remaining, reset in _KINDS if headers.get(remaining) is None]
    return min((wait_s for wait_s in resets if wait_s is not None), default=None)


def exhausted_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """After how many seconds there is something again of what an answer says that nothing is left of; None: of nothing.

    Azure tells -1, or 0 without a time: that says nothing.
    """
    waits = [
        wait_s
        for remaining, reset in _KINDS
        if _number(headers.get(remaining)) == 0 and (wait_s := _moment(headers.get(reset), now_s)) is not None
    ]
    return max(waits, default=None)


def _moment(said: str | None, now_s: float) -> float | None:
    """Seconds from now: of a number, a duration such as `6m0s`, or a date."""
    if said is None:
        return None
    if (number := _number(said)) is not None:
        if number >= _EPOCH_S:
            return max(number / (1e3 if number >= 1e3 * _EPOCH_S else 1.0) - now_s, 0.0)
        return number
    said = said.strip()
    if (found := _DURATION.fullmatch(said)) is not None and said:
        return sum(float(part) * unit_s for part, unit_s in zip(found.groups(), _UNITS_S.values(), strict=True) if part)
    return _date(said, now_s)


def _date(said: str, now_s: float) -> float | None:
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            moment = read(said)
        except (ValueError, TypeError, IndexError):
            continue
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        return max(moment.timestamp() - now_s, 0.0)
    return None


def _number(said: str | None) -> float | None:
    """A finite number that is not negative."""
    try:
        number = float(said or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
