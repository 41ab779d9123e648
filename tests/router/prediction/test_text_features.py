from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.router.prediction.text_features import feature_names, text_features

NAMES = feature_names()


def _of(text: str) -> dict[str, float]:
    return dict(zip(NAMES, text_features([text])[0].tolist(), strict=True))


def test_what_is_counted() -> None:
    found = _of("Add 348 and 8712, please!")
    assert found["text.log_digit"] == pytest.approx(np.log1p(7))
    assert found["text.log_longest_number"] == pytest.approx(np.log1p(4))
    assert found["text.log_count_number"] == pytest.approx(np.log1p(2))
    assert found["text.log_count_word"] == pytest.approx(np.log1p(5))
    assert found["text.log_longest_word"] == pytest.approx(np.log1p(6))
    assert found["text.log_comma"] == pytest.approx(np.log(2))
    assert found["text.share_upper"] == pytest.approx(1 / 25)


def test_the_last_paragraph_counts_by_itself() -> None:
    found, alone = _of("Example 11111.\n\nWhat is 7?"), _of("What is 7?")
    for name in NAMES[len(NAMES) // 2 :]:
        assert found[name] == alone[name]
    assert found["text.log_longest_number"] > found["last_paragraph.log_longest_number"]


@given(st.lists(st.text(max_size=60), min_size=1, max_size=6))
def test_a_text_has_the_same_features_in_any_batch(texts: list[str]) -> None:
    together = text_features(texts)
    assert together.shape == (len(texts), len(NAMES))
    assert np.isfinite(together).all()
    np.testing.assert_array_equal(together, np.vstack([text_features([text]) for text in texts]))
